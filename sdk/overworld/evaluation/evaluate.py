"""Plays a model in an env and counts: success with its Wilson interval, returns, replies without an action.

Every episode that is started counts, one that crashes as a failure. Replies without an admissible action skip the turn.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from overworld.authoring.env import Image, Observation
from overworld.authoring.runner import Result
from overworld.client.fleet import Fleet
from overworld.client.moves import Act, Reset
from overworld.errors import ContractError, EvaluationError, ModelChangedError, Reason
from overworld.evaluation.blank import BLANK_FRAMES, white
from overworld.evaluation.conversation import Conversation, Recipe
from overworld.evaluation.episodes import Episode, ModelRecord
from overworld.evaluation.folder import EpisodeWriter
from overworld.evaluation.model import Answer, Model
from overworld.evaluation.recording import Recording, header_of
from overworld.evaluation.report import Report, Tally
from overworld.evaluation.statistics import mcnemar, paired_difference


def evaluate(
    model: Model,
    fleet: Fleet,
    tasks: Sequence[Reset],
    *,
    recipe: Recipe,
    blank_frames: bool = False,
    keep: Path | None = None,
    overwrite: bool = False,
    on_progress: Callable[[int], None] = lambda done: None,
) -> tuple[Report, list[Episode]]:
    """Plays each task once, as many at a time as the fleet has slots.

    The noise of sampling is keyed by the task and the turn, so neither the number of slots nor their order matters.
    `blank_frames` shows white pictures instead, as a control. With `keep`, episodes, pictures and the report are
    written to that folder (docs/episodes.md); `overwrite` deletes an evaluation that it holds already. `on_progress` is
    told how many episodes are finished. Raises what model and fleet raise, ModelChangedError, EvaluationError and
    OSError.
    """
    if not tasks:
        raise EvaluationError("there is nothing to play: name seeds or a split")
    started, clock = datetime.now(UTC), time.monotonic()
    with ExitStack() as stack:
        writer = None
        record = ModelRecord(name=model.name, temperature=model.temperature, max_tokens=model.max_tokens)
        header = header_of(fleet, recipe, record, BLANK_FRAMES if blank_frames else "")
        if keep is not None:
            writer = stack.enter_context(EpisodeWriter(keep, header, overwrite=overwrite))
        games = [_Game(task, Conversation(fleet.spec, recipe), blank_frames, writer) for task in tasks]
        waiting = list(reversed(games))
        playing: dict[int, _Game] = {}
        fingerprints: set[str] = set()
        while waiting or playing:
            free = [slot for slot in range(len(fleet)) if slot not in playing][: len(waiting)]
            starts = {slot: waiting.pop() for slot in free}
            for result in fleet.step({slot: game.task for slot, game in starts.items()}) if starts else ():
                starts[result.slot].begin(result)
            playing |= {slot: game for slot, game in starts.items() if game.episode is None}
            answers = model.answer_all([(game.conversation.messages(), game.noise()) for game in playing.values()])
            fingerprints.update(answer.fingerprint for answer in answers)
            if len(fingerprints) > 1:
                raise ModelChangedError(f"{model.name} changed in the middle of the evaluation: {sorted(fingerprints)}")
            acts = {slot: game.decide(answer) for (slot, game), answer in zip(playing.items(), answers, strict=True)}
            for result in fleet.step(acts) if acts else ():
                playing[result.slot].go_on(result)
            if writer is not None:  # as they end: what comes later may fail
                for game in {**starts, **playing}.values():
                    if game.episode is not None:
                        writer.append(game.episode)
            playing = {slot: game for slot, game in playing.items() if game.episode is None}
            on_progress(len(games) - len(waiting) - len(playing))
        episodes = [game.episode for game in games if game.episode is not None]
        tally = Tally(header)
        for episode in episodes:
            tally.add(episode)
        report = tally.report()
        if writer is not None:
            run = {
                "model_url": model.url,
                "seconds": round(time.monotonic() - clock, 3),
                "servers": fleet.addresses,
                "slots": len(fleet),
                "started": started.isoformat(timespec="seconds"),
            }
            writer.finish(episodes, report.to_json(), run)
    return report, episodes


def tasks_of_split(splits: Mapping[str, int], split: str, seed: int = 0) -> list[Reset]:
    """Each task of a finite split once. Raises ContractError for an unknown or endless one."""
    if not splits.get(split):
        finite = sorted(name for name, size in splits.items() if size)
        raise ContractError(
            Reason.SPLIT_UNKNOWN, f"{split!r} is not a finite split; choose one of {finite}, or name seeds"
        )
    return [Reset(seed=seed, split=split, task=task) for task in range(splits[split])]


def compare(first: Iterable[Episode], second: Iterable[Episode]) -> dict[str, Any]:
    """Two models in the same episodes: difference in success and in return (second - first), and McNemar's p-value.

    Raises EvaluationError if the episodes are not the same.
    """
    outcomes = [[(one.key, one.success, one.total_reward) for one in episodes] for episodes in (first, second)]
    if [key for key, *_ in outcomes[0]] != [key for key, *_ in outcomes[1]]:
        raise EvaluationError(
            "the two evaluations did not play the same episodes: compare only the same seeds or split"
        )
    won, other_won = ([success for _, success, _ in one] for one in outcomes)
    earned, other_earned = ([reward for *_, reward in one] for one in outcomes)
    return {
        "episodes": len(won),
        "success": asdict(paired_difference(won, other_won)),
        "return": asdict(paired_difference(earned, other_earned)),
        "mcnemar_p": mcnemar(won, other_won),
    }


class _Game:
    """A task that is played."""

    def __init__(self, task: Reset, conversation: Conversation, blank: bool, writer: EpisodeWriter | None) -> None:
        self.task = task
        self.conversation = conversation
        self._blank = blank
        self._recording = Recording(task, None if writer is None else writer.keep)

    @property
    def episode(self) -> Episode | None:
        """Its record, once it is over."""
        return self._recording.episode

    def begin(self, result: Result) -> None:
        """Takes the result of the reset."""
        self._recording.begin(result)
        self._observe(result)

    def noise(self) -> int:
        """The seed of this turn's sampling noise."""
        name = repr((self.task.seed, self.task.split, self.task.task, len(self._recording))).encode()
        # 53 bits: what JSON numbers hold exactly everywhere.
        return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest()) >> 11

    def decide(self, answer: Answer) -> Act:
        """What the answer to this turn's prompt means."""
        reply = self.conversation.read(answer.text)
        self._recording.decide(
            answer.text, reply, cut=answer.cut, fingerprint=answer.fingerprint, sampling_seed=self.noise()
        )
        return Act(reply.action, answer.text)

    def go_on(self, result: Result) -> None:
        """Takes the result of an action."""
        self._recording.advance(result)
        self._observe(result)

    def _observe(self, result: Result) -> None:
        if self.episode is not None:
            return
        if self._blank:
            result = _without_pictures(result)
            self._recording.show(result.observation)
        self.conversation.observe(result)


def _without_pictures(result: Result) -> Result:
    """The result with white pictures of the same sizes."""
    parts = tuple(white(part) if isinstance(part, Image) else part for part in result.observation.parts)
    blank = Observation(parts, result.observation.admissible)
    return Result(
        slot=result.slot,
        episode=result.episode,
        turn=result.turn,
        observation=blank,
        outcome=result.outcome,
        executed=result.executed,
    )
