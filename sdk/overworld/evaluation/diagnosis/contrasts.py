"""Paired differences between shares of successes, with intervals and tests for several of them at once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from overworld.evaluation.statistics import Interval, mcnemar

ERROR_RATE = 0.01
"""The chance that a diagnosis of an agent on which no condition has an effect finds one at all, at most."""

_BISECTIONS = 60


@dataclass(frozen=True, slots=True)
class Contrast:
    """What changes in success from the condition `first` to `second`, over the same tasks.

    difference  second - first, with an interval that holds for all contrasts at once (1 - ERROR_RATE).
    p           Of McNemar's exact test, two-sided; `adjusted` by Holm for all contrasts.
    """

    first: str
    second: str
    difference: Interval
    gained: int
    lost: int
    p: float
    adjusted: float

    @property
    def effect(self) -> int:
        """1: success is more frequent in `second`; -1: in `first`; 0: neither is shown."""
        if self.adjusted >= ERROR_RATE or self.gained == self.lost:
            return 0
        return 1 if self.gained > self.lost else -1


def contrasts(successes: Mapping[str, Sequence[bool]], pairs: Sequence[tuple[str, str]]) -> list[Contrast]:
    """Compares pairs of conditions, all as one family."""
    adjusted = holm([mcnemar(successes[first], successes[second]) for first, second in pairs])
    z = NormalDist().inv_cdf(1 - ERROR_RATE / len(pairs) / 2)
    found = []
    for (first, second), corrected in zip(pairs, adjusted, strict=True):
        couples = list(zip(successes[first], successes[second], strict=True))
        gained = sum(other and not one for one, other in couples)
        lost = sum(one and not other for one, other in couples)
        found.append(
            Contrast(
                first,
                second,
                paired_interval(gained, lost, len(couples), z),
                gained,
                lost,
                mcnemar(successes[first], successes[second]),
                corrected,
            )
        )
    return found


def does_harm(first: Sequence[bool], second: Sequence[bool]) -> bool:
    """Whether success is less frequent in the second condition, judged by this pair alone."""
    return sum(second) < sum(first) and mcnemar(first, second) < ERROR_RATE


def holm(values: Sequence[float]) -> list[float]:
    """p-values, adjusted so that the chance of any false one below a level is that level (Holm, 1979)."""
    order = sorted(range(len(values)), key=values.__getitem__)
    adjusted, largest = [0.0] * len(values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, values[index] * (len(values) - rank)))
        adjusted[index] = largest
    return adjusted


def least_gain(tasks: int, comparisons: int) -> int:
    """How many more successes, with none lost, show an effect of the second condition; above `tasks`: none does."""
    return next(
        (count for count in range(1, tasks + 1) if 2 * 0.5**count * comparisons < ERROR_RATE),
        tasks + 1,
    )


def paired_interval(gained: int, lost: int, pairs: int, z: float) -> Interval:
    """The difference (gained - lost) / pairs with Tango's score interval (Statistics in Medicine 17, 1998).

    It holds its level for shares near 0 and 1 and where no pair differs. `z` is the normal quantile of the level.
    """

    def score(difference: float) -> float:
        # The share of lost pairs that is likeliest if the difference is the given one.
        b = (2 * pairs - gained + lost) * difference - gained - lost
        c = -lost * difference * (1 - difference)
        share = (math.sqrt(max(b * b - 8 * pairs * c, 0.0)) - b) / (4 * pairs)
        variance = pairs * (2 * share + difference * (1 - difference))
        off = gained - lost - pairs * difference
        return off / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, off) if off else 0.0

    def root(target: float, low: float, high: float) -> float:
        """Where the score, which falls, meets `target`."""
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            low, high = (middle, high) if score(middle) > target else (low, middle)
        return (low + high) / 2

    estimate = (gained - lost) / pairs
    return Interval(estimate, root(z, -1.0, estimate), root(-z, estimate, 1.0))
