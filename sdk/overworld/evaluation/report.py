"""The figures of an evaluation, from the header and the episodes alone: whoever has these can compute them again."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from overworld.errors import EvaluationError
from overworld.evaluation.blank import BLANK_FRAMES
from overworld.evaluation.episodes import Episode, Header, TaskKey
from overworld.evaluation.statistics import Interval, clustered_wilson, pass_at, wilson


@dataclass(frozen=True, slots=True)
class Report:
    """What came out. Shares are of episodes, `invalid_replies` and `cut_replies` of replies.

    model     Its name; of a baseline, who acted.
    tasks     Different tasks; `samples` is how often each was played, and `episodes` are all plays.
    success   With several samples the interval is that of the tasks, since plays of one task are alike.
    pass_at   By k: the share of tasks of which at least one of k samples succeeds, estimated without bias.
    substitution  What the agent was shown instead of what it should have seen: `Header.substitution`.
    seeds     As in 0-99,500; `splits` are those of the tasks, without the env's default.
    """

    env: str
    model: str
    fingerprint: str
    temperature: float
    max_tokens: int | None
    blank_frames: bool
    substitution: str
    episodes: int
    tasks: int
    samples: int
    seeds: str
    splits: list[str]
    success: Interval
    pass_at: dict[str, float]
    positive_return: float
    mean_return: float
    mean_length: float
    invalid_replies: float
    cut_replies: float
    ends: dict[str, int]
    recipe: dict[str, Any]
    options: dict[str, Any]
    provenance: dict[str, str]
    versions: dict[str, str]

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
        self._fingerprint = self._actor = ""
        self._plays: Counter[TaskKey] = Counter()
        self._won: Counter[TaskKey] = Counter()

    def __repr__(self) -> str:
        return f"Tally({self._header.spec().id}, {len(self._returns)} episodes)"

    def add(self, episode: Episode) -> None:
        """Counts an episode."""
        self._returns.append(episode.total_reward)
        self._plays[episode.task_key] += 1
        self._won[episode.task_key] += episode.success
        self._turns += len(episode.turns)
        self._ends[episode.end or "ERROR"] += 1
        for turn in episode.turns:
            self._invalid += turn.outcome in ("no_action", "not_admissible")
            self._cut += turn.cut
            self._fingerprint = self._fingerprint or turn.fingerprint
            self._actor = self._actor or turn.actor

    def report(self) -> Report:
        """The figures of what was counted. Raises EvaluationError if they are not numbers."""
        header, count = self._header, len(self._returns)
        try:
            mean_return = math.fsum(self._returns) / count  # rounded once, in any version of Python
        except (ArithmeticError, ValueError) as error:
            raise EvaluationError(f"the mean return of {count} episodes cannot be computed: {error}") from None
        spec = header.spec()
        samples = min(self._plays.values())
        return Report(
            env=spec.id,
            model=self._actor if header.model is None else header.model.name,
            fingerprint=self._fingerprint,
            temperature=0.0 if header.model is None else header.model.temperature,
            max_tokens=None if header.model is None else header.model.max_tokens,
            blank_frames=header.substitution == BLANK_FRAMES,
            substitution=header.substitution,
            episodes=count,
            tasks=len(self._plays),
            samples=samples,
            seeds=_ranges(seed for seed, *_ in self._plays),
            splits=sorted({split for _, split, *_ in self._plays if split}),
            success=self._success(samples),
            pass_at={str(k): self._pass_at(k) for k in _powers_of_two(samples)},
            positive_return=sum(one > 0 for one in self._returns) / count,
            mean_return=mean_return,
            mean_length=self._turns / count,
            invalid_replies=self._invalid / max(self._turns, 1),
            cut_replies=self._cut / max(self._turns, 1),
            ends=dict(self._ends),
            recipe=header.recipe.model_dump(),
            options=header.options,
            provenance=dict(spec.provenance),
            versions=header.versions,
        )

    def _success(self, samples: int) -> Interval:
        if samples * len(self._plays) == len(self._returns):
            return clustered_wilson([self._won[task] for task in self._plays], samples)
        # Some tasks were played more often than others, which no evaluation of ours does.
        return wilson(sum(self._won.values()), len(self._returns))

    def _pass_at(self, k: int) -> float:
        return math.fsum(pass_at(k, plays, self._won[task]) for task, plays in self._plays.items()) / len(self._plays)


def report_of(header: Header, episodes: Iterable[Episode]) -> Report:
    """The figures of episodes. Raises EvaluationError."""
    tally = Tally(header)
    for episode in episodes:
        tally.add(episode)
    return tally.report()


def _powers_of_two(last: int) -> list[int]:
    """1, 2, 4, ... and the last."""
    return sorted({2**power for power in range(last.bit_length())} | {last})


def _ranges(numbers: Iterable[int]) -> str:
    """Numbers as "0-99,500", each once."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
