"""The pipe between front and worker: length-prefixed messages over a socket, each a JSON header and a protobuf message.

front to worker   {"do": "open", "session", "slots", "frames", "nonce", "stride"} + OpenRequest
                  {"do": "step", "session"} + StepRequest
                  {"do": "replay", "session"} + StepRequest: resets with prefixes, whose images are hashed and not shown
                  {"do": "close", "session"}
                  {"do": "ping"}: a job that does nothing
worker to front   {"is": "ready"} + GetServerInfoResponse (envs and versions), or {"is": "unable", "why"}
                  {"is": "opened", "session", "jobs", "error"} + OpenResponse (spec and options)
                  {"is": "results", "session", "jobs"} + StepResponse (a block per image: offsets in the session's file)
                  {"is": "replayed", "session", "jobs"} + StepResponse (no blocks)
                  {"is": "pong", "jobs"}

An open, a ping and each command are jobs. A worker does its jobs in the order in which they were sent; `jobs` says how
many a message answers.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from typing import Any

from google.protobuf.message import Message

_LENGTHS = struct.Struct("<II")

Header = dict[str, Any]


def encode(header: Header, message: Message | None = None) -> bytes:
    """One message as bytes."""
    head = json.dumps(header, separators=(",", ":")).encode()
    body = b"" if message is None else message.SerializeToString()
    return b"".join((_LENGTHS.pack(len(head), len(body)), head, body))


async def read(reader: asyncio.StreamReader) -> tuple[Header, bytes]:
    """The next message. Raises asyncio.IncompleteReadError when the other side is gone."""
    head, body = _LENGTHS.unpack(await reader.readexactly(_LENGTHS.size))
    data = await reader.readexactly(head + body)
    return json.loads(data[:head]), data[head:]


class Blocking:
    """The worker's end."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._file = connection.makefile("rb")

    def receive(self) -> tuple[Header, bytes] | None:
        """The next message; None when the front is gone."""
        lengths = self._file.read(_LENGTHS.size)
        if len(lengths) < _LENGTHS.size:
            return None
        head, body = _LENGTHS.unpack(lengths)
        data = self._file.read(head + body)
        return (json.loads(data[:head]), data[head:]) if len(data) == head + body else None

    def send(self, header: Header, message: Message | None = None) -> None:
        """Sends one message. Raises OSError when the front is gone."""
        self._connection.sendall(encode(header, message))
