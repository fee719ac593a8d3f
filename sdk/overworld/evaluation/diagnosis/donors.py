"""Pictures of one episode, kept in little memory to be shown in another."""

from __future__ import annotations

from collections.abc import Sequence

import lz4.frame
import numpy as np

from overworld.authoring.env import Image, Pixels

_Kept = tuple[bytes, tuple[int, ...]]


class Film:
    """The pictures of an episode, by turn."""

    def __init__(self) -> None:
        self._turns: dict[int, list[_Kept]] = {}

    def __repr__(self) -> str:
        return f"Film({len(self._turns)} turns)"

    def add(self, turn: int, images: Sequence[Image]) -> None:
        """Keeps the pictures of a turn."""
        self._turns[turn] = [
            (lz4.frame.compress(np.ascontiguousarray(image.pixels).data), image.pixels.shape) for image in images
        ]

    def at(self, turn: int) -> list[Pixels]:
        """The pictures of that turn, or of the last one before it; none if the episode showed none."""
        kept = self._turns.get(turn)
        if kept is None:
            earlier = [one for one in self._turns if one < turn]
            kept = self._turns[max(earlier)] if earlier else []
        return [np.frombuffer(lz4.frame.decompress(data), np.uint8).reshape(shape) for data, shape in kept]
