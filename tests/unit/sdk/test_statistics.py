import math

import numpy as np
import pytest
from overworld.evaluation.statistics import (
    clustered_wilson,
    mcnemar,
    paired_difference,
    paired_shares,
    pass_at,
    sign_flips,
    wilson,
)


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


def test_wilsons_interval_holds_the_share_itself() -> None:
    for trials in range(1, 300):
        assert wilson(0, trials).low == 0.0 and wilson(trials, trials).high == 1.0


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


def table(both: int, only_first: int, only_second: int, neither: int) -> tuple[list[float], list[float]]:
    """The outcomes of two agents in pairs."""
    first = [1.0] * (both + only_first) + [0.0] * (only_second + neither)
    second = [1.0] * both + [0.0] * only_first + [1.0] * only_second + [0.0] * neither
    return first, second


@pytest.mark.parametrize(
    ("pairs", "low", "high"),
    [
        # Newcombe, Statistics in Medicine 17, 2635-2650 (1998), worked examples of method 10
        ((36, 12, 2, 0), 0.0569, 0.3404),
        ((18, 12, 2, 18), 0.0562, 0.3290),
        ((53, 0, 0, 1), -0.0729, 0.0729),
        ((0, 30, 0, 0), 0.8395, 1.0),
        # Fagerland, Lydersen and Laake, Statistics in Medicine 33, 2850-2875 (2014): airway hyper-responsiveness
        ((1, 1, 7, 12), -0.507, -0.026),
    ],
)
def test_newcombes_interval_for_paired_shares(pairs: tuple[int, int, int, int], low: float, high: float) -> None:
    first, second = table(*pairs)
    interval = paired_shares(second, first)  # theirs is the first less the second
    digits = 6e-5 if pairs != (1, 1, 7, 12) else 6e-4
    assert interval.value == pytest.approx((pairs[1] - pairs[2]) / sum(pairs))
    assert [interval.low, interval.high] == pytest.approx([low, high], abs=digits)
    turned = paired_shares(first, second)
    assert [turned.low, turned.high] == pytest.approx([-interval.high, -interval.low])


def test_equal_episodes_leave_doubt() -> None:
    for outcomes in ([1.0] * 30, [0.0] * 30, [1.0] * 15 + [0.0] * 15):
        interval = paired_shares(outcomes, outcomes)
        assert interval.value == 0
        assert interval.low < -0.01 < 0.01 < interval.high
    with pytest.raises(ValueError, match="not pairs"):
        paired_shares([1.0], [1.0, 0.0])


def test_newcombes_interval_holds_its_level_for_tasks_that_are_played_often() -> None:
    """Means of four plays, of tasks of which each has its own difficulty."""
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(600):
        ease = rng.beta(0.5, 0.5, 60)
        one, other = rng.binomial(4, ease) / 4, rng.binomial(4, ease**2) / 4
        interval = paired_shares(one.tolist(), other.tolist())
        truth = 3 / 8 - 1 / 2  # the mean of Beta(1/2, 1/2) squared, less its mean
        covered.append(interval.low <= truth <= interval.high)
    assert np.mean(covered) > 0.95


def test_an_interval_of_tasks_that_are_played_often_holds_its_level() -> None:
    rng = np.random.default_rng(0)
    covered, naive = [], []
    for _ in range(1000):
        won = rng.binomial(8, rng.beta(0.3, 0.3, 50)).tolist()
        clustered, plain = clustered_wilson(won, 8), wilson(sum(won), 400)
        assert clustered.value == pytest.approx(plain.value)
        covered.append(clustered.low <= 0.5 <= clustered.high)
        naive.append(plain.low <= 0.5 <= plain.high)
    assert 0.93 < np.mean(covered) < 0.98
    assert np.mean(naive) < 0.8, "plays of one task are not independent"
    assert clustered_wilson([8] * 20, 8) == wilson(20, 20), "tasks that do not differ: no more is known than of 20"
    assert clustered_wilson([1, 0, 1], 1) == wilson(2, 3)


def test_pass_at_k_is_unbiased() -> None:
    # The definition of HumanEval's paper, as a product: 1 - prod (1 - k / i) for i from n - c + 1 to n.
    for samples, successes, k in ((10, 3, 1), (10, 3, 5), (10, 8, 5), (200, 7, 100), (5, 0, 5), (5, 5, 1)):
        product = math.prod(1 - k / i for i in range(samples - successes + 1, samples + 1))
        expected = 1.0 if samples - successes < k else 1 - product
        assert pass_at(k, samples, successes) == pytest.approx(expected)
    mean = sum(math.comb(8, c) * 0.3**c * 0.7 ** (8 - c) * pass_at(4, 8, c) for c in range(9))
    assert mean == pytest.approx(1 - 0.7**4)
    for k, samples, successes in ((0, 4, 1), (5, 4, 1), (1, 4, 5)):
        with pytest.raises(ValueError, match="cannot be told"):
            pass_at(k, samples, successes)


def test_sign_flips_is_mcnemars_test_where_tasks_are_played_once() -> None:
    assert sign_flips([1] * 9 + [-1] + [0] * 90) == pytest.approx(22 / 1024)
    assert sign_flips([0, 0]) == 1.0
    # By hand: of the eight choices of signs, those with |±3 ± 2 ± 1| >= 4 are ±(3 + 2 + 1) and ±(3 + 2 - 1).
    assert sign_flips([3, 2, -1]) == pytest.approx(4 / 8)
