"""Four players of one env: a learner with frames, the same without, a fixed sequence of actions, and chance."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from overworld.audit.learning.arena import Act, Arena, Episode, Game, Job, See, View, moved, play, unseen
from overworld.audit.learning.eyes import Eyes
from overworld.audit.learning.ppo import Point, PpoSettings, train
from overworld.audit.learning.seeds import Part, has_held_out_tasks, seeds
from overworld.audit.learning.sequences import SearchSettings, Sequences, search
from overworld.audit.learning.verdict import Gain, Verdict, gain, verdict
from overworld.audit.stage import Stage
from overworld.authoring.env import EnvSpec
from overworld.client.moves import Reset
from overworld.errors import EvaluationError
from overworld.evaluation.statistics import Interval, wilson


@dataclass(frozen=True, slots=True)
class LearnSettings:
    """What may be spent.

    choice     Episodes on which the better of the blind players is chosen.
    judged     Held-out episodes of each player, at most; fewer where episodes are long, so that a player is judged in
               about `judged_steps` env steps, but no fewer than `judged_least`.
    """

    ppo: PpoSettings = field(default_factory=PpoSettings)
    search: SearchSettings = field(default_factory=SearchSettings)
    choice: int = 100
    judged: int = 400
    judged_least: int = 100
    judged_steps: int = 10_000

    @property
    def digest(self) -> str:
        """Differs for settings that differ."""
        return hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Arm:
    """A player and how it did in the held-out episodes.

    mean      Of the returns; `success` is the share of episodes that succeeded, with Wilson's 95 % interval.
    seconds   CPU-seconds of this process, in learning and playing.
    steps     Env steps that it learnt from.
    stopped   Why training ended: "won", "flat", "steps" or "seconds"; empty for those who are not trained.
    """

    name: str
    mean: float
    success: Interval
    seconds: float
    steps: int = 0
    stopped: str = ""
    curve: tuple[Point, ...] = ()


@dataclass(frozen=True, slots=True)
class Learned:
    """What `learn` found. The gains are in units of an episode's return."""

    env: str
    seed: int
    verdict: Verdict
    arms: tuple[Arm, ...]
    best_blind: str
    frames_over_random: Gain
    blind_over_random: Gain
    frames_over_blind: Gain
    sequence: tuple[str, ...]
    judged: int
    held_out_tasks: bool
    digest: str

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self)


def learn(
    stage: Stage,
    *,
    seed: int = 0,
    settings: LearnSettings | None = None,
    on_progress: Callable[[str], None] = lambda name: None,
) -> Learned:
    """Trains and judges the four players on the default split. Uses one thread of Torch.

    Raises EvaluationError for an env without a vocabulary or without pictures, and what `Stage.step` raises.
    """
    _check(stage.spec)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _Comparison(stage, seed, settings or LearnSettings(), on_progress).run()
    finally:
        torch.set_num_threads(threads)


def _check(spec: EnvSpec) -> None:
    """Raises EvaluationError for actions that the small learner has no output for."""
    if spec.action.vocabulary:
        return
    kind = "tensors" if spec.action.low is not None else "free text"
    raise EvaluationError(
        f"{spec.id}: its actions are {kind}; --learn trains a small network with an output for each action word, so "
        "the env's spec needs a vocabulary"
    )


class _Comparison:
    def __init__(self, stage: Stage, seed: int, settings: LearnSettings, on_progress: Callable[[str], None]) -> None:
        self._stage, self._seed, self._settings, self._on_progress = stage, seed, settings, on_progress
        self._first = moved(stage, {0: Reset(next(self._seeds(Part.TRAINING)))})[0].observation
        self._choice = self._some(Part.CHOICE, settings.choice)
        self._judged: list[int] = []
        self._arms: dict[str, Arm] = {}
        self._choice_means: dict[str, float] = {}
        self._returns: dict[str, list[float]] = {}

    def run(self) -> Learned:
        frames, blank = Eyes(self._first), Eyes(self._first, blank=True)
        self._play_at_random()
        self._train("frames", frames)
        self._train("blank", blank)
        sequence = self._search()
        best_blind = max("blank", "sequence", key=lambda name: self._choice_means[name])
        seen, blind, chance = (self._returns[name] for name in ("frames", best_blind, "random"))
        gains = gain(chance, seen), gain(chance, blind), gain(blind, seen)
        return Learned(
            env=self._stage.spec.id,
            seed=self._seed,
            verdict=verdict(*gains),
            arms=tuple(self._arms.values()),
            best_blind=best_blind,
            frames_over_random=gains[0],
            blind_over_random=gains[1],
            frames_over_blind=gains[2],
            sequence=sequence,
            judged=len(self._judged),
            held_out_tasks=has_held_out_tasks(self._stage.spec),
            digest=self._settings.digest,
        )

    def _play_at_random(self) -> None:
        self._on_progress("random")
        started = time.process_time()
        words = self._stage.spec.action.vocabulary
        index = {word: number for number, word in enumerate(words)}
        chance = random.Random(self._seed)

        def act(games: Sequence[Game[None]]) -> list[int]:
            return [index[chance.choice(game.observation.admissible or words)] for game in games]

        episodes = self._play(self._choice, unseen, act)
        turns = sum(episode.turns for episode in episodes) / len(episodes)
        settings = self._settings
        judged = min(settings.judged, max(settings.judged_least, int(settings.judged_steps / turns)))
        self._judged = self._some(Part.HELD_OUT, judged)
        self._judge("random", started, unseen, act)

    def _train(self, name: str, eyes: Eyes) -> None:
        self._on_progress(name)
        started = time.process_time()
        training = train(self._stage, eyes, self._seeds(Part.TRAINING), self._seed, self._settings.ppo)
        learnt = {"steps": training.steps, "stopped": training.stopped, "curve": training.curve}
        self._judge(name, started, eyes, training.policy, **learnt)

    def _search(self) -> tuple[str, ...]:
        self._on_progress("sequence")
        started = time.process_time()
        training = self._seeds(Part.TRAINING)
        finals = itertools.islice(self._seeds(Part.CHOICE), len(self._choice), None)  # other ones than players meet in
        found = search(self._stage, training, finals, self._seed, self._settings.search)
        player = Sequences([found.actions])
        self._judge("sequence", started, unseen, player, steps=found.steps, stopped=found.stopped)
        return tuple(self._stage.spec.action.vocabulary[action] for action in found.actions)

    def _judge(self, name: str, started: float, see: See[View], act: Act[View], **learnt: Any) -> None:
        choice = self._play(self._choice, see, act)
        self._choice_means[name] = float(np.mean([episode.total for episode in choice]))
        episodes = self._play(self._judged, see, act)
        self._returns[name] = [episode.total for episode in episodes]
        self._arms[name] = Arm(
            name,
            mean=float(np.mean(self._returns[name])),
            success=wilson(sum(episode.success for episode in episodes), len(episodes)),
            seconds=time.process_time() - started,
            **learnt,
        )

    def _play(self, drawn: Sequence[int], see: See[View], act: Act[View]) -> list[Episode]:
        """The episodes of these seeds, in their order."""
        jobs = [Job(seed, number) for number, seed in enumerate(drawn)]
        return sorted(play(Arena(self._stage, jobs, see), act), key=lambda episode: episode.job.number)

    def _seeds(self, part: Part) -> Iterator[int]:
        return seeds(self._stage.spec, part, self._seed)

    def _some(self, part: Part, count: int) -> list[int]:
        return list(itertools.islice(self._seeds(part), count))
