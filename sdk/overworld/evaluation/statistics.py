"""Intervals for what was counted, and tests for two agents that played the same episodes.

Where a task was played several times, its plays are no independent trials: the tasks are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_Z95 = 1.959963984540054
_RESAMPLES = 10_000


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its 95 % interval."""

    value: float
    low: float
    high: float


def wilson(successes: float, trials: float) -> Interval:
    """A share with Wilson's interval (JASA 22, 1927), which holds its level near 0 and 1, too."""
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(f"{successes} of {trials} is not a share")
    share, z2 = successes / trials, _Z95**2
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = _Z95 / (1 + z2 / trials) * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2))
    # Rounding may put a bound of 0 or 1 past the share itself.
    return Interval(share, min(share, max(centre - half, 0.0)), max(share, min(centre + half, 1.0)))


def clustered_wilson(successes: Sequence[int], samples: int) -> Interval:
    """The share of successes where each task was played `samples` times: Wilson's interval at the effective number of
    trials (Korn and Graubard, Survey Methodology 24, 1998).

    That number is at least the number of tasks, which is what is assumed where the tasks do not differ, and at most the
    number of plays.
    """
    tasks = len(successes)
    share = math.fsum(successes) / (tasks * samples)
    plays = float(tasks * samples)
    effective = float(tasks)
    if samples == 1:
        return wilson(sum(successes), tasks)
    if tasks > 1:
        deviations = math.fsum((one / samples - share) ** 2 for one in successes)
        variance = deviations / (tasks - 1) / tasks  # of the share, from that between tasks
        if variance > 0:
            effective = min(max(share * (1 - share) / variance, tasks), plays)
    return wilson(share * effective, effective)


def pass_at(k: int, samples: int, successes: int) -> float:
    """The probability that of `k` replies at least one succeeds, without bias, from `successes` of `samples`.

    1 - C(n - c, k) / C(n, k): Chen et al., arXiv 2107.03374, equation 1.
    """
    if not 1 <= k <= samples or not 0 <= successes <= samples:
        raise ValueError(f"pass@{k} cannot be told from {successes} successes in {samples} samples")
    return 1.0 - math.comb(samples - successes, k) / math.comb(samples, k)


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Two-sided exact p-value of McNemar's test: are two agents' successes in the same episodes equally likely?"""
    only_first = sum(one and not other for one, other in zip(first, second, strict=True))
    only_second = sum(other and not one for one, other in zip(first, second, strict=True))
    differing = only_first + only_second
    if differing == 0:
        return 1.0
    tail = sum(math.comb(differing, k) for k in range(min(only_first, only_second) + 1))
    return min(1.0, float(2 * tail / 2**differing))


def sign_flips(differences: Sequence[int]) -> float:
    """Two-sided p-value of the permutation test for paired differences (Fisher 1935, Pitman 1937), by convolution.

    How likely is a sum at least as far from 0 if a coin chose the sign of each difference? With differences of -1, 0
    and 1 that is McNemar's exact test.
    """
    chances = np.ones(1)  # that the positive ones sum up to the index
    for size in (abs(one) for one in differences if one):
        chances = (np.append(chances, np.zeros(size)) + np.append(np.zeros(size), chances)) / 2
    largest = len(chances) - 1
    far = np.abs(2 * np.arange(largest + 1) - largest) >= abs(sum(differences))
    return min(1.0, float(chances[far].sum()))


def paired_shares(first: Sequence[float], second: Sequence[float]) -> Interval:
    """The difference between two shares (second - first) over the same tasks, with Newcombe's score interval: method 10
    of Statistics in Medicine 17, 2635-2650 (1998).

    An outcome is 0 or 1, or a task's mean of several; then the interval is conservative, since means vary less. It is
    not empty where all outcomes are equal.
    """
    n = len(first)
    if n < 1 or n != len(second):
        raise ValueError(f"{n} and {len(second)} outcomes are not pairs")
    total, other_total = math.fsum(first), math.fsum(second)
    one, other = wilson(total, n), wilson(other_total, n)
    both = math.fsum(a * b for a, b in zip(first, second, strict=True))
    cross = n * both - total * other_total  # ad - bc of the table of pairs
    if cross > 0:
        cross = max(cross - n / 2, 0.0)  # a correction for continuity
    product = total * (n - total) * other_total * (n - other_total)
    correlation = cross / math.sqrt(product) if product > 0 else 0.0
    difference = other.value - one.value

    def half(down: float, up: float) -> float:
        return math.sqrt(max(down**2 - 2 * correlation * down * up + up**2, 0.0))

    low = difference - half(other.value - other.low, one.high - one.value)
    high = difference + half(one.value - one.low, other.high - other.value)
    return Interval(difference, max(low, -1.0), min(high, 1.0))


def paired_difference(first: Sequence[float], second: Sequence[float], seed: int = 0) -> Interval:
    """Mean of second - first over the same episodes, with a percentile-bootstrap interval.

    Where all differences are equal, nothing is known of their spread, and the interval is empty.
    """
    differences = np.asarray(second, float) - np.asarray(first, float)
    if len(differences) < 1:
        raise ValueError("there are no episodes to compare")
    drawn = np.random.default_rng(seed).integers(0, len(differences), (_RESAMPLES, len(differences)))
    low, high = np.quantile(differences[drawn].mean(1), [0.025, 0.975])
    return Interval(float(differences.mean()), float(low), float(high))
