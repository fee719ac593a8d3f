"""Seeds to learn from, seeds to choose by, and seeds to judge by: no task is in two of these parts."""

from __future__ import annotations

import enum
import random
from collections.abc import Iterator

from overworld.authoring.env import EnvSpec

_PARTS = 5
_SEEDS = 2**62


class Part(enum.Enum):
    """What seeds are for. The values are remainders of the task's number, or of the seed where tasks are endless."""

    TRAINING = (0, 1, 2)
    CHOICE = (3,)
    HELD_OUT = (4,)


def has_held_out_tasks(spec: EnvSpec) -> bool:
    """Whether the default split is endless or has enough tasks for each part."""
    size = spec.splits[spec.default_split]
    return size == 0 or size >= _PARTS


def seeds(spec: EnvSpec, part: Part, seed: int) -> Iterator[int]:
    """Endless seeds of a part, drawn by `seed`. With fewer than five tasks, all parts have all of them."""
    chance = random.Random(f"{part.name} {seed}")
    size = spec.splits[spec.default_split]
    while True:
        drawn = chance.randrange(_SEEDS)
        task = drawn % size if size else drawn
        if task % _PARTS in part.value or not has_held_out_tasks(spec):
            yield drawn
