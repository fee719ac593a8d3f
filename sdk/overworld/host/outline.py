"""What a large StepRequest holds, counted before it is parsed: an empty command of two bytes takes fifty in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from overworld.errors import ContractError, Reason
from overworld.service import bounds

LARGE_BYTES = 256 << 10
"""Smaller requests need not be looked at: they become some megabytes at most."""

_SESSION, _COMMAND, _RESET, _ACTION, _PREFIX = 1, 2, 4, 5, 4
"""Numbers of StepRequest.session, StepRequest.commands, Command.reset, Command.action and Reset.prefix."""
_OTHERS = 64
"""Fields of a message besides those that are counted; there may be unknown ones among them."""
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class Room(NamedTuple):
    """How much a session takes of a request."""

    commands: int
    prefix: int


class _Part(NamedTuple):
    """A field with bytes: where they are."""

    number: int
    start: int
    end: int


def check(request: bytes, room: Callable[[str], Room]) -> None:
    """Raises ContractError for a request with more commands, or longer prefixes, than its session has room for.

    `room` gives that of the session with a name, or raises ContractError.
    """
    try:
        parts = _parts(request, _Part(0, 0, len(request)), {_SESSION, _COMMAND}, bounds.COMMANDS)
        bounds.COMMANDS.check(len(parts))
        names = [request[part.start : part.end] for part in parts if part.number == _SESSION]
        commands = [part for part in parts if part.number == _COMMAND]
        most = room(names[-1].decode() if names else "")
        if len(commands) > most.commands:
            raise _too_many("commands", len(commands), most.commands)
        actions = 0
        for command in commands:
            kinds = _parts(request, command, {_RESET, _ACTION}, _OTHERS)
            prefix = 0
            for kind in kinds:
                acts = [kind]
                if kind.number == _RESET:
                    acts = _parts(request, kind, {_PREFIX}, most.prefix)
                    prefix += len(acts)
                if prefix > most.prefix:
                    raise _too_many("actions in a prefix", prefix, most.prefix)
                for act in acts:
                    if act.end - act.start > 2 * _OTHERS:  # shorter ones cannot have as many fields
                        _parts(request, act, set(), 0)
            actions += prefix
            bounds.PREFIXES.check(actions)
    except (IndexError, ValueError):
        raise ContractError(Reason.REQUEST_INVALID, "the request is not a StepRequest") from None


def _too_many(what: str, count: int, most: int) -> ContractError:
    return ContractError(Reason.REQUEST_INVALID, f"{count} {what} or more; the session has room for {most}")


def _parts(data: bytes, whole: _Part, numbers: set[int], most: int) -> list[_Part]:
    """The fields with these numbers in the message at `whole`; one more than `most` is enough.

    Raises ValueError or IndexError if there is no message.
    """
    found: list[_Part] = []
    others = 0
    _, at, end = whole
    while at < end and len(found) <= most:
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == _BYTES:
            size, at = _varint(data, at)
            start, at = at, at + size
            if tag >> 3 in numbers:
                found.append(_Part(tag >> 3, start, at))
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
