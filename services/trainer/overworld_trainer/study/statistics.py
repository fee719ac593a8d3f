"""What few seeds allow to say: tests and intervals that assume nothing of a distribution but its symmetry.

Differences between two arms are paired by seed. If the arms do not differ, the sign of each is a coin's: that is the
permutation test, and the values of the mean that it does not reject are the interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.05
"""Chance that the true value is below an interval, and as much that it is above."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over seeds. `low` and `high` bound it, each at LEVEL; infinite where there are too few seeds to say."""

    value: float
    low: float
    high: float


def estimate(values: Sequence[float]) -> Estimate:
    """The mean of up to 20 values with its interval of 90 %, the inversion of `sign_flips`.

    The means of all subsets of n values cut the line into 2^n parts, of which the centre of symmetry is in each with
    equal chance (Hartigan, "Using subsample values as typical values", JASA 64, 1969).
    """
    if not 1 <= len(values) <= 20:
        raise ValueError(f"an estimate takes 1 to 20 values, not {len(values)}")
    sums, counts = np.zeros(1), np.zeros(1)
    for value in values:
        sums, counts = np.append(sums, sums + value), np.append(counts, counts + 1)
    means = np.sort(sums[1:] / counts[1:])  # without the empty subset
    dropped = math.floor(LEVEL * (len(means) + 1))
    mean = math.fsum(values) / len(values)
    if not dropped:
        return Estimate(mean, -math.inf, math.inf)
    return Estimate(mean, float(means[dropped - 1]), float(means[-dropped]))


def sign_flips(values: Sequence[float]) -> float:
    """One-sided p-value of the permutation test (Fisher 1935, Pitman 1937) that the mean is above 0.

    How likely is a sum at least as large if a coin chooses the sign of each value? Exact, for up to 20 values.
    """
    total = math.fsum(values)
    slack = 1e-12 * math.fsum(map(abs, values))  # sums of the same values may differ in their last bits
    sums = np.zeros(1)
    for value in values:
        sums = np.append(sums + value, sums - value)
    return float((sums >= total - slack).mean())


def holm(chances: Sequence[float]) -> list[float]:
    """p-values adjusted for their number, in the same order (Holm, Scandinavian Journal of Statistics 6, 1979)."""
    order = sorted(range(len(chances)), key=chances.__getitem__)
    adjusted, largest = [0.0] * len(chances), 0.0
    for place, index in enumerate(order):
        largest = max(largest, min((len(chances) - place) * chances[index], 1.0))
        adjusted[index] = largest
    return adjusted
