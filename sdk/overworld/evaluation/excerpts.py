"""What a stranger's record says, for a person to read: short, and without characters that a terminal would obey."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel

_MAX_CHARS = 600


def excerpt_of(value: Any) -> str:
    """A value as JSON, shortened."""
    if isinstance(value, str):
        return excerpt(json.dumps(value[:_MAX_CHARS]))
    return excerpt(json.dumps(value, default=_plain))


def excerpt(text: str) -> str:
    """A text without control characters, of a bounded length."""
    cut = ascii(text[:_MAX_CHARS])[1:-1] if not text.isprintable() else text
    return cut if len(cut) <= _MAX_CHARS else f"{cut[:_MAX_CHARS]} ..."


def _plain(value: Any) -> Any:
    return value.model_dump(exclude_defaults=True) if isinstance(value, BaseModel) else str(value)
