"""What the evaluator asks for replies: a model on a server, or one in the same process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from overworld.evaluation.conversation import Message


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply. `cut`: it reached the token limit. `fingerprint` names the weights, if it is known."""

    text: str
    cut: bool
    fingerprint: str


class Model(Protocol):
    """What is evaluated. `OpenAIModel` is one; the trainer's `PolicyModel` another."""

    name: str
    temperature: float
    max_tokens: int
    url: str
    """Where it runs; recorded in run.json and nowhere else."""

    def answer_all(self, prompts: Sequence[tuple[list[Message], int]]) -> list[Answer]:
        """Replies to (messages, seed of the sampling noise), in order."""
