"""Advantages per step, worked out by hand: gamma .5, lambda .5 unless said otherwise."""

import pytest
import torch
from overworld_trainer.advantages import gae, normalise


def advantages(
    rewards: list[int],
    values: list[int],
    next_values: list[int],
    bootstraps: list[bool],
    continues: list[bool],
    gamma: float = 0.5,
    lam: float = 0.5,
) -> list[float]:
    result = gae(
        torch.tensor([rewards], dtype=torch.float64),
        torch.tensor([values], dtype=torch.float64),
        torch.tensor([next_values], dtype=torch.float64),
        torch.tensor([bootstraps]),
        torch.tensor([continues]),
        gamma=gamma,
        lam=lam,
    )
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
    rewards = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    zeros, yes = torch.zeros(2, 2), torch.ones(2, 2, dtype=torch.bool)
    continues = torch.tensor([[True, False], [True, False]])
    result = gae(rewards, zeros, zeros, yes, continues, gamma=0.5, lam=1.0)
    assert result.tolist() == [[2.0, 2.0], [5.0, 4.0]]


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
