"""Episodes as an audit keeps them: what was sent and what came back, pictures by their hashes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from overworld.audit.stage import Stage
from overworld.authoring.env import Action, End, EnvSpec, Outcome, Pixels
from overworld.authoring.runner import Result
from overworld.client.moves import Act, Move, Reset
from overworld.contract.frames import pixels_hash

Picture = tuple[str, tuple[int, ...], int]
"""Name, shape and XXH64 of an image."""

_FRAMES = 24
"""Pictures of an episode that are kept at most."""


@dataclass(slots=True, kw_only=True)
class Turn:
    """What a reset or an action gave."""

    text: str
    pictures: tuple[Picture, ...]
    admissible: tuple[str, ...]
    tensors: dict[str, NDArray[Any]]
    reward: float
    end: End | None
    success: bool | None
    metrics: dict[str, float]
    outcome: Outcome | None
    executed: Action | None
    advice: str | None
    error: str
    number: int

    @property
    def terminal(self) -> bool:
        """Whether the episode ended here in a state of the task."""
        return self.end is End.TASK

    @property
    def look(self) -> tuple[Any, ...]:
        """What the agent sees, in a form that can be compared."""
        tensors = tuple((name, array.tobytes()) for name, array in self.tensors.items())
        return self.pictures, self.text, self.admissible, tensors

    def differs(self, other: Turn, *, pixels: bool = True) -> tuple[str, Any, Any] | None:
        """Name and values of the first thing that differs; None if both turns are the same but for the advice."""
        for name in ("pictures", "text", "admissible", "tensors", "reward", "end", "success", "metrics", "outcome"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if name == "tensors":
                mine, theirs = _listed(mine), _listed(theirs)
            if name == "pictures" and not pixels:
                mine, theirs = ([picture[:2] for picture in pictures] for pictures in (mine, theirs))
            if mine != theirs:
                return name, mine, theirs
        return None


def _listed(tensors: dict[str, NDArray[Any]]) -> list[Any]:
    return [(name, array.dtype.str, array.tolist()) for name, array in tensors.items()]


@dataclass(slots=True)
class Episode:
    """One episode, or a part of one: `turns[0]` is what its reset gave, `moves[n]` led to `turns[n + 1]`."""

    player: str
    seed: int
    split: str
    task: int | None
    prefix: tuple[Action | None, ...] = ()
    moves: list[Action | None] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    frames: list[tuple[int, Pixels]] = field(default_factory=list)

    @property
    def ended(self) -> bool:
        """Whether it came to an end of the env's or the host's."""
        return bool(self.turns) and self.turns[-1].end is not None

    @property
    def success(self) -> bool:
        """Whether it ended with success."""
        return bool(self.turns) and self.turns[-1].success is True

    @property
    def total(self) -> float:
        """Sum of its rewards."""
        return sum(turn.reward for turn in self.turns)

    @property
    def error(self) -> str:
        """Why its slot failed; '' if it did not."""
        return self.turns[-1].error if self.turns else ""

    def differs(self, other: Episode, *, pixels: bool = True) -> tuple[int, str, Any, Any] | None:
        """Turn and what differs first from an episode that was played in the same way, as far as both go; None if
        nothing does."""
        for number, (mine, theirs) in enumerate(zip(self.turns, other.turns, strict=False)):
            if difference := mine.differs(theirs, pixels=pixels):
                return number, *difference
            if number < min(len(self.moves), len(other.moves)) and not same(self.moves[number], other.moves[number]):
                return None  # it was played in another way, though it looked the same
        return None


def same(one: Action | None, other: Action | None) -> bool:
    """Whether two actions are the same."""
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return isinstance(one, np.ndarray) and isinstance(other, np.ndarray) and np.array_equal(one, other)
    return one == other


class StopPlayingError(Exception):
    """A player has nothing more to do in this episode."""


Player = Callable[[EnvSpec, Episode, Random], Move]
"""Chooses the next move of an episode from its last turn. Raises StopPlayingError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """An episode to be played."""

    name: str
    player: Player
    seed: int
    turns: int
    split: str = ""
    task: int | None = None
    prefix: Sequence[Action | None] = ()
    chance: str = ""
    """What the player's chance depends on."""
    keep: bool = False
    """Whether pictures are kept."""


def play(stage: Stage, jobs: Iterable[Job], *, until: Callable[[], bool] = lambda: False) -> list[Episode]:
    """Plays the jobs, as many at a time as there are slots, in order. Those that `until` cuts off are left out."""
    waiting = deque(enumerate(jobs))
    done: dict[int, Episode] = {}
    running: dict[int, tuple[int, Job, Episode, Random]] = {}
    while (waiting or running) and not until():
        moves: dict[int, Move] = {}
        for slot in range(stage.slots):
            if slot in running:
                number, job, episode, chance = running[slot]
                last = episode.turns[-1]
                if last.end is None and not last.error and len(episode.moves) < job.turns:
                    try:
                        moves[slot] = move = job.player(stage.spec, episode, chance)
                        episode.moves.append(move.action if isinstance(move, Act) else move)  # type: ignore[arg-type]
                        continue
                    except StopPlayingError:
                        pass
                done[number] = episode
                del running[slot]
            if waiting:
                number, job = waiting.popleft()
                episode = Episode(job.name, job.seed, job.split, job.task, tuple(job.prefix))
                running[slot] = (number, job, episode, Random(job.chance))
                moves[slot] = Reset(job.seed, job.split, job.task, job.prefix)
        for slot, result in stage.step(moves).items():
            _, job, episode, _ = running[slot]
            episode.turns.append(_turn(result))
            if job.keep and len(episode.frames) < _FRAMES and result.observation.images:
                episode.frames.append((result.turn, result.observation.images[0].pixels.copy()))
    done |= {number: episode for number, _, episode, _ in running.values() if episode.ended or episode.error}
    return [done[number] for number in sorted(done)]


def _turn(result: Result) -> Turn:
    look = result.observation
    return Turn(
        text=look.text,
        pictures=tuple(
            (image.name, image.pixels.shape, pixels_hash(image.pixels) if image.xxh64 is None else image.xxh64)
            for image in look.images
        ),
        admissible=tuple(look.admissible),
        tensors={name: array.copy() for name, array in sorted(look.tensors.items())},
        reward=float(result.reward),
        end=result.end,
        success=None if result.success is None else bool(result.success),
        metrics={name: float(value) for name, value in sorted(result.metrics.items())},
        outcome=result.outcome,
        executed=result.executed,
        advice=None if result.expert is None else result.expert.action,
        error="" if result.error is None else f"{result.error.reason}: {result.error.message}",
        number=result.turn,
    )
