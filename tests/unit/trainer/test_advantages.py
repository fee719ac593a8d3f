"""Advantages per step, worked out by hand: gamma .5, lambda .5 unless said otherwise."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from overworld_trainer.advantages import (
    Discount,
    Valuation,
    gae,
    group_in_group,
    group_relative,
    idle_tasks,
    leave_one_out,
    normalise,
    reward_to_go,
    token_gae,
)


def valuation(rewards: list[list[float]], **columns: Any) -> Valuation:
    """A rollout without a critic, one whole episode a row, unless `columns` say otherwise."""
    earned = torch.tensor(rewards, dtype=torch.float64)
    rows, steps = earned.shape
    fields: dict[str, Any] = {
        "features": torch.zeros(rows * steps, 0),
        "valid": [[True] * steps] * rows,
        "rewards": earned,
        "values": torch.zeros(rows, steps),
        "next_values": torch.zeros(rows, steps),
        "bootstraps": [[False] * steps] * rows,
        "continues": [[True] * (steps - 1) + [False]] * rows,
        "tasks": [0] * rows,
        "states": [list(range(row * steps, (row + 1) * steps)) for row in range(rows)],
        "scales": torch.ones(rows, dtype=torch.float64),
    }
    return Valuation(**{name: torch.as_tensor(value) for name, value in (fields | columns).items()})


def advantages(
    rewards: Sequence[float],
    values: Sequence[float],
    next_values: Sequence[float],
    bootstraps: Sequence[bool],
    continues: Sequence[bool],
    gamma: float = 0.5,
    lam: float = 0.5,
) -> list[float]:
    told = valuation(
        [list(rewards)], values=[values], next_values=[next_values], bootstraps=[bootstraps], continues=[continues]
    )
    result = gae(told, Discount(gamma, lam))
    assert result.dtype == torch.float64
    return result[0].tolist()


def test_an_episode_that_the_rollout_cuts_is_bootstrapped_at_the_border() -> None:
    # delta_2 = 4 + .5 * 8 - 2 = 6; delta_1 = 0 + .5 * 2 - 4 = -3, A_1 = -3 + .25 * 6 = -1.5;
    # delta_0 = 1 + .5 * 4 - 1 = 2, A_0 = 2 + .25 * -1.5 = 1.625.
    assert advantages([1, 0, 4], [1, 4, 2], [4, 2, 8], [True] * 3, [True, True, False]) == [1.625, -1.5, 6.0]


def test_an_end_by_the_task_or_a_rule_is_not_bootstrapped() -> None:
    # Step 1 ends: delta_1 = 2 - 4 = -2 whatever the next state's value; delta_0 = 1 + .5 * 4 - 1 = 2,
    # A_0 = 2 + .25 * -2 = 1.5. Step 2 begins another episode: delta_2 = 0 + .5 * 8 - 2 = 2.
    result = advantages([1, 2, 0], [1, 4, 2], [4, 99, 8], [True, False, True], [True, False, False])
    assert result == [1.5, -2.0, 2.0]


def test_a_time_limit_takes_the_final_states_value_and_nothing_of_the_next_episode() -> None:
    # Step 1 ends by the limit: delta_1 = 2 + .5 * 6 - 4 = 1; A_0 = 2 + .25 * 1 = 2.25.
    result = advantages([1, 2, 0], [1, 4, 2], [4, 6, 8], [True, True, True], [True, False, False])
    assert result == [2.25, 1.0, 2.0]


def test_lambda_one_is_the_discounted_return_and_lambda_zero_one_step() -> None:
    # Returns: 4 + .5 * 8 = 8; 0 + .5 * 8 = 4; 1 + .5 * 4 = 3. Minus V: 6, 0, 2.
    arguments = [1, 0, 4], [1, 4, 2], [4, 2, 8], [True] * 3, [True, True, False]
    assert advantages(*arguments, lam=1.0) == [2.0, 0.0, 6.0]
    assert advantages(*arguments, lam=0.0) == [2.0, -3.0, 6.0]


def test_gamma_discounts_both_the_value_and_the_advantage_to_come() -> None:
    # gamma .8, lambda .5: delta_1 = 1 + .8 * 5 - 0 = 5; delta_0 = 0 + .8 * 0 - 0 = 0, A_0 = .4 * 5 = 2.
    assert advantages([0, 1], [0, 0], [0, 5], [True, True], [True, False], gamma=0.8) == pytest.approx([2.0, 5.0])


def test_slots_are_apart_from_each_other() -> None:
    result = gae(valuation([[1.0, 2.0], [3.0, 4.0]], bootstraps=[[True] * 2] * 2), Discount(0.5, 1.0))
    assert result.tolist() == [[2.0, 2.0], [5.0, 4.0]]


HALF = Discount(0.5, 0.95)
LENGTHS = {"continues": [[True, True, False], [True, False, False], [False] * 3]}
"""Episodes of 3, 2 and 1 steps."""
PLAYED = LENGTHS | {"valid": [[True] * 3, [True, True, False], [True, False, False]]}


def test_a_reward_counts_for_the_steps_before_it_and_less_the_longer_ago() -> None:
    # 4; 2 + .5 * 4 = 4; 1 + .5 * 4 = 3.  8; 0 + .5 * 8 = 4.  5.
    told = valuation([[1, 2, 4], [0, 8, 0], [5, 0, 0]], **PLAYED)
    assert reward_to_go(told, HALF).tolist() == [[3.0, 4.0, 4.0], [4.0, 8.0, 0.0], [5.0, 0.0, 0.0]]


def test_an_episode_is_compared_with_the_others_of_its_task() -> None:
    # Returns 3, 4 and 5: 3 - 4.5, 4 - 4, 5 - 3.5. Whatever their lengths, all steps of an episode get the same.
    told = valuation([[1, 2, 4], [0, 8, 0], [5, 0, 0]], **PLAYED)
    assert leave_one_out(told, HALF).tolist() == [[-1.5] * 3, [0.0] * 3, [1.5, 0.0, 0.0]]
    told = valuation([[1, 2, 4], [0, 8, 0], [5, 0, 0]], **PLAYED, scales=torch.full((3,), 10.0).double())
    assert leave_one_out(told, HALF).tolist() == [[-0.15] * 3, [0.0] * 3, [0.15, 0.0, 0.0]]


def test_episodes_of_other_tasks_and_those_that_failed_do_not_count() -> None:
    # Tasks of returns 1 and 3, of 7 and one that failed, of 8 alone.
    told = valuation([[1.0], [7.0], [3.0], [100.0], [8.0]], tasks=[5, 9, 5, 9, 1], valid=[[1], [1], [1], [0], [1]])
    told = dataclasses.replace(told, valid=told.valid.bool())
    assert leave_one_out(told, HALF).flatten().tolist() == [-2.0, 0.0, 2.0, 0.0, 0.0]
    # Mean 2, standard deviation 1; the others are alone.
    assert group_relative(told, HALF).flatten().tolist() == [-1.0, 0.0, 1.0, 0.0, 0.0]
    assert group_in_group(told, HALF).flatten().tolist() == [-1.0, 0.0, 1.0, 0.0, 0.0]
    assert idle_tasks(told, HALF) == 2 / 3


def test_the_spread_of_a_group_is_its_unit_down_to_a_tenth_of_the_reward_scale() -> None:
    # Returns 0, 0, 3, 3: mean 1.5, standard deviation 1.5.
    assert group_relative(valuation([[0.0], [0.0], [3.0], [3.0]]), HALF).flatten().tolist() == [-1, -1, 1, 1]
    # 1.00 and 1.02: mean 1.01, standard deviation .01; the floor is .1 x 2.
    told = valuation([[1.0], [1.02]], scales=torch.full((2,), 2.0).double())
    assert group_relative(told, HALF).flatten().tolist() == pytest.approx([-0.05, 0.05])


def test_steps_that_saw_the_same_are_compared_with_each_other_too() -> None:
    # Rewards to go: 2, 4 and 0, 0, of which the second of row 0 and the first of row 1 saw the same: 4 against 0, so
    # +1 and -1. The episodes' returns are 2 and 0: +1 and -1.
    told = valuation([[0, 4], [0, 0]], states=[[1, 2], [2, 3]])
    assert group_in_group(told, HALF).tolist() == [[1.0, 2.0], [-2.0, -1.0]]
    # What another task shows does not count, even if it looks the same; nor does a step that was not played.
    told = valuation([[0, 4], [0, 0]], states=[[1, 2], [2, 3]], tasks=[0, 1])
    assert group_in_group(told, HALF).tolist() == [[0.0, 0.0], [0.0, 0.0]]
    told = valuation(
        [[0, 4], [0, 0]],
        states=[[1, 2], [0, 0]],
        valid=[[True, True], [True, False]],
        continues=[[True, False], [False] * 2],
    )
    assert group_in_group(told, HALF).tolist() == [[1.0, 1.0], [-1.0, 0.0]]


def test_normalised_advantages_have_mean_zero_and_standard_deviation_one() -> None:
    # Mean 2, deviations -1, 1, population standard deviation 1.
    assert normalise(torch.tensor([1.0, 3.0]), 1.0).tolist() == [-1.0, 1.0]
    result = normalise(torch.randn(100, generator=torch.Generator().manual_seed(0)) * 7 + 3, 1.0)
    assert result.mean().item() == pytest.approx(0, abs=1e-6)
    assert result.std(correction=0).item() == pytest.approx(1)


def test_the_noise_of_an_env_without_rewards_is_not_blown_up() -> None:
    # Standard deviation .01, floor .1 * reward scale: .01 / .1 and .01 / (.1 * 5).
    advantages = torch.tensor([0.99, 1.01])
    assert normalise(advantages, 1.0).tolist() == pytest.approx([-0.1, 0.1], rel=1e-4)
    assert normalise(advantages, 5.0).tolist() == pytest.approx([-0.02, 0.02], rel=1e-4)


def test_a_single_step_has_no_advantage_over_itself() -> None:
    assert normalise(torch.tensor([5.0]), 1.0).tolist() == [0.0]


def test_the_tokens_of_a_reply_by_hand() -> None:
    values = torch.tensor([1.0, 3.0, 2.0], dtype=torch.float64)
    # deltas: 3 - 1, 2 - 3, 5 - 2
    assert token_gae(values, 5.0, 0.5).tolist() == [2.0 + 0.5 * (-1.0 + 0.5 * 3.0), -1.0 + 0.5 * 3.0, 3.0]
    assert token_gae(values, 5.0, 1.0).tolist() == [4.0, 2.0, 3.0], "the return less each token's value"
    assert token_gae(values, 5.0, 0.0).tolist() == [2.0, -1.0, 3.0]
    assert token_gae(values[:1], 5.0, 0.9).tolist() == [4.0], "one token: the step's own advantage"
