"""Plays a model in an env and counts: success with its Wilson interval, returns, replies without an action.

Every episode that is started counts, one that crashes as a failure. Replies without an admissible action skip the turn.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from overworld.authoring.env import Image, Observation
from overworld.authoring.runner import Result
from overworld.client.fleet import Fleet
from overworld.client.moves import Act, Reset
from overworld.contract.frames import pixels_hash
from overworld.errors import ContractError, EvaluationError, ModelChangedError, Reason
from overworld.evaluation.conversation import Conversation, Message, Recipe, png
from overworld.evaluation.openai_client import Answer
from overworld.evaluation.statistics import Interval, mcnemar, paired_difference, wilson

_BLANK = 255
_EPISODES = "episodes.jsonl"


class Model(Protocol):
    """What is evaluated. `OpenAIModel` is one."""

    name: str
    temperature: float

    def answer_all(self, prompts: Sequence[tuple[list[Message], int]]) -> list[Answer]:
        """Replies to (messages, seed of the sampling noise), in order."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One decision. `frames` names the pictures that the prompt showed last, by their xxh64."""

    frames: tuple[str, ...]
    reply: str
    outcome: str
    executed: str | None
    reward: float
    cut: bool


@dataclass(slots=True)
class Episode:
    """One episode as it was played. `error` says why it broke off, if it did; then it counts as a failure."""

    seed: int
    split: str
    task: int | None
    turns: list[Turn] = field(default_factory=list)
    reward: float = 0.0
    success: bool = False
    end: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """What came out. Shares are of episodes, `invalid_replies` and `cut_replies` of replies."""

    env: str
    model: str
    fingerprint: str
    temperature: float
    blank_frames: bool
    episodes: int
    success: Interval
    positive_return: float
    mean_return: float
    mean_length: float
    invalid_replies: float
    cut_replies: float
    ends: dict[str, int]
    recipe: dict[str, Any]
    options: dict[str, Any]
    provenance: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def evaluate(
    model: Model,
    fleet: Fleet,
    tasks: Sequence[Reset],
    *,
    recipe: Recipe,
    blank_frames: bool = False,
    keep: Path | None = None,
    on_progress: Callable[[int], None] = lambda done: None,
) -> tuple[Report, list[Episode]]:
    """Plays each task once, as many at a time as the fleet has slots.

    The noise of sampling is keyed by the task and the turn, so neither the number of slots nor their order matters.
    `blank_frames` shows white pictures instead, as a control. With `keep`, episodes and pictures are written there.
    `on_progress` is told how many episodes are finished. Raises what model and fleet raise, and ModelChangedError.
    """
    if not tasks:
        raise EvaluationError("there is nothing to play: name seeds or a split")
    frames = _Frames(keep)
    games = [_Game(task, Conversation(fleet.spec, recipe)) for task in tasks]
    waiting = list(reversed(games))
    playing: dict[int, _Game] = {}
    fingerprints: set[str] = set()
    while waiting or playing:
        free = [slot for slot in range(len(fleet)) if slot not in playing][: len(waiting)]
        starts = {slot: waiting.pop() for slot in free}
        for result in fleet.step({slot: game.task for slot, game in starts.items()}) if starts else ():
            starts[result.slot].begin(result, blank_frames)
        playing |= {slot: game for slot, game in starts.items() if not game.over}
        answers = model.answer_all([game.prompt() for game in playing.values()])
        fingerprints.update(answer.fingerprint for answer in answers)
        if len(fingerprints) > 1:
            raise ModelChangedError(f"{model.name} changed in the middle of the evaluation: {sorted(fingerprints)}")
        acts = {
            slot: Act(game.conversation.read(answer.text).action, answer.text)
            for (slot, game), answer in zip(playing.items(), answers, strict=True)
        }
        shown = {slot: frames.keep(game.conversation) for slot, game in playing.items()}
        replies = dict(zip(playing, answers, strict=True))
        for result in fleet.step(acts) if acts else ():
            playing[result.slot].go_on(result, replies[result.slot], shown[result.slot], blank_frames)
        if keep is not None:  # as they end: what comes later may fail
            ended = [game for game in {**starts, **playing}.values() if game.over]
            _append(keep, [game.episode for game in ended])
        playing = {slot: game for slot, game in playing.items() if not game.over}
        on_progress(len(games) - len(waiting) - len(playing))
    episodes = [game.episode for game in games]
    report = _report(model, fingerprints, fleet, recipe, blank_frames, episodes)
    if keep is not None:
        (keep / "report.json").write_text(json.dumps(report.to_json(), indent=1))
        (keep / _EPISODES).unlink()
        _append(keep, episodes)  # in the order of the tasks
    return report, episodes


def tasks_of_split(splits: Mapping[str, int], split: str, seed: int = 0) -> list[Reset]:
    """Each task of a finite split once. Raises ContractError for an unknown or endless one."""
    if not splits.get(split):
        finite = sorted(name for name, size in splits.items() if size)
        raise ContractError(
            Reason.SPLIT_UNKNOWN, f"{split!r} is not a finite split; choose one of {finite}, or name seeds"
        )
    return [Reset(seed=seed, split=split, task=task) for task in range(splits[split])]


def compare(first: Sequence[Episode], second: Sequence[Episode]) -> dict[str, Any]:
    """Two models in the same episodes: difference in success and in return (second - first), and McNemar's p-value.

    Raises EvaluationError if the episodes are not the same.
    """
    tasks = [[(one.seed, one.split, one.task) for one in episodes] for episodes in (first, second)]
    if tasks[0] != tasks[1]:
        raise EvaluationError(
            "the two evaluations did not play the same episodes: compare only the same seeds or split"
        )
    won, other_won = ([one.success for one in episodes] for episodes in (first, second))
    earned, other_earned = ([one.reward for one in episodes] for episodes in (first, second))
    return {
        "episodes": len(first),
        "success": asdict(paired_difference(won, other_won)),
        "return": asdict(paired_difference(earned, other_earned)),
        "mcnemar_p": mcnemar(won, other_won),
    }


def read_episodes(folder: Path) -> list[Episode]:
    """The episodes that an evaluation kept in `folder`. Raises EvaluationError."""
    episodes = []
    path = folder / _EPISODES
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluationError(f"{path} cannot be read ({error}); name a folder that an evaluation kept") from None
    for number, line in enumerate(lines, 1):
        try:
            fields = json.loads(line)
            turns = [Turn(**{**turn, "frames": tuple(turn["frames"])}) for turn in fields.pop("turns")]
            episodes.append(Episode(**fields, turns=turns))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise EvaluationError(f"{path}, line {number}, is not an episode: {error!r}") from None
    return episodes


class _Game:
    """A task that is played."""

    def __init__(self, task: Reset, conversation: Conversation) -> None:
        self.task = task
        self.conversation = conversation
        self.episode = Episode(task.seed, task.split, task.task)
        self.over = False
        self._turn = 0

    def begin(self, result: Result, blank: bool) -> None:
        """Takes the result of the reset."""
        self._observe(result, blank)

    def prompt(self) -> tuple[list[Message], int]:
        """The messages and the seed of this turn's noise."""
        name = repr((self.task.seed, self.task.split, self.task.task, self._turn)).encode()
        # 53 bits: what JSON numbers hold exactly everywhere.
        return self.conversation.messages(), int.from_bytes(hashlib.blake2b(name, digest_size=8).digest()) >> 11

    def go_on(self, result: Result, answer: Answer, frames: tuple[str, ...], blank: bool) -> None:
        """Takes the result of an action."""
        outcome = "failed" if result.outcome is None else result.outcome.name.lower()
        executed = None if result.executed is None else str(result.executed)
        self.episode.turns.append(Turn(frames, answer.text, outcome, executed, result.reward, answer.cut))
        self.episode.reward += result.reward
        self._turn += 1
        self._observe(result, blank)

    def _observe(self, result: Result, blank: bool) -> None:
        if result.error is not None:
            self.episode.error = f"{result.error.reason}: {result.error.message}"
        elif result.end is not None:
            self.episode.success, self.episode.end = bool(result.success), result.end.name
            self.episode.metrics = dict(result.metrics)
        self.over = result.error is not None or result.end is not None
        if not self.over:
            self.conversation.observe(_without_pictures(result) if blank else result)


class _Frames:
    """Keeps each different picture once, as frames/<xxh64>.png."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = None if folder is None else folder / "frames"
        if folder is not None and self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            (folder / _EPISODES).write_text("")
        self._kept: set[str] = set()

    def keep(self, conversation: Conversation) -> tuple[str, ...]:
        """The names of the pictures of the present turn."""
        images = conversation.latest.images
        names = tuple(f"{image.xxh64 or 0:016x}" for image in images)
        for name, image in zip(names, images, strict=True):
            if self._folder is not None and name not in self._kept:
                (self._folder / f"{name}.png").write_bytes(png(image.pixels))
                self._kept.add(name)
        return names


def _without_pictures(result: Result) -> Result:
    """The result with white pictures of the same sizes."""
    parts = tuple(_blank(part) if isinstance(part, Image) else part for part in result.observation.parts)
    blank = Observation(parts, result.observation.admissible)
    return Result(
        slot=result.slot,
        episode=result.episode,
        turn=result.turn,
        observation=blank,
        outcome=result.outcome,
        executed=result.executed,
    )


def _blank(image: Image) -> Image:
    pixels = np.full_like(image.pixels, _BLANK)
    return Image(image.name, pixels, pixels_hash(pixels))


def _append(folder: Path, episodes: Sequence[Episode]) -> None:
    with (folder / _EPISODES).open("a") as file:
        file.writelines(json.dumps(asdict(episode)) + "\n" for episode in episodes)


def _report(
    model: Model,
    fingerprints: set[str],
    fleet: Fleet,
    recipe: Recipe,
    blank_frames: bool,
    episodes: Sequence[Episode],
) -> Report:
    count = len(episodes)
    turns = [turn for episode in episodes for turn in episode.turns]
    invalid = sum(turn.outcome in ("no_action", "not_admissible") for turn in turns)
    return Report(
        env=fleet.spec.id,
        model=model.name,
        fingerprint=next(iter(fingerprints), ""),
        temperature=model.temperature,
        blank_frames=blank_frames,
        episodes=count,
        success=wilson(sum(episode.success for episode in episodes), count),
        positive_return=sum(episode.reward > 0 for episode in episodes) / count,
        mean_return=sum(episode.reward for episode in episodes) / count,
        mean_length=len(turns) / count,
        invalid_replies=invalid / max(len(turns), 1),
        cut_replies=sum(turn.cut for turn in turns) / max(len(turns), 1),
        ends=dict(Counter(episode.end or "ERROR" for episode in episodes)),
        recipe=recipe.model_dump(),
        options=fleet.options,
        provenance=dict(fleet.spec.provenance),
    )
