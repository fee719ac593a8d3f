"""Taking recorded episodes up again: any turn of any of them, in as many slots as wanted, exactly as it was.

    with Branching(EpisodeFolder(path), ["127.0.0.1:50051"], slots=32) as branching:
        point = branching.point(7, 12)             # episode 7, where turn 12 is to be decided
        results = branching.take_up([point] * 32)  # 32 live slots, which branching.fleet steps on
        (outlook,) = branching.play(agent, [point], times=32, recipe=recipe)
        outlook.success, outlook.value(gamma=0.99)

Nothing that differs from the record is played: an EvaluationError names the first turn that does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Self

from overworld.authoring.env import Outcome
from overworld.authoring.runner import Result
from overworld.client.moves import Reset
from overworld.errors import EvaluationError
from overworld.evaluation.conversation import Conversation, Recipe
from overworld.evaluation.episodes import Episode, action_of, action_record
from overworld.evaluation.evaluate import evaluate
from overworld.evaluation.excerpts import excerpt, excerpt_of
from overworld.evaluation.folder import EpisodeFolder
from overworld.evaluation.model import Agent
from overworld.evaluation.provenance import draws_the_same, other_provenance
from overworld.evaluation.replay import Replay, fleet_of, replayed
from overworld.evaluation.statistics import Interval, paired_difference, wilson
from overworld.registry import Registry
from overworld.service.credentials import Credentials

_STRETCH = 8
"""Turns that are replayed one by one in a slot; more of them are shared among slots that are free anyway."""
_MAX_NAMED = 3


@dataclass(frozen=True, slots=True)
class Point:
    """Where turn `turn` of the episode in line `number` of a folder is to be decided. Turns and lines count from 0."""

    number: int
    episode: Episode
    turn: int

    @property
    def reset(self) -> Reset:
        """The reset that leads there."""
        return self.episode.reset_at(self.turn)

    def __str__(self) -> str:
        return f"turn {self.turn} of episode {self.number} (seed {self.episode.seed})"


@dataclass(frozen=True, slots=True)
class Outlook:
    """How episodes went on from a point; their rewards are those that came after it. Intervals are of 95 %."""

    episodes: Sequence[Episode]

    @property
    def success(self) -> Interval:
        """The share that succeeded, with Wilson's interval."""
        return wilson(sum(episode.success for episode in self.episodes), len(self.episodes))

    def value(self, gamma: float = 1.0) -> Interval:
        """The mean return, discounted by `gamma` a turn, with a bootstrap interval: a Monte Carlo value of the point.

        An episode that broke off counts with the rewards that it had.
        """
        returns = []
        for episode in self.episodes:
            total = 0.0
            for turn in reversed(episode.turns):
                total = turn.reward + gamma * total
            returns.append(total)
        return paired_difference([0.0] * len(returns), returns)


class Branching:
    """A folder's episodes, and `slots` slots on env servers that play its env as it was played.

    `expert` asks for the expert's advice in those slots. Raises what `Fleet` raises, and EvaluationError where a server
    is of another provenance than the record. `frames_comparable` says whether frames are compared, too: a server with
    another renderer may draw them otherwise.
    """

    def __init__(
        self,
        folder: EpisodeFolder,
        servers: Registry | Sequence[str],
        slots: int,
        *,
        expert: bool = False,
        credentials: Credentials | None = None,
        compress: bool = False,
        timeout: float = 60.0,
    ) -> None:
        self.folder = folder
        self.fleet = fleet_of(
            folder, servers, slots, expert=expert, credentials=credentials, compress=compress, timeout=timeout
        )
        specs = self.fleet.specs
        self.frames_comparable = all(draws_the_same(folder.spec, spec) for spec in specs.values())
        for address, spec in specs.items():
            if other := other_provenance(folder.spec, spec):
                self.fleet.close()
                raise EvaluationError(
                    f"the server {address} is of another provenance than the episodes ({excerpt(other)}), so they may "
                    "go another way there: branch on a server of the recorded provenance"
                )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Branching of {self.folder.path} in {self.fleet!r}>"

    def point(self, number: int, turn: int) -> Point:
        """A turn of an episode, after all that led there was replayed turn by turn and found to be as recorded.

        Raises EvaluationError if it was not, and if there is no such episode, or no decision was taken in that turn.
        """
        point = Point(number, self.folder.episode(number), turn)
        decided = len(point.episode.turns)
        if not 0 <= turn < decided:
            raise EvaluationError(
                f"episode {number} has no decision in turn {turn}: "
                + (f"name one of its turns 0 to {decided - 1}" if decided else "it has no turns, name another one")
            )
        self._confirm(point)
        return point

    def take_up(self, points: Sequence[Point]) -> list[Result]:
        """Brings slots 0, 1, ... to these points; what each shows now.

        Raises EvaluationError if that is not what was recorded, and what the fleet raises.
        """
        results = list(self.fleet.step([point.reset for point in points]))
        for point, result in zip(points, results, strict=True):
            self._land(point, result)
        return results

    def play(
        self,
        agent: Agent,
        points: Sequence[Point],
        *,
        times: int,
        recipe: Recipe,
        keep: Path | None = None,
        overwrite: bool = False,
        on_progress: Callable[[int], None] = lambda done: None,
    ) -> list[Outlook]:
        """Has an agent play on from each point, `times` times with other noise each; what came of each point.

        The agent is shown the history that its recipe wants; `keep` and `overwrite` are those of `evaluate`, and the
        episodes begin with the point's actions as their prefix. Raises what `evaluate` raises, and EvaluationError
        where a point cannot be taken up as it was recorded.
        """
        by_task = {_name(point.reset): point for point in points}
        first = 1 + max(point.episode.sample for point in points)  # so that no branch has the record's own noise

        def opening(task: Reset, result: Result) -> Conversation:
            point = by_task[_name(task)]
            self._land(point, result)
            return self.conversation(point, recipe)

        _, episodes = evaluate(
            agent, self.fleet, [point.reset for point in by_task.values()],
            recipe=recipe, samples=range(first, first + times),
            keep=keep, overwrite=overwrite, on_progress=on_progress, opening=opening,
        )  # fmt: skip
        played: dict[str, list[Episode]] = {}
        for episode in episodes:
            played.setdefault(_name(episode.reset_at(0)), []).append(episode)
        return [Outlook(played[_name(point.reset)]) for point in points]

    def conversation(self, point: Point, recipe: Recipe) -> Conversation:
        """What an agent with this recipe would have been shown before the point. Raises EvaluationError.

        What another agent was shown in place of frames, as a control, is not.
        """
        conversation = Conversation(self.folder.spec, recipe)
        episode = point.episode
        for number in range(_first_shown(point, recipe.history), point.turn):
            before = episode.turns[number - 1] if number else None
            conversation.observe(
                Result(
                    slot=0,
                    episode=0,
                    turn=len(episode.prefix) + number,
                    observation=self.folder.observation(episode.turns[number].observation),
                    outcome=None if before is None else Outcome[before.outcome.upper()],
                    executed=None if before is None else action_of(before.executed),
                )
            )
        return conversation

    def close(self) -> None:
        """Frees the slots."""
        self.fleet.close()

    def _land(self, point: Point, result: Result) -> None:
        """Raises EvaluationError if this is not what was seen at the point."""
        replay = self._replay(point, point.turn, point.turn)
        replay.take(result)
        _refuse(point, replay)

    def _replay(self, point: Point, start: int, stop: int) -> Replay:
        return Replay(point.number, point.episode, frames_comparable=self.frames_comparable, start=start, stop=stop)

    def _confirm(self, point: Point) -> None:
        """Replays what led to the point, in stretches side by side: each begins where the one before it ends."""
        stretches = max(1, min(len(self.fleet), point.turn // _STRETCH))
        bounds = [point.turn * number // stretches for number in range(stretches + 1)]
        replays = [self._replay(point, start, stop) for start, stop in pairwise(bounds)]
        found = [one for one in replayed(self.fleet, replays) if one.mismatches or one.unrepeatable]
        if found:
            _refuse(point, min(found, key=lambda replay: replay.mismatches[0].turn if replay.mismatches else -1))


def _first_shown(point: Point, history: int) -> int:
    """The first turn before the point that a conversation with this history still knows at the point."""
    known = 0
    for number in reversed(range(point.turn)):
        skipped = number > 0 and point.episode.turns[number - 1].executed is None
        known += not skipped  # what a skipped turn shows takes the place of what was shown before it
        if known == history:
            return number
    return 0


def _name(task: Reset) -> str:
    """What tells two points apart."""
    actions = [action_record(action) for action in task.prefix]
    return repr((task.seed, task.split, task.task, actions))


def _refuse(point: Point, replay: Replay) -> None:
    """Raises EvaluationError if a replay that leads to the point was not as recorded."""
    if replay.unrepeatable:
        raise EvaluationError(f"{point} cannot be taken up here: {excerpt(replay.unrepeatable)}; try again")
    if not replay.mismatches:
        return
    first = replay.mismatches[0].turn
    differing = "; ".join(
        f"{one.field} was recorded as {excerpt_of(one.recorded)}, the server gave {excerpt_of(one.replayed)}"
        for one in replay.mismatches[:_MAX_NAMED]
    )
    raise EvaluationError(
        f"{point} cannot be taken up: turn {first} is not as it was recorded ({differing}); `overworld verify` checks "
        "the whole folder"
    )
