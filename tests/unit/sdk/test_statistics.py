import math

import numpy as np
import pytest
from overworld.evaluation.statistics import mcnemar, paired_difference, wilson


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    # By Wilson's formula with z = 1.959964, worked out with a calculator.
    [(0, 10, 0.0, 0.277533), (8, 10, 0.490162, 0.943318), (10, 10, 0.722467, 1.0), (100, 200, 0.431361, 0.568639)],
)
def test_wilsons_interval(successes: int, trials: int, low: float, high: float) -> None:
    interval = wilson(successes, trials)
    assert interval.value == successes / trials
    assert interval.low == pytest.approx(low, abs=2e-6)
    assert interval.high == pytest.approx(high, abs=2e-6)


def test_wilsons_interval_holds_its_level() -> None:
    rng = np.random.default_rng(0)
    for share in (0.05, 0.5, 0.95):
        drawn = rng.binomial(200, share, 4000)
        covered = np.mean([wilson(int(k), 200).low <= share <= wilson(int(k), 200).high for k in drawn])
        assert 0.93 < covered < 0.975


def test_shares_that_are_none() -> None:
    for successes, trials in ((1, 0), (3, 2), (-1, 2)):
        with pytest.raises(ValueError, match="not a share"):
            wilson(successes, trials)


def test_mcnemar_counts_only_where_the_two_differ() -> None:
    first = [True] * 50 + [True] * 1 + [False] * 9 + [False] * 40
    second = [True] * 50 + [False] * 1 + [True] * 9 + [False] * 40
    # Two-sided binomial test of 1 in 10: 2 * (1 + 10) / 2^10
    assert mcnemar(first, second) == pytest.approx(22 / 1024)
    assert mcnemar(second, first) == mcnemar(first, second)
    assert mcnemar(first, first) == 1.0
    assert mcnemar([True, False], [False, True]) == 1.0


def test_a_paired_difference_uses_the_pairs() -> None:
    rng = np.random.default_rng(1)
    episode = rng.normal(0, 10, 400)
    interval = paired_difference(episode.tolist(), (episode + rng.normal(0.5, 1, 400)).tolist())
    assert interval.low < 0.5 < interval.high
    assert interval.high - interval.low == pytest.approx(2 * 1.96 / math.sqrt(400), rel=0.15)
    assert paired_difference([1.0], [3.0]).value == 2.0
    with pytest.raises(ValueError, match="no episodes"):
        paired_difference([], [])
    with pytest.raises(ValueError, match="broadcast"):
        paired_difference([1.0, 2.0], [1.0, 2.0, 3.0])
