"""Who is evaluated: a model on a server, one in the same process, or a baseline."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from overworld.authoring.env import Action
from overworld.authoring.runner import Result
from overworld.evaluation.conversation import Message

Prompt = tuple[list[Message], int]
"""(messages, seed of the sampling noise)."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply. `cut`: it reached the token limit. `fingerprint` names the weights, if it is known.

    The numbers of tokens are None where the server does not count them.
    """

    text: str
    cut: bool
    fingerprint: str
    prompt_tokens: int | None = field(default=None, compare=False)
    completion_tokens: int | None = field(default=None, compare=False)


class Model(Protocol):
    """A model that replies to many prompts at once. The trainer's `PolicyModel` is one."""

    name: str
    temperature: float
    max_tokens: int
    url: str
    """Where it runs; recorded in run.json and nowhere else."""

    def answer_all(self, prompts: Sequence[Prompt]) -> list[Answer]:
        """Replies to (messages, seed of the sampling noise), in order."""


@runtime_checkable
class ConcurrentModel(Model, Protocol):
    """A model whose replies come one at a time, so that a slow one holds up no other episode. `OpenAIModel` is one."""

    def submit(self, prompt: Prompt) -> Future[Answer]:
        """Begins to reply."""


@runtime_checkable
class Baseline(Protocol):
    """An agent that is not a model: it chooses by what the env answered."""

    @property
    def name(self) -> Literal["expert", "random", "person"]:
        """Who acts."""

    def choose(self, result: Result, noise: int) -> tuple[Action | None, str]:
        """The action and the thoughts behind it; `noise` is the seed of this turn's chance."""


Agent = Model | Baseline
