"""The figures of an evaluation, from the header and the episodes alone: whoever has these can compute them again."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from overworld.errors import EvaluationError
from overworld.evaluation.blank import BLANK_FRAMES
from overworld.evaluation.episodes import Episode, Header
from overworld.evaluation.statistics import Interval, wilson


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


class Tally:
    """Counts the episodes of an evaluation, one after another."""

    def __init__(self, header: Header) -> None:
        self._header = header
        self._returns: list[float] = []
        self._turns = self._successes = self._invalid = self._cut = 0
        self._ends: Counter[str] = Counter()
        self._fingerprint = ""

    def __repr__(self) -> str:
        return f"Tally({self._header.spec().id}, {len(self._returns)} episodes)"

    def add(self, episode: Episode) -> None:
        """Counts an episode."""
        self._returns.append(episode.total_reward)
        self._successes += episode.success
        self._turns += len(episode.turns)
        self._ends[episode.end or "ERROR"] += 1
        for turn in episode.turns:
            self._invalid += turn.outcome in ("no_action", "not_admissible")
            self._cut += turn.cut
            self._fingerprint = self._fingerprint or turn.fingerprint

    def report(self) -> Report:
        """The figures of what was counted. Raises EvaluationError if they are not numbers."""
        header, count = self._header, len(self._returns)
        try:
            mean_return = math.fsum(self._returns) / count  # rounded once, in any version of Python
        except (ArithmeticError, ValueError) as error:
            raise EvaluationError(f"the mean return of {count} episodes cannot be computed: {error}") from None
        spec = header.spec()
        return Report(
            env=spec.id,
            model="" if header.model is None else header.model.name,
            fingerprint=self._fingerprint,
            temperature=0.0 if header.model is None else header.model.temperature,
            blank_frames=header.substitution == BLANK_FRAMES,
            episodes=count,
            success=wilson(self._successes, count),
            positive_return=sum(one > 0 for one in self._returns) / count,
            mean_return=mean_return,
            mean_length=self._turns / count,
            invalid_replies=self._invalid / max(self._turns, 1),
            cut_replies=self._cut / max(self._turns, 1),
            ends=dict(self._ends),
            recipe=header.recipe.model_dump(),
            options=header.options,
            provenance=dict(spec.provenance),
        )
