"""The seeds of episodes: each has one of its own, so that a server can play it again after a crash."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from overworld.service.extras import needs_extra

with needs_extra("gymnasium"):
    import gymnasium
    from gymnasium.utils.seeding import np_random

_SEEDS = 2**63


class Seeds:
    """The seeds of one env's episodes: a given one, and those drawn from the generator that it starts."""

    def __init__(self) -> None:
        self._generator, _ = np_random(None)

    def next(self, given: int | None) -> int:
        """`given`, or the next one drawn."""
        if given is None:
            return int(self._generator.integers(_SEEDS))
        self._generator, _ = np_random(given)
        return given


class SeededResets(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Resets `env` with a seed each time, as OverworldEnv and OverworldVectorEnv do.

    Stock Gymnasium continues the env's generator where a reset names no seed. Around a stock env, this makes it play
    the same episodes as the same env does through Overworld.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self._seeds = Seeds()

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """As the env's, with a seed drawn where there is none."""
        return self.env.reset(seed=self._seeds.next(seed), options=None if options is None else dict(options))
