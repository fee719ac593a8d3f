"""A slow link: a TCP proxy in a process of its own, which lets so many bits per second through, and counts them."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from multiprocessing.connection import Connection
from typing import Any

_CHUNK = 1 << 14


class Link:
    """A proxy for `address`, with `bits` per second in either direction; 0: as fast as it can."""

    def __init__(self, address: str, bits: float) -> None:
        context = multiprocessing.get_context("spawn")
        self._received = context.Value("Q", 0)
        ready, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(address, bits, self._received, theirs), daemon=True)
        self._process.start()
        self.address: str = ready.recv()

    @property
    def received(self) -> int:
        """Bytes that the server has sent so far."""
        return int(self._received.value)

    def close(self) -> None:
        """Cuts the link."""
        self._process.kill()
        self._process.join()


def _serve(address: str, bits: float, received: Any, ready: Connection) -> None:
    host, _, port = address.rpartition(":")

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, counted: bool) -> None:
        free = time.perf_counter()  # when the link has sent what it was given
        while data := await reader.read(_CHUNK):
            now = time.perf_counter()
            if bits:
                free = max(free, now) + len(data) * 8 / bits
                if free > now + 0.001:  # not for each packet: the clock is too coarse
                    await asyncio.sleep(free - now)
            if counted:
                received.value += len(data)
            writer.write(data)
            await writer.drain()
        writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(host, int(port), limit=_CHUNK)
        await asyncio.gather(pump(reader, back, False), pump(there, writer, True), return_exceptions=True)

    async def run() -> None:
        server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=_CHUNK)
        ready.send("{}:{}".format(*server.sockets[0].getsockname()))
        await server.serve_forever()

    asyncio.run(run())
