"""The endpoint's port: uvicorn in the event loop of the env server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator
from typing import Any

from overworld.errors import ServiceError
from overworld.service import bounds
from overworld.service.connection import Connection, renew
from overworld.service.extras import needs_extra
from overworld.service.tls import TlsFolder

with needs_extra("openenv"):
    import uvicorn
    from starlette.types import ASGIApp
    from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
    from websockets.frames import Frame

_logger = logging.getLogger(__name__)

_STOP_SECONDS = 2
_PING_SECONDS, _PONG_SECONDS = 20.0, 40.0
"""Of WebSockets: a client that is gone gives its slot back after a minute."""
_STALL_SECONDS = 60.0
"""How long a client may take to read what it was sent."""
_MAX_FRAGMENTS = 1024
"""Of one message: empty ones do not count towards its size, and take memory, too."""


class Endpoint:
    """Serves `app` on a port. Raises ServiceError if it cannot be listened on."""

    def __init__(self, app: ASGIApp, host: str, port: int, tls: TlsFolder | None = None) -> None:
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
                ws=_Socket,
                ws_max_size=int(bounds.OPENENV_MESSAGE),
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


class _Socket(WebSocketsSansIOProtocol):
    """uvicorn's own WebSocket, but a client that does not read cannot make the server keep its answers forever."""

    _stalled: asyncio.TimerHandle | None = None

    def pause_writing(self) -> None:
        """The client reads more slowly than it is written to."""
        super().pause_writing()
        self._stalled = self.loop.call_later(_STALL_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """It has caught up."""
        self._stop_waiting()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is awaited any more."""
        self._stop_waiting()
        super().connection_lost(exc)

    def keepalive_timeout(self) -> None:
        """The client is gone; what was to be sent to it, too."""
        self.transport.abort()

    def handle_cont(self, event: Frame) -> None:
        """A further part of a message."""
        super().handle_cont(event)
        if len(self.frames) > _MAX_FRAGMENTS:
            self.transport.abort()

    async def send(self, message: Any) -> None:
        """As uvicorn's, but a client that does not answer the end of a connection loses what it has not read."""
        await super().send(message)
        if self.close_timer is not None:
            self.close_timer.cancel()
            self.close_timer = self.loop.call_later(self.close_timeout, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None


class _Server(uvicorn.Server):
    """Leaves signals to the env server."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
