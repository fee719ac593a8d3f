"""Actions of a Gymnasium env: words of a table, or numbers of the space's shape and bounds, as text or tensor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from overworld.authoring.env import ActionSpec
from overworld.authoring.numbers import read_numbers
from overworld.service.extras import needs_extra

with needs_extra("gymnasium"):
    from gymnasium import Space, spaces

_MAX_WORDS = 1024
"""Above it, the actions of a Discrete space are numbers in free text rather than a vocabulary."""
_MAX_NUMBERS = 1024
SENT_AS: Mapping[str, type[np.generic]] = {
    "int8": np.int32, "int16": np.int32, "uint16": np.int32, "uint32": np.int64, "float16": np.float32,
}  # fmt: skip
"""Element types that the contract lacks -> the smallest that holds their values."""
_BYTES_PER_NUMBER = 64


class Actions:
    """The actions of one action space, in words or, with `tensors`, as tensors.

    `words` is a table, word -> action; without one the actions are the numbers themselves, for example "3" or
    "0.5 -1". Raises ValueError for an action space, a word or an action that cannot be used.
    """

    def __init__(self, space: Space[Any], words: Mapping[str, Any], *, tensors: bool = False) -> None:
        if isinstance(space, spaces.Discrete):
            low, high = np.asarray(space.start), np.asarray(space.start + space.n - 1)
        elif isinstance(space, spaces.MultiDiscrete):
            low, high = space.start, space.start + space.nvec - 1
        elif isinstance(space, spaces.MultiBinary):
            low, high = np.zeros(space.shape, np.int8), np.ones(space.shape, np.int8)
        elif isinstance(space, spaces.Box):
            low, high = space.low, space.high
        else:
            raise ValueError(
                f"the action space {space} cannot be put in words; Discrete, MultiDiscrete, MultiBinary and Box can. "
                "Wrap the env in a gymnasium.ActionWrapper that gives it one of them"
            )
        if low.size > _MAX_NUMBERS:
            raise ValueError(f"an action has {low.size} numbers; at most {_MAX_NUMBERS} can be sent as text")
        self._low, self._high = low, high
        self._discrete = isinstance(space, spaces.Discrete)
        self._table: dict[str, Any] = {}
        if tensors:
            if self._discrete or words:
                what = "the words for actions are named, too" if words else f"the action space is {space}"
                raise ValueError(
                    f"tensor_actions: {what}; tensors are for Box, MultiDiscrete and MultiBinary, without words"
                )
            dtype = np.dtype(SENT_AS.get(low.dtype.name, low.dtype))
            self.spec = ActionSpec(low=low.astype(dtype), high=high.astype(dtype))
            return
        if not words and self._discrete and high - low < _MAX_WORDS:
            words = {str(number): number for number in range(int(low), int(high) + 1)}
        self._table = {word: self._listed(word, action) for word, action in words.items()}
        self.spec = ActionSpec(tuple(words)) if words else ActionSpec(max_text_bytes=_BYTES_PER_NUMBER * (low.size + 1))

    def executable(self, text: str) -> str | None:
        """The numbers in `text`, as `action` takes them; None if they are not an action of the space."""
        numbers = read_numbers(text, self._low.size)
        array = None if numbers is None else self._array(np.array(numbers).reshape(self._low.shape))
        return None if array is None else " ".join(_written(number) for number in array.flat)

    def action(self, resolved: str | NDArray[Any]) -> Any:
        """The action that a word of the table, a text that `executable` gave, or a tensor within the bounds means."""
        if isinstance(resolved, np.ndarray):
            return resolved.astype(self._low.dtype)
        if self._table:
            return self._table[resolved]
        return self._given(np.array([float(token) for token in resolved.split()]).reshape(self._low.shape))

    def _listed(self, word: str, action: Any) -> Any:
        try:
            given = self._given(np.asarray(action, np.float64))
        except (OverflowError, TypeError, ValueError):
            given = None
        if given is None or not word.strip():
            raise ValueError(
                f"actions: {word!r} is {action!r}; expected a word and numbers of shape {list(self._low.shape)} "
                f"from {self._low.tolist()} to {self._high.tolist()}"
            )
        return given

    def _given(self, numbers: NDArray[np.float64]) -> Any:
        """As the env's `step` takes it."""
        array = self._array(numbers)
        return int(array) if self._discrete and array is not None else array

    def _array(self, numbers: NDArray[np.float64]) -> NDArray[Any] | None:
        """The numbers in the space's element type; None if they are not in the space."""
        low, high = self._low, self._high
        if numbers.shape != low.shape or not np.isfinite(numbers).all():
            return None
        if low.dtype.kind == "f":
            with np.errstate(over="ignore"):
                numbers = numbers.astype(low.dtype)  # before it is compared: 0.1 is a bound that float32 rounds
        elif (numbers != np.round(numbers)).any():
            return None
        if not (np.isfinite(numbers) & (low <= numbers) & (numbers <= high)).all():
            return None
        return numbers.astype(low.dtype)


def _written(number: np.generic) -> str:
    if not isinstance(number, np.floating):
        return str(int(number))
    if abs(number) >= 1e16:
        return np.format_float_scientific(number, trim="-")
    return np.format_float_positional(number, trim="-")
