"""The endpoint's port: uvicorn in the event loop of the env server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator

from overworld.errors import ServiceError
from overworld.host.openenv.messages import MAX_MESSAGE_BYTES
from overworld.service.connection import Connection, renew
from overworld.service.extras import needs_extra
from overworld.service.tls import TlsFolder

with needs_extra("openenv"):
    import uvicorn
    import websockets as websockets  # which uvicorn would only miss when somebody connects
    from starlette.types import ASGIApp

_logger = logging.getLogger(__name__)

_STOP_SECONDS = 2
_PING_SECONDS, _PONG_SECONDS = 20.0, 40.0
"""Of WebSockets: a client that is gone gives its slot back after a minute."""


class Endpoint:
    """Serves `app` on a port. Raises ServiceError if it cannot be listened on."""

    def __init__(self, app: ASGIApp, host: str, port: int, tls: TlsFolder | None) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._listener = socket.create_server((host, port), family=family, backlog=128)
        except OSError as error:
            raise ServiceError(
                f"cannot serve OpenEnv on {host}:{port} ({error}); choose another --openenv-port"
            ) from None
        # Connections inherit it, and asyncio does not set it on sockets made like this one.
        self._listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        context = tls.server_context(clients=tls.files.authority is not None) if tls else None
        self._server = _Server(
            uvicorn.Config(
                app,
                http=Connection,
                ws="websockets-sansio",
                ws_max_size=MAX_MESSAGE_BYTES,
                ws_ping_interval=_PING_SECONDS,
                ws_ping_timeout=_PONG_SECONDS,
                ws_per_message_deflate=False,  # what is large is a PNG already
                lifespan="off",
                log_config=None,
                log_level=logging.WARNING,
                access_log=False,
                timeout_graceful_shutdown=_STOP_SECONDS,
                ssl_context_factory=(lambda *_: context) if context else None,
            )
        )
        _logger.info("OpenEnv: listening on %s://%s:%d", "https" if context else "http", host, port)
        self._tasks = [asyncio.create_task(self._server.serve(sockets=[self._listener]))]
        if tls and context:
            self._tasks.append(asyncio.create_task(renew(tls, context)))

    async def stop(self) -> None:
        """Hangs up on all connections."""
        self._server.should_exit = True
        serving, *others = self._tasks
        for task in others:
            task.cancel()
        await serving


class _Server(uvicorn.Server):
    """Leaves signals to the env server."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
