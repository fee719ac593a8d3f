"""What to do when the memory is full."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from overworld.errors import OverworldError


class OutOfMemoryError(OverworldError):
    """The device's memory is full; the message says which setting to lower, and to what."""


@contextlib.contextmanager
def needing(setting: str, value: int, *others: str) -> Iterator[None]:
    """Raises OutOfMemoryError if memory runs out within: `setting`, now `value`, decides how much is needed."""
    try:
        yield
    except RuntimeError as error:
        if not (isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)):
            raise
        advice = f"set {setting} = {max(value // 2, 1)} (it was {value})"
        if others:
            advice += f", or {', or '.join(others)}"
        raise OutOfMemoryError(f"the memory is full: {advice}. {str(error).splitlines()[0]}") from error
