"""Where two values of JSON differ."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def differing(one: Any, other: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(name with dots, value in the one, value in the other) of each field that differs; None: it has none."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted(one.keys() | other.keys()):
            yield from differing(one.get(key), other.get(key), f"{name}.{key}" if name else key)
    elif type(one) is not type(other) or one != other:
        yield name, one, other
