"""What a large StepRequest holds, counted before it is parsed: an empty command of two bytes takes fifty in memory."""

from __future__ import annotations

from overworld.errors import ContractError, Reason
from overworld.service import bounds

LARGE_BYTES = 256 << 10
"""Smaller requests need not be looked at: they become some megabytes at most."""

_COMMANDS, _RESET, _PREFIX = 2, 4, 4
"""Numbers of StepRequest.commands, Command.reset and Reset.prefix."""
_OTHERS = 64
"""Fields of a message besides those that are counted; there may be unknown ones among them."""
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def check(request: bytes) -> None:
    """Raises ContractError for a request with too many commands, or with too many actions in prefixes."""
    try:
        commands = _parts(request, (0, len(request)), _COMMANDS, bounds.COMMANDS)
        bounds.COMMANDS.check(len(commands))
        actions = 0
        for command in commands:
            for reset in _parts(request, command, _RESET, _OTHERS):
                actions += len(_parts(request, reset, _PREFIX, bounds.PREFIXES - actions))
                bounds.PREFIXES.check(actions)
    except (IndexError, ValueError):
        raise ContractError(Reason.REQUEST_INVALID, "the request is not a StepRequest") from None


def _parts(data: bytes, span: tuple[int, int], number: int, most: int) -> list[tuple[int, int]]:
    """Where the values of a field are in the message at `span`; one more than `most` is enough.

    Raises ValueError or IndexError if there is no message.
    """
    found: list[tuple[int, int]] = []
    others = 0
    at, end = span
    while at < end and len(found) <= most:
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == _BYTES:
            size, at = _varint(data, at)
            start, at = at, at + size
            if tag >> 3 == number:
                found.append((start, at))
                continue
        elif kind == _VARINT:
            _, at = _varint(data, at)
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {kind}")
        others += 1
        if others > _OTHERS:
            raise ValueError("too many fields")
    if at > end:
        raise ValueError("a field ends past the end of its message")
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number and where it ends."""
    value = data[at]
    if value < 0x80:
        return value, at + 1
    value &= 0x7F
    for shift in range(7, 70, 7):
        at += 1
        value |= (data[at] & 0x7F) << shift
        if data[at] < 0x80:
            return value, at + 1
    raise ValueError("a number of more than ten bytes")
