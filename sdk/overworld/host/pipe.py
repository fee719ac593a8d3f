"""The pipe between front and worker: length-prefixed messages over a socket, each a JSON header and a protobuf message.

front to worker   {"do": "open", "session", "client", "slots": [[slot, lane], ...], "frames", "nonce", "stride"} +
                  OpenRequest
                  {"do": "step", "session", "lanes": [lane of each command]} + StepRequest
                  {"do": "replay", "session", "lanes"} + StepRequest: resets with prefixes, whose images are hashed and
                  not shown
                  {"do": "close", "session"}
                  {"do": "ping"}: a job of lane 0 that does nothing
worker to front   {"is": "ready", "concurrency": {env: Concurrency}} + GetServerInfoResponse (envs and versions), or
                  {"is": "unable", "why"}
                  {"is": "opened", "session", "lanes", "error"} + OpenResponse (spec and options)
                  {"is": "results", "session", "lanes"} + StepResponse (a block per image: offsets in the file)
                  {"is": "replayed", "session", "lanes"} + StepResponse (no blocks)
                  {"is": "pong", "lanes"}

A ping, each command, and an open on each of its lanes are jobs. A lane does a session's jobs in the order in which they
were sent; `lanes` of an answer names the lane of each job that it answers.
"""

from __future__ import annotations

import asyncio
import json
import select
import socket
import struct
import threading
from collections.abc import Iterable
from typing import Any

from google.protobuf.message import Message

_LENGTHS = struct.Struct("<II")

Header = dict[str, Any]


def encode(header: Header, message: Message | None = None) -> bytes:
    """One message as bytes."""
    head = json.dumps(header).encode()
    body = b"" if message is None else message.SerializeToString()
    return b"".join((_LENGTHS.pack(len(head), len(body)), head, body))


async def read(reader: asyncio.StreamReader) -> tuple[Header, bytes]:
    """The next message. Raises asyncio.IncompleteReadError when the other side is gone."""
    head, body = _LENGTHS.unpack(await reader.readexactly(_LENGTHS.size))
    data = await reader.readexactly(head + body)
    return json.loads(data[:head].decode()), data[head:]


class Blocking:
    """The worker's end."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._arrivals = select.poll()
        self._arrivals.register(connection, select.POLLIN)
        self._sending = threading.Lock()

    @property
    def waiting(self) -> bool:
        """Whether there is something to receive."""
        return bool(self._arrivals.poll(0))

    def receive(self) -> tuple[Header, bytes] | None:
        """The next message; None when the front is gone."""
        lengths = self._read(_LENGTHS.size)
        if len(lengths) < _LENGTHS.size:
            return None
        head, body = _LENGTHS.unpack(lengths)
        data = self._read(head + body)
        return (json.loads(data[:head].decode()), data[head:]) if len(data) == head + body else None

    def _read(self, size: int) -> bytes:
        """So many bytes; fewer when the front is gone. None are read ahead, or `waiting` would not know of them."""
        pieces = []
        while size and (piece := self._connection.recv(size)):
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)

    def send(self, header: Header, message: Message | None = None) -> None:
        """Sends one message. Any thread may do so. Raises OSError when the front is gone."""
        self.send_all([(header, message)])

    def send_all(self, messages: Iterable[tuple[Header, Message | None]]) -> None:
        """As `send`, for messages that belong together."""
        data = b"".join(encode(header, message) for header, message in messages)
        with self._sending:
            self._connection.sendall(data)
