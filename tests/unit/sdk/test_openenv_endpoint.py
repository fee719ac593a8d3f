"""Clients of the OpenEnv endpoint that do not read, or send what takes memory without being large."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from overworld.host.openenv import endpoint
from overworld.host.openenv.endpoint import Endpoint
from overworld.service import bounds

from tests.support.ports import free_port

HANDSHAKE = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
EMPTY_TEXT, EMPTY_PART = b"\x01\x80aaaa", b"\x00\x80aaaa"  # the first one opens a message, neither ends it


class App:
    """Accepts WebSockets and sends `size` bytes to each message; `ended` is set when a client is gone."""

    def __init__(self, size: int = 0) -> None:
        self.size = size
        self.ended = asyncio.Event()

    async def __call__(self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Any]) -> None:
        try:
            assert (await receive())["type"] == "websocket.connect"
            await send({"type": "websocket.accept"})
            while (await receive())["type"] == "websocket.receive":
                await send({"type": "websocket.send", "text": "x" * self.size})
        finally:
            self.ended.set()


async def connected(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    key = base64.b64encode(os.urandom(16))
    client = socket.create_connection(("127.0.0.1", port))
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    reader, writer = await asyncio.open_connection(sock=client, limit=1024)
    writer.write(HANDSHAKE + b"Sec-WebSocket-Key: " + key + b"\r\n\r\n")
    assert b"101" in await reader.readline()
    return reader, writer


def served(app_size: int, play: Callable[[App, int], Awaitable[None]]) -> None:
    """Has `play(app, port)` play with an endpoint."""

    async def run() -> None:
        port = free_port()
        app = App(app_size)
        end = Endpoint(app, "127.0.0.1", port)
        try:
            async with asyncio.timeout(20):
                await play(app, port)
        finally:
            await end.stop()

    asyncio.run(run())


def test_a_client_that_does_not_read_loses_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "_STALL_SECONDS", 0.3)

    async def play(app: App, port: int) -> None:
        _, writer = await connected(port)
        for _ in range(2):  # the second answer waits for the first one to be read
            writer.write(b"\x81\x80aaaa")
        await app.ended.wait()
        writer.close()

    served(16 << 20, play)


def test_a_client_that_answers_no_pings_loses_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "_PING_SECONDS", 0.2)
    monkeypatch.setattr(endpoint, "_PONG_SECONDS", 0.2)

    async def play(app: App, port: int) -> None:
        _, writer = await connected(port)
        writer.write(b"\x81\x80aaaa")  # its answer is still to be sent when the pong is missed
        await app.ended.wait()
        writer.close()

    served(16 << 20, play)


def test_a_message_of_empty_parts_ends_its_connection() -> None:
    async def play(app: App, port: int) -> None:
        _, writer = await connected(port)
        writer.write(EMPTY_TEXT + EMPTY_PART * 500)
        await asyncio.sleep(0.2)
        assert not app.ended.is_set()
        writer.write(EMPTY_PART * 1000)
        await app.ended.wait()
        writer.close()

    served(0, play)


def test_a_connection_outlives_the_time_that_its_handshake_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "HTTP_HEAD", 0.3)

    async def play(app: App, port: int) -> None:
        _, writer = await connected(port)
        silent, held = await asyncio.open_connection("127.0.0.1", port)
        assert await silent.read() == b""  # it has asked for nothing
        held.close()
        assert not app.ended.is_set()
        writer.close()
        await app.ended.wait()

    served(0, play)
