"""Which envs a run plays now: all at once, by a schedule, as they are mastered, or where most is being learnt.

Envs that differ in options, split or horizon are entries of `envs` of their own, so that a curriculum over any of these
is one over entries. What is decided follows from the env steps and from what was played before, at the border between
two rollouts: nothing is drawn, and a resumed run decides the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypedDict

from overworld_trainer.config import TrainerConfig
from overworld_trainer.episodes import EpisodeStatistics
from overworld_trainer.metrics import Metric, Metrics

_FAST, _SLOW = 0.5, 0.1
"""Weights of an update's mean in the two running means of an env."""
_EVEN = 0.2
"""Share of the slots that is spread by weight, whatever is being learnt."""


class EnvProgress(TypedDict):
    """An env's running means of return, in units of its reward scale, and of success; None before its first episode."""

    fast: float | None
    slow: float | None
    success: float | None


class Sampler:
    """Chooses the slots of each update. `state` and the constructor take it across a restart."""

    def __init__(self, config: TrainerConfig, state: Sequence[EnvProgress] | None = None) -> None:
        self._config = config
        self._progress: list[EnvProgress] = (
            [{"fast": None, "slow": None, "success": None} for _ in config.envs]
            if state is None
            else [one.copy() for one in state]
        )

    def __repr__(self) -> str:
        return f"Sampler({self._progress})"

    def state(self) -> list[EnvProgress]:
        """What the constructor needs to continue from here, as JSON."""
        return [one.copy() for one in self._progress]

    def slots(self, env_steps: int) -> list[int]:
        """How many of each env's slots, from the first on, play in the update that begins after so many env steps."""
        envs, size = self._config.envs, self._config.slots_per_task
        played = [self._is_played(number, env_steps) for number in range(len(envs))]
        room = [env.slots if plays else 0 for env, plays in zip(envs, played, strict=True)]
        total = self._config.sampling.slots
        if total is None or total >= sum(room):
            return room
        return [size * count for count in apportion(total // size, self._shares(played), [one // size for one in room])]

    def learn(self, episodes: Sequence[EpisodeStatistics], reward_scales: Sequence[float]) -> None:
        """Takes in the episodes that ended in an update."""
        for number, progress in enumerate(self._progress):
            own = [episode for episode in episodes if episode.env == number]
            if not own:
                continue
            height = math.fsum(episode.reward for episode in own) / len(own) / reward_scales[number]
            success = sum(episode.success for episode in own) / len(own)
            progress["fast"] = _moved(progress["fast"], height, _FAST)
            progress["slow"] = _moved(progress["slow"], height, _SLOW)
            progress["success"] = _moved(progress["success"], success, _FAST)

    def metrics(self, env_steps: int) -> Metrics:
        """How many slots of each env play; nothing of a run that always plays all of them."""
        if not self._config.is_sampled:
            return {}
        counts = self.slots(env_steps)
        metrics: Metrics = {Metric.PLAYED_SLOTS: sum(counts)}
        for env, count in zip(self._config.envs, counts, strict=True) if len(counts) > 1 else ():
            name = f"{Metric.PLAYED_SLOTS}/{env.id}"  # several of them may be one env with different options
            metrics[name] = metrics.get(name, 0.0) + count
        return metrics

    def _is_played(self, number: int, env_steps: int) -> bool:
        env = self._config.envs[number]
        if env.until_env_steps is not None and env_steps >= env.until_env_steps:
            return False
        if env.from_success is not None:
            reached = self._progress[number - 1]["success"]
            # Once it has been played it stays, even if the env before it is forgotten meanwhile.
            mastered = reached is not None and reached >= env.from_success
            if not mastered and self._progress[number]["fast"] is None:
                return False
        return env_steps >= env.from_env_steps

    def _shares(self, played: Sequence[bool]) -> list[float]:
        """What part of the slots each env is to have."""
        config = self._config
        weights = [env.share if plays else 0.0 for env, plays in zip(config.envs, played, strict=True)]
        even = [weight / sum(weights) for weight in weights]
        if config.sampling.by == "share":
            return even
        changes = [abs((one["fast"] or 0.0) - (one["slow"] or 0.0)) for one in self._progress]
        learnt = [weight * change for weight, change in zip(weights, changes, strict=True)]
        if not sum(learnt) > 0:
            return even
        return [_EVEN * one + (1 - _EVEN) * other / sum(learnt) for one, other in zip(even, learnt, strict=True)]


def apportion(total: int, shares: Sequence[float], room: Sequence[int]) -> list[int]:
    """`total` seats for those with a share: one each at least, then by D'Hondt's method, never more than there is room.

    Of equal claims the first one is met.
    """
    counts = [1 if share > 0 and places > 0 else 0 for share, places in zip(shares, room, strict=True)]
    while sum(counts) < min(total, sum(room)):
        claims = [
            share / (count + 1) if count < places else -1.0
            for share, count, places in zip(shares, counts, room, strict=True)
        ]
        counts[max(range(len(claims)), key=claims.__getitem__)] += 1
    return counts


def _moved(mean: float | None, value: float, weight: float) -> float:
    return value if mean is None else mean + weight * (value - mean)
