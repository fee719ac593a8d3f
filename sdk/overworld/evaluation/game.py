"""One episode of an evaluation while it is played."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable
from typing import Literal

from overworld.authoring.env import Observation
from overworld.authoring.runner import Result
from overworld.client.moves import Act, Move, Reset
from overworld.evaluation.blank import without_pictures
from overworld.evaluation.conversation import Conversation, Reply
from overworld.evaluation.episodes import Episode
from overworld.evaluation.model import Answer, Baseline, Prompt
from overworld.evaluation.recording import Keep, Recording
from overworld.evaluation.usage import Usage

Opening = Callable[[Reset, Result], Conversation]
"""Gives the conversation that the result of a task's reset continues."""


class Game:
    """A sample of a task: told what the env and the agent did, it says what comes next and records all of it.

    With `blank`, the agent is shown white pictures.
    """

    def __init__(
        self, task: Reset, sample: int, opening: Opening, *, blank: bool = False, keep: Keep | None = None
    ) -> None:
        self.task = task
        self._sample = sample
        self._opening = opening
        self._conversation: Conversation
        self._blank = blank
        self._recording = Recording(task, keep, sample=sample)
        self._result: Result | None = None
        self._began = self._asked = time.monotonic()
        self._waited = 0.0
        self._tokens: list[tuple[int | None, int | None]] = []

    def __repr__(self) -> str:
        return f"Game({self.task}, sample {self._sample}, {len(self._recording)} turns)"

    @property
    def episode(self) -> Episode | None:
        """Its record, once it is over."""
        return self._recording.episode

    @property
    def usage(self) -> Usage:
        """What it took so far."""
        prompts, replies = [one for one, _ in self._tokens], [one for _, one in self._tokens]
        return Usage(
            seconds=round(time.monotonic() - self._began, 3),
            agent_seconds=round(self._waited, 3),
            prompt_tokens=_total(prompts),
            completion_tokens=_total(replies),
        )

    @property
    def noise(self) -> int:
        """The seed of this turn's sampling noise, named by the task, the env's turn and the sample."""
        task = self.task
        turn = len(task.prefix) + len(self._recording)
        return noise_of(task.seed, task.split, task.task, turn, self._sample)

    def begin(self) -> Move:
        """The reset."""
        self._began = time.monotonic()
        return self.task

    def take(self, result: Result) -> None:
        """Takes the result of the last move."""
        if self._result is None:
            self._conversation = self._opening(self.task, result)
            self._recording.begin(result)
        else:
            self._recording.advance(result)
        if self.episode is None:
            shown = self.shown(result)
            if shown is not result.observation:
                self._recording.show(shown)
            self._conversation.observe(dataclasses.replace(result, observation=shown))
        self._result = result
        self._asked = time.monotonic()

    def shown(self, result: Result) -> Observation:
        """What the agent is shown of a result; called once for each."""
        return without_pictures(result.observation) if self._blank else result.observation

    def prompt(self) -> Prompt:
        """What a model is to reply to now."""
        return self._conversation.messages(), self.noise

    def read(self, answer: Answer) -> Move:
        """What a model's answer means."""
        self._waited += time.monotonic() - self._asked
        self._tokens.append((answer.prompt_tokens, answer.completion_tokens))
        reply, actor = self.understood(answer.text)
        self._recording.decide(
            answer.text, reply, cut=answer.cut, fingerprint=answer.fingerprint, sampling_seed=self.noise, actor=actor
        )
        return Act(reply.action, answer.text)

    def understood(self, text: str) -> tuple[Reply, Literal["model", "expert"]]:
        """What is to be done after a model's reply, and who says so."""
        return self._conversation.read(text), "model"

    def ask(self, baseline: Baseline) -> Move:
        """What a baseline does."""
        assert self._result is not None
        action, thoughts = baseline.choose(self._result, self.noise)
        self._waited += time.monotonic() - self._asked
        seed = self.noise if baseline.name == "random" else None
        self._recording.act(action, thoughts, actor=baseline.name, sampling_seed=seed)
        return action


def noise_of(seed: int, split: str, task: int | None, turn: int, sample: int) -> int:
    """The seed of the noise of one reply; `turn` counts as the contract does."""
    name: tuple[object, ...] = (seed, split, task, turn)
    if sample:  # sample 0 has the noise that evaluations had before there were samples
        name = (*name, sample)
    # 53 bits: what JSON numbers hold exactly everywhere.
    return int.from_bytes(hashlib.blake2b(repr(name).encode(), digest_size=8).digest()) >> 11


def _total(counts: list[int | None]) -> int | None:
    """The sum; None where one is unknown, or where there is none."""
    known = [one for one in counts if one is not None]
    return sum(known) if known and len(known) == len(counts) else None
