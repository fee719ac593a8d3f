"""The bodies of requests: kept only as far as they can be worth an answer, the large ones read at a bounded pace.

Whatever handles tens of megabytes at a stroke holds Python's lock for tens of milliseconds, in which no token is
written for anybody. So a body is looked at piece by piece as it arrives.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.types import Receive, Scope

from overworld_policy.errors import ApiError, bad_request

_SECONDS = 60.0
"""How long a client may take to send a request."""

_SMALL_BYTES = 1 << 20
_BYTES_PER_SECOND = 64 << 20
"""Of the large requests of all clients together: the rest of the event loop's time is for everyone else."""

_MAX_VALUES = 1 << 16
"""JSON values: thirty million bytes of `{},` are a gigabyte of objects, and seconds to make them."""

_MAX_TEXT_BYTES = 16 << 20
"""Of all strings but images: a context of a million tokens."""

_IMAGE = b"data:"


class Bodies:
    """Reads the bodies of requests of at most `bound` bytes."""

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._turn = asyncio.Lock()

    def __repr__(self) -> str:
        return f"Bodies(at most {self._bound:,} bytes)"

    async def read(self, scope: Scope, receive: Receive, hold: Callable[[int], None]) -> bytes:
        """A request's body. Raises ApiError for one that is too large, holds too much, or takes too long.

        `hold` is told how many bytes are kept, and may raise ApiError.
        """
        too_large = ApiError(
            413,
            f"the request is larger than {self._bound:,} bytes; send fewer or smaller images",
            code="request_too_large",
        )
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if announced.isdigit() and int(announced[:20]) > self._bound:
            raise too_large
        pieces: list[bytes] = []
        count, size = Count(), 0
        try:
            async with asyncio.timeout(_SECONDS):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ApiError(499, "the client has hung up", code="client_closed_request")
                    piece = message.get("body", b"")
                    size += len(piece)
                    if size > self._bound:
                        raise too_large
                    if count.refusal is None:
                        count.add(piece)
                        pieces.append(piece)
                    if count.refusal is None:
                        hold(size)
                    else:  # the rest is read, too: until they have sent it, most clients do not listen
                        pieces.clear()
                        hold(0)
                    if not message.get("more_body", False):
                        break
                    if size > _SMALL_BYTES:
                        async with self._turn:
                            await asyncio.sleep(len(piece) / _BYTES_PER_SECOND)
        except TimeoutError:
            raise ApiError(408, f"the request was not sent within {_SECONDS:g} s", code="request_timeout") from None
        if count.refusal is not None:
            raise count.refusal
        return b"".join(pieces)


class Count:
    """Counts what is in JSON that comes in pieces, without parsing it."""

    def __init__(self) -> None:
        self._values = self._quotes = self._text = 0
        self._inside = 0  # 1 between the quotes of a string
        self._opening = b""  # of that string
        self._escape = b""  # a backslash at the end of the piece before

    def __repr__(self) -> str:
        return f"Count({self._values} values, {self._quotes} quotes, {self._text:,} bytes of text)"

    @property
    def refusal(self) -> ApiError | None:
        """What to answer if it is too much."""
        if self._values > _MAX_VALUES or self._quotes > 4 * _MAX_VALUES:  # keys and values, both in quotes
            return bad_request(
                f"the body has more than {_MAX_VALUES:,} JSON values; send fewer messages, parts or other items",
                code="request_too_large",
            )
        if self._text > _MAX_TEXT_BYTES:
            return bad_request(
                f"the texts have more than {_MAX_TEXT_BYTES:,} bytes, more than any model takes; shorten them",
                code="context_length_exceeded",
                param="messages",
            )
        return None

    def add(self, piece: bytes) -> None:
        """Counts the next piece."""
        piece = self._escape + piece
        self._escape = b"\\" * ((len(piece) - len(piece.rstrip(b"\\"))) % 2)
        if b"\\" in piece:
            piece = piece[: len(piece) - len(self._escape)].replace(rb"\\", b"-").replace(rb"\"", b"-")
        parts = (self._opening + piece).split(b'"')
        outside, strings = b"".join(parts[self._inside :: 2]), parts[1 - self._inside :: 2]
        self._values += sum(map(outside.count, (b",", b"[", b"{")))
        self._quotes += len(parts) - 1
        self._text += sum(len(string) for string in strings if not string.startswith(_IMAGE))
        self._text -= 0 if self._opening.startswith(_IMAGE) else len(self._opening)  # counted with the piece before
        self._inside = (self._inside + len(parts) - 1) % 2
        self._opening = parts[-1][: len(_IMAGE)] if self._inside else b""
