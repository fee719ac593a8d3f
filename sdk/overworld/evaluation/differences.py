"""Where two values of JSON differ."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any


def differing(one: Any, other: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(name with dots, value in the one, value in the other) of each field that differs; None: it has none."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted(one.keys() | other.keys()):
            yield from differing(one.get(key), other.get(key), f"{name}.{key}" if name else key)
    elif json.dumps(one, sort_keys=True) != json.dumps(other, sort_keys=True):  # in Python, 0 is False, and 0.0 is -0.0
        yield name, one, other
