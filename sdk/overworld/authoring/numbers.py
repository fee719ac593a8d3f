"""Numbers in the words of an agent."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

_PUNCTUATION = re.compile(r"[\[\](),;\s]+")
_NUMBER = re.compile(r"[+-]?(\d{1,40}\.?\d{0,40}|\.\d{1,40})(e[+-]?\d{1,3})?", re.ASCII | re.IGNORECASE)


def read_numbers(text: str, count: int) -> list[float] | None:
    """The numbers in "0.5 -1" or "[0.5, -1]"; None unless there are `count` of them and nothing else."""
    tokens = [token for token in _PUNCTUATION.split(text) if token]
    if len(tokens) != count or not all(_NUMBER.fullmatch(token) for token in tokens):
        return None
    return [float(token) for token in tokens]


def read_tensor(text: str, like: NDArray[Any]) -> NDArray[Any] | None:
    """The tensor of the type and shape of `like` whose elements, in C order, `text` names; None if it does not."""
    numbers = read_numbers(text, like.size)
    if numbers is None or (like.dtype.kind != "f" and any(number % 1 for number in numbers)):
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        array = np.array(numbers).reshape(like.shape)
        tensor = array.astype(like.dtype)
    exact = like.dtype.kind == "f" or np.array_equal(tensor, array)  # else a number is too large for the type
    return tensor if exact and np.isfinite(tensor).all() else None
