"""Episodes played in many slots at once, by whoever chooses actions by their index in the vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from overworld.audit.stage import Stage
from overworld.authoring.env import End, Observation
from overworld.authoring.runner import Result
from overworld.client.moves import Move, Reset
from overworld.errors import EvaluationError

View = TypeVar("View")
"""What a player sees of an observation."""


@dataclass(frozen=True, slots=True)
class Job:
    """An episode to play: its seed, a number to know it by, and that of the player for whom it is played."""

    seed: int
    number: int = 0
    player: int = 0


@dataclass(slots=True, eq=False)
class Game(Generic[View]):
    """An episode in a slot. `turn` counts the actions so far, `total` is the sum of their rewards."""

    slot: int
    job: Job
    observation: Observation
    view: View
    turn: int = 0
    total: float = 0.0
    success: bool | None = None

    @property
    def over(self) -> bool:
        """Whether the episode has ended."""
        return self.success is not None


@dataclass(frozen=True, slots=True, eq=False)
class Step(Generic[View]):
    """A turn of a game."""

    game: Game[View]
    result: Result


@dataclass(frozen=True, slots=True)
class Episode:
    """What became of a job."""

    job: Job
    total: float
    success: bool
    turns: int


Act = Callable[[Sequence[Game[View]]], Sequence[int]]
"""Chooses an action in each of some games."""

See = Callable[[Observation, View | None], View]
"""Makes a view of an observation and of the view before, which is None at an episode's start."""


class Arena(Generic[View]):
    """Plays the jobs' episodes, as many at once as there are slots."""

    def __init__(self, stage: Stage, jobs: Iterable[Job], see: See[View]) -> None:
        self._stage = stage
        self._jobs = iter(jobs)
        self._see = see
        self.games: dict[int, Game[View]] = {}
        """Slot -> the game that runs there."""

    def tick(self, act: Act[View]) -> list[Step[View]]:
        """Acts in all games and starts new ones in the slots that are free.

        Nothing is returned when nothing was acted: before the first games, and after the last ones; then `games` is
        empty. Raises what `Stage.step` raises, and EvaluationError for an episode that failed inside the env.
        """
        playing = list(self.games.values())
        chosen = act(playing) if playing else []
        free = (slot for slot in range(self._stage.slots) if slot not in self.games)
        starting = dict(zip(free, self._jobs, strict=False))
        moves: dict[int, Move] = {game.slot: action for game, action in zip(playing, chosen, strict=True)}
        moves |= {slot: Reset(job.seed) for slot, job in starting.items()}
        results = moved(self._stage, moves) if moves else {}
        steps = [self._stepped(game, results[game.slot]) for game in playing]
        for slot, job in starting.items():
            observation = results[slot].observation
            self.games[slot] = Game(slot, job, observation, self._see(observation, None))
        return steps

    def _stepped(self, game: Game[View], result: Result) -> Step[View]:
        game.turn += 1
        game.total += result.reward
        game.observation = result.observation
        if result.end is not None:
            game.success = bool(result.success)
            del self.games[game.slot]
        if result.end is None or result.end is End.TIME_LIMIT:  # nobody asks for the view after an end of the task
            game.view = self._see(result.observation, game.view)
        return Step(game, result)


def moved(stage: Stage, moves: Mapping[int, Move]) -> dict[int, Result]:
    """Slot -> result of its move. Raises EvaluationError for an episode that failed inside the env."""
    results = stage.step(moves)
    for result in results.values():
        if result.error is not None:
            raise EvaluationError(
                f"{stage.spec.id}: an episode failed at turn {result.turn}: {result.error.reason}, "
                f"{result.error.message}; correct the env, `overworld check` shows how it fails"
            )
    return results


def unseen(observation: Observation, last: None) -> None:
    """The view of players who do not look."""


def play(arena: Arena[View], act: Act[View]) -> Iterator[Episode]:
    """Plays all jobs; their episodes, in the order in which they end."""
    while (steps := arena.tick(act)) or arena.games:
        for step in steps:
            game = step.game
            if game.over:
                yield Episode(game.job, game.total, bool(game.success), game.turn)
