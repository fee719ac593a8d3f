"""`overworld policy runs=DIR ...`: serves checkpoints."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Iterator, Sequence

import uvicorn
from overworld.errors import ServiceError, SettingsError
from overworld.service import log
from overworld.service.addresses import is_loopback
from overworld.service.connection import Connection, renew
from overworld.service.malloc import give_freed_memory_back, keep_trimming
from overworld.service.tls import TlsFolder

from overworld_policy.config import PolicyServerConfig

_logger = logging.getLogger(__name__)

_GRACE_SECONDS = 30
_KEEP_ALIVE_SECONDS = 30
"""For which a connection without a request is kept: longer than clients keep theirs, since a server that closes at the
moment in which a client sends breaks the request. httpx, and so the openai package, keeps them for 5 s, uvicorn too.
"""
_DIED = 70
"""Exit status of a server that could not go on by its own fault: EX_SOFTWARE of sysexits.h."""


class _Server(uvicorn.Server):
    """Ends with status 0 on SIGTERM and SIGINT; uvicorn's own way is to die of the signal after all is done."""

    status = 0

    def give_up(self) -> None:
        """Ends with another status, from any thread."""
        self.status = _DIED
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield


def main(arguments: Sequence[str]) -> int:
    """Serves until a signal, or until the thread that writes replies dies."""
    config = PolicyServerConfig.load(arguments, "overworld policy")
    log.configure()
    give_freed_memory_back()
    if not os.access(config.runs, os.R_OK | os.X_OK):
        raise SettingsError(
            f"runs: {config.runs} is not there, or user {os.getuid()} cannot read it; mount the volume with the "
            "checkpoints there, or name their folder with runs=DIR"
        )
    folder = TlsFolder(config.tls, server=True) if config.tls else None
    context = folder.server_context(clients=config.client_certificates) if folder else None
    try:
        listener = socket.create_server((config.host, config.port))
    except OSError as error:
        raise ServiceError(f"cannot listen on {config.host}:{config.port}: {error}") from None
    if context is None and not is_loopback(config.host):
        _logger.warning(
            "plaintext: keys, prompts and replies cross the network as they are; publish this on loopback only"
        )
    # Connections inherit it, and asyncio does not set it on sockets made like this one.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # Only now: torch and transformers take seconds to import, which a wrong setting or --help need not wait for.
    import torch
    from overworld_vlm.load import quieten_transformers

    from overworld_policy.app import create_app

    quieten_transformers()
    if config.threads:
        torch.set_num_threads(config.threads)
    print(
        f"overworld policy: listening on {'https' if context else 'http'}://{config.host}:{listener.getsockname()[1]}/v1",
        flush=True,
    )
    app = create_app(config, lambda: server.give_up())
    server = _Server(
        uvicorn.Config(
            app,
            http=Connection,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=_GRACE_SECONDS,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            ssl_context_factory=(lambda *_: context) if context else None,
        )
    )

    async def run() -> None:
        tasks = [asyncio.create_task(keep_trimming())]
        if folder and context:
            tasks.append(asyncio.create_task(renew(folder, context)))
        await server.serve(sockets=[listener])
        for task in tasks:
            task.cancel()

    asyncio.run(run())
    return server.status
