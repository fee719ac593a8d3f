"""What an audit gives: findings, the answer to each question, and what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from overworld.audit.questions import QUESTIONS
from overworld.authoring.env import EnvSpec

Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What an audit found to be wrong, or doubtful, and how that was seen."""

    question: str
    """Id of the question, as in "semantic.floor_gap"."""
    severity: Severity
    env: str
    sent: str
    came: str
    expected: str

    @property
    def number(self) -> str:
        """Number of the question."""
        return QUESTIONS[self.question].number

    def as_json(self) -> dict[str, str]:
        """For `--json`."""
        return {"number": self.number, **asdict(self), "remedy": QUESTIONS[self.question].remedy}


@dataclass(frozen=True, slots=True)
class Table:
    """Figures for the report, as text."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Frame:
    """What was seen in a turn, as PNG."""

    caption: str
    png: bytes


@dataclass(slots=True, kw_only=True)
class EnvReport:
    """The audit of one env."""

    spec: EnvSpec
    findings: list[Finding] = field(default_factory=list)
    answered: set[str] = field(default_factory=set)
    """Ids of the questions that were asked to the end."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Id of a question that could not be answered -> why."""
    tables: list[Table] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)
    learned: Mapping[str, Any] | None = None
    """What `learning.learn` found, if it was asked to."""
    episodes: int = 0
    turns: int = 0
    seconds: float = 0.0

    def status(self, question: str) -> Literal["good", "warning", "error", "skipped"]:
        """The answer to a question, by its id."""
        found = {finding.severity for finding in self.findings if finding.question == question}
        if found:
            return "error" if "error" in found else "warning"
        return "good" if question in self.answered else "skipped"

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "env": self.spec.id,
            "questions": [
                {
                    "number": question.number,
                    "id": question.id,
                    "rfc008": question.rfc,
                    "asks": question.asks,
                    "status": self.status(question.id),
                    **({"why": self.skipped[question.id]} if self.status(question.id) == "skipped" else {}),
                }
                for question in QUESTIONS.values()
                if question.id in self.answered or question.id in self.skipped
            ],
            "findings": [finding.as_json() for finding in self.findings],
            "tables": [asdict(table) for table in self.tables],
            **({"learned": self.learned} if self.learned is not None else {}),
            "episodes": self.episodes,
            "turns": self.turns,
            "seconds": round(self.seconds, 3),
        }


@dataclass(slots=True, kw_only=True)
class Report:
    """The audits of one or several envs."""

    subject: str
    seed: int
    envs: list[EnvReport] = field(default_factory=list)

    @property
    def findings(self) -> list[Finding]:
        """Of all envs."""
        return [finding for env in self.envs for finding in env.findings]

    @property
    def errors(self) -> list[Finding]:
        """The findings that make an env unfit."""
        return [finding for finding in self.findings if finding.severity == "error"]

    @property
    def good(self) -> bool:
        """Whether there are no errors; there may be warnings."""
        return not self.errors

    def as_json(self) -> dict[str, Any]:
        """The whole report."""
        return {
            "subject": self.subject,
            "seed": self.seed,
            "good": self.good,
            "errors": len(self.errors),
            "warnings": len(self.findings) - len(self.errors),
            "envs": [env.as_json() for env in self.envs],
        }
