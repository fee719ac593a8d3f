"""Replaying recorded episodes without the agent, and comparing what comes with what was recorded."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from overworld.authoring.runner import Fallback, Result
from overworld.client.fleet import Fleet
from overworld.client.moves import Act, Move
from overworld.errors import ContractError, EvaluationError, Reason
from overworld.evaluation.episodes import Episode, ImageRecord, ObservationRecord, action_of, action_record, problem
from overworld.evaluation.folder import EpisodeFolder
from overworld.registry import Registry
from overworld.service.credentials import Credentials

_PASSING = (Reason.STEP_TIMEOUT.name, Reason.WORKER_DIED.name, Reason.REBUILD_MISMATCH.name)
"""Failures that depend on the machine, so that a replay need not repeat them."""
_OF_THE_RECORD = (
    Reason.REQUEST_INVALID, Reason.SPLIT_UNKNOWN, Reason.TASK_UNKNOWN, Reason.ACTION_TOO_LARGE,
)  # fmt: skip
"""Refusals that say that what was recorded cannot have been played."""


class Mismatch(NamedTuple):
    """A field of a record that is not what the replay gave."""

    turn: int
    field: str
    recorded: Any
    replayed: Any


class Replay:
    """An episode that is being replayed, from turn `start` to turn `stop` (None: to the end). Turns are those of the
    record, from 0.

    A replay ends at the first turn that does not fit: what comes after follows from it.

    mismatches      What does not fit, all of one turn.
    unrepeatable    The failure, of the record or of the replay, that the other one lacks, if it depends on the machine.
    frames          Pictures that were shown in both.
    over            Whether there is no move left.
    """

    def __init__(
        self, number: int, episode: Episode, *, frames_comparable: bool, start: int = 0, stop: int | None = None
    ) -> None:
        self.number = number
        self.episode = episode
        self.mismatches: list[Mismatch] = []
        self.unrepeatable = ""
        self.frames = 0
        self.over = False
        self._comparable = frames_comparable
        self._start = start
        self._stop = len(episode.turns) if stop is None else stop
        self._turn = start - 1  # the number of actions that led to the last result

    def __repr__(self) -> str:
        return f"Replay(episode {self.number}, turn {self._turn} of {len(self.episode.turns)})"

    def move(self) -> Move:
        """What to do next: the reset, then the actions."""
        if self._turn < self._start:
            return self.episode.reset_at(self._start)
        return Act(action_of(self.episode.turns[self._turn].action))

    def take(self, answer: Result | ContractError) -> None:
        """Compares what came of the move: a result, or that the server refused it."""
        self._turn += 1
        last = self._turn == len(self.episode.turns)
        if isinstance(answer, ContractError):
            field = "action" if self._turn > self._start else "reset"
            self._differs(field, "was played", f"is refused: {answer}", turn=max(self._turn - 1, 0))
        else:
            self._compare_failure(answer, expected=last and self._failed)
            if not self.mismatches and not self.unrepeatable:
                if answer.error is None:
                    self._compare(answer, last=last)
                elif last and self._turn:
                    self._compare_turn(answer, "failed")
        failed = isinstance(answer, ContractError) or answer.error is not None
        self.over = self._turn == self._stop or failed or bool(self.mismatches or self.unrepeatable)

    @property
    def _failed(self) -> bool:
        turns = self.episode.turns
        return bool(self.episode.error) and (not turns or turns[-1].outcome == "failed")

    def _differs(self, field: str, recorded: Any, replayed: Any, turn: int | None = None) -> None:
        self.mismatches.append(Mismatch(self._turn if turn is None else turn, field, recorded, replayed))

    def _compare_failure(self, result: Result, *, expected: bool) -> None:
        recorded = self.episode.error.partition(":")[0] if expected else ""
        replayed = "" if result.error is None else result.error.reason
        if recorded == replayed:
            return
        if recorded in _PASSING or replayed in _PASSING:
            self.unrepeatable = f"recorded: {recorded or 'no failure'}, replayed: {replayed or 'no failure'}"
            return
        self._differs("error", recorded or None, replayed or None, turn=max(self._turn - 1, 0))

    def _compare(self, result: Result, *, last: bool) -> None:
        """Compares what the last action led to, and what is observed now."""
        episode = self.episode
        if self._turn:
            self._compare_turn(result, None if result.outcome is None else result.outcome.name.lower())
        end, replayed_end = episode.end if last else None, None if result.end is None else result.end.name
        if last and episode.error:  # it broke off, though no turn failed
            self._differs("error", episode.error, None)
        elif end != replayed_end:
            self._differs("end", end, replayed_end)
        elif last and episode.success != bool(result.success):
            self._differs("success", episode.success, bool(result.success))
        recorded_observation = episode.final if last else episode.turns[self._turn].observation
        if recorded_observation is not None:
            self._compare_observations(recorded_observation, result)

    def _compare_turn(self, result: Result, outcome: str | None) -> None:
        """Compares what the last action led to."""
        turn = self.episode.turns[self._turn - 1]
        fields = {
            "outcome": (turn.outcome, outcome),
            "executed": (turn.executed, action_record(result.executed)),
            "reward": (turn.reward, result.reward),
            "metrics": (turn.metrics, dict(result.metrics)),
        }
        for field, (recorded, replayed) in fields.items():
            if recorded != replayed or _signs(recorded) != _signs(replayed):
                self._differs(field, recorded, replayed, turn=self._turn - 1)

    def _compare_observations(self, recorded: ObservationRecord, result: Result) -> None:
        try:
            replayed = ObservationRecord.of(result.observation)
        except ValueError as error:
            raise EvaluationError(f"the server showed what the format cannot hold: {problem(error)}") from None
        if len(recorded.parts) != len(replayed.parts):
            self._differs("observation.parts", f"{len(recorded.parts)} parts", f"{len(replayed.parts)} parts")
        for number, (one, other) in enumerate(zip(recorded.parts, replayed.parts, strict=False)):
            if isinstance(one, ImageRecord) and isinstance(other, ImageRecord):
                self.frames += 1
                if not self._comparable:
                    one = one.model_copy(update={"xxh64": other.xxh64})
            if one != other:
                self._differs(f"observation.parts.{number}", one, other)
        for field in ("admissible", "tensors"):
            if getattr(recorded, field) != getattr(replayed, field):
                self._differs(f"observation.{field}", getattr(recorded, field), getattr(replayed, field))


def _signs(value: Any) -> Any:
    """What tells 0.0 and -0.0 apart, which are equal; None where there are no such numbers."""
    if isinstance(value, dict):
        return {name: _signs(member) for name, member in value.items()}
    return math.copysign(1, value) if isinstance(value, float) else None


def fleet_of(
    folder: EpisodeFolder,
    servers: Registry | Sequence[str],
    slots: int,
    *,
    expert: bool = False,
    credentials: Credentials | None = None,
    compress: bool = False,
    timeout: float = 60.0,
    copy: bool = True,
) -> Fleet:
    """Slots in which the folder's episodes can be replayed. Raises what `Fleet` raises."""
    header = folder.header
    return Fleet(
        servers, folder.spec.id, slots, options=header.options, fallback=Fallback[header.fallback],
        fallback_reward=header.fallback_reward, expert=expert, credentials=credentials, compress=compress,
        retry_budget=timeout, copy=copy,
    )  # fmt: skip


def replayed(fleet: Fleet, replays: Iterable[Replay]) -> Iterator[Replay]:
    """Plays as many at a time as the fleet has slots; gives each one when it is over. Raises what the fleet raises."""
    waiting = iter(replays)
    free = list(range(len(fleet)))
    playing: dict[int, Replay] = {}
    moves: dict[int, Move] = {}
    while True:
        while free and (replay := next(waiting, None)) is not None:
            slot = free.pop()
            playing[slot], moves[slot] = replay, replay.move()
        if not moves:
            return
        for slot, answer in _answers(fleet, moves):
            replay = playing[slot]
            replay.take(answer)
            if replay.over:
                del playing[slot]
                free.append(slot)
                yield replay
        moves = {slot: replay.move() for slot, replay in playing.items()}


def _answers(fleet: Fleet, moves: Mapping[int, Move]) -> Iterator[tuple[int, Result | ContractError]]:
    """What came of each move. If the server refuses them together, they are sent one at a time to see which it is."""
    try:
        for result in fleet.step(moves):
            yield result.slot, result
        return
    except ContractError as error:
        if error.reason not in _OF_THE_RECORD:
            raise
    for slot, move in moves.items():
        try:
            (alone,) = fleet.step({slot: move})
        except ContractError as error:
            if error.reason not in _OF_THE_RECORD:
                raise
            yield slot, error
        else:
            yield slot, alone
