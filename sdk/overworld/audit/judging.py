"""The register of judgements: functions that answer questions about a `Case`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from overworld.audit.case import Case
from overworld.audit.questions import QUESTIONS


@dataclass(frozen=True, slots=True)
class Judgement:
    """A function that answers some questions."""

    questions: tuple[str, ...]
    judge: Callable[[Case], None]


JUDGEMENTS: list[Judgement] = []
"""In the order in which they are made."""


def answers(*questions: str) -> Callable[[Callable[[Case], None]], Callable[[Case], None]]:
    """Registers a function that answers these questions; its findings are of the first, unless they name another."""
    for question in questions:
        if question not in QUESTIONS:
            raise ValueError(f"there is no question {question!r}")

    def register(judge: Callable[[Case], None]) -> Callable[[Case], None]:
        JUDGEMENTS.append(Judgement(questions, judge))
        return judge

    return register
