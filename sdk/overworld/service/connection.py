"""HTTP connections of uvicorn: clients may not take for ever to say what they want, and TLS follows its folder."""

from __future__ import annotations

import asyncio
import contextlib
import ssl

from overworld.errors import SettingsError
from overworld.service import bounds
from overworld.service.extras import needs_extra
from overworld.service.tls import TlsFolder

with needs_extra("openenv"):
    import h11
    from uvicorn.protocols.http.h11_impl import H11Protocol

_LOOK_SECONDS = 1.0


class Connection(H11Protocol):
    """uvicorn's own protocol, which closes a connection when the head of a request is not complete in time.

    uvicorn limits only the silence between requests, so that whoever sends a byte now and then stays for ever. A head
    begins with its first byte; the connection's first one, when the connection is made.
    """

    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The first head is awaited."""
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """Perhaps the beginning or the rest of a head."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop_waiting()
        elif self._head_timer is None:
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is awaited any more."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _await_head(self) -> None:
        self._stop_waiting()
        self._head_timer = self.loop.call_later(bounds.HTTP_HEAD, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


async def renew(folder: TlsFolder, context: ssl.SSLContext) -> None:
    """Gives new connections the certificates that the folder has by then; former authorities stay trusted."""
    version = folder.version
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        if folder.files and folder.version != version:
            with contextlib.suppress(SettingsError):  # it has changed again just now
                folder.load(context)
                version = folder.version
