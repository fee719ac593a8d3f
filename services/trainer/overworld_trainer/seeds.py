"""One seed at the top decides everything below it."""

from __future__ import annotations

import hashlib

_TRAINING_FLOOR = 1 << 32


def derive(seed: int, *names: int | str) -> int:
    """A seed of 63 bits for what `names` describe."""
    digest = hashlib.blake2b(repr((seed, *names)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def episode_seed(seed: int, env: int, slot: int, episode: int, *, slots_per_task: int = 1) -> int:
    """The env seed of a training episode: never below 2^32. Evaluations use seeds below, so that the two never meet.

    So many neighbouring slots play the same.
    """
    return derive(seed, "episode", env, slot // slots_per_task, episode) | _TRAINING_FLOOR
