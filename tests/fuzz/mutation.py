"""Damage to bytes, JSON and messages: what a broken or hostile sender may make of a good one."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

_NUMBERS = (0, 1, 2**7, 2**16, 2**31 - 1, 2**32 - 1, 2**53 + 1, 2**63 - 1, 2**64 - 1)
_REALS = (0.0, -1.0, 1e-320, 1e308, float("inf"), float("-inf"), float("nan"))
_TEXTS = ("", " ", "\0", "../../etc/passwd", "é" * 40, "\u202e", "９", "{}", "a" * 5000, "https://127.0.0.1/", "-1")
_VALUES: tuple[Any, ...] = (
    None, True, -1, 0.5, 10**400, *_NUMBERS, *_REALS, *_TEXTS, [], {}, [[]], {"": None}, [0] * 2000
)  # fmt: skip


def mutated_bytes(data: bytes, rng: random.Random) -> bytes:
    """With one to four places changed: bits, bytes, numbers, and parts left out, repeated, moved or cut off."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(out) + 1)
        end = min(len(out), at + rng.choice((1, 2, 4, 8, 64, 512)))
        change = rng.randrange(7)
        if change == 0 and at < len(out):
            out[at] ^= 1 << rng.randrange(8)
        elif change == 1:
            out[at:end] = rng.randbytes(end - at)
        elif change == 2:
            del out[at:end]
        elif change == 3:
            out[at:at] = out[at:end] * rng.choice((1, 1, 2, 50))
        elif change == 4:
            number = rng.choice(_NUMBERS) % 2 ** (8 * (end - at))
            out[at:end] = number.to_bytes(end - at, rng.choice(("little", "big")))
        elif change == 5:
            part = out[at:end]
            del out[at:end]
            place = rng.randrange(len(out) + 1)
            out[place:place] = part
        else:
            del out[at:]
    return bytes(out)


def mutated_json(data: bytes, rng: random.Random) -> bytes:
    """JSON with one to three values changed, left out, repeated, renamed or wrapped; or its bytes mutated."""
    if rng.random() < 0.2:
        return mutated_bytes(data, rng)
    root = [json.loads(data)]
    for _ in range(rng.randint(1, 3)):
        holder, key = rng.choice(_places(root))
        change = rng.randrange(6)
        if change == 0 and isinstance(holder, dict):
            holder[rng.choice(_TEXTS)] = holder.pop(key)
        elif change == 1 and holder is not root:
            del holder[key]
        elif change == 2 and isinstance(holder, list) and holder is not root:
            holder.extend([holder[key]] * rng.choice((1, 3, 300)))
        elif change == 3:
            for _ in range(rng.choice((1, 20, 400))):
                holder[key] = [holder[key]]
        elif change == 4:
            holder[key] = rng.choice(rng.choice(_places(root)))  # a holder, or a key
        else:
            holder[key] = rng.choice(_VALUES)
    try:
        return json.dumps(root[0]).encode(errors="surrogatepass")
    except (ValueError, RecursionError):  # it holds itself
        return mutated_bytes(data, rng)


def mutated_message(message: Message, rng: random.Random) -> bytes:
    """The wire form of a message with one to three fields, of it or of what it holds, changed; or its bytes mutated."""
    if rng.random() < 0.2 or not message.DESCRIPTOR.fields:
        return mutated_bytes(message.SerializeToString(), rng)
    changed = type(message)()
    changed.CopyFrom(message)
    for _ in range(rng.randint(1, 3)):
        holder: Message = changed
        while True:
            fields: list[Any] = list(holder.DESCRIPTOR.fields)
            field = fields[rng.randrange(len(fields))]
            inner = _inner(holder, field, rng)
            if inner is None:
                break
            holder = inner
        _change(holder, field, rng)
    return changed.SerializeToString()


def _places(value: Any) -> list[tuple[Any, Any]]:
    """(holder, key) of each value in a tree."""
    places: list[tuple[Any, Any]] = []
    stack = [value]
    while stack and len(places) < 10_000:
        holder = stack.pop()
        for key in list(holder) if isinstance(holder, dict) else range(len(holder)):
            places.append((holder, key))
            if isinstance(holder[key], dict | list):
                stack.append(holder[key])
    return places


def _inner(holder: Message, field: FieldDescriptor, rng: random.Random) -> Message | None:
    """A message within the field, to go on in."""
    if field.message_type is None or _is_map(field) or rng.random() < 0.1:
        return None
    if field.is_repeated:
        held = getattr(holder, field.name)
        return rng.choice(held) if held else None
    inner: Message = getattr(holder, field.name)
    return inner


def _change(holder: Message, field: FieldDescriptor, rng: random.Random) -> None:
    if rng.random() < 0.15 or _is_map(field):
        holder.ClearField(field.name)
        return
    if field.is_repeated:
        held = getattr(holder, field.name)
        if field.message_type is not None:
            for _ in range(rng.choice((1, 3, 100))):
                held.add().CopyFrom(held[0])
        else:
            held.extend([_value(field, rng)] * rng.choice((1, 3, 100)))
    elif field.message_type is not None:
        getattr(holder, field.name).SetInParent()
    else:
        setattr(holder, field.name, _value(field, rng))


def _value(field: FieldDescriptor, rng: random.Random) -> Any:
    kinds: dict[int, Callable[[], Any]] = {
        FieldDescriptor.CPPTYPE_INT32: lambda: rng.choice((0, 1, -1, 2**31 - 1, -(2**31))),
        FieldDescriptor.CPPTYPE_INT64: lambda: rng.choice((0, 1, -1, 2**63 - 1, -(2**63))),
        FieldDescriptor.CPPTYPE_UINT32: lambda: rng.choice(_NUMBERS) % 2**32,
        FieldDescriptor.CPPTYPE_UINT64: lambda: rng.choice(_NUMBERS),
        FieldDescriptor.CPPTYPE_DOUBLE: lambda: rng.choice(_REALS),
        FieldDescriptor.CPPTYPE_BOOL: lambda: rng.random() < 0.5,
        FieldDescriptor.CPPTYPE_ENUM: lambda: rng.choice((0, 1, 2, 3, 77, -1)),
    }
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        text = rng.choice(_TEXTS)
        return text.encode() if field.type == FieldDescriptor.TYPE_BYTES else text
    return kinds[field.cpp_type]()


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry
