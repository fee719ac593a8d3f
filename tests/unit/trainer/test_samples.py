"""From a rollout to samples: who is compared with whom, what is left out."""

from collections.abc import Sequence
from typing import cast

import pytest
import torch
from overworld_trainer.config import TrainerConfig
from overworld_trainer.rollout import Rollout, Step
from overworld_trainer.samples import Samples, make_samples
from overworld_vlm.batch import Prompt
from torch import Tensor

from tests.support.learning import settings

ENVS = [{"id": "toy/Count", "weight": 0.5}, {"id": "toy/Other", "weight": 2.0}]


NO_PROMPT = cast(Prompt, None)
"""Samples are made without a look at prompts."""


def make_rollout(
    rewards: list[list[float]],
    values: list[list[float]],
    envs: list[int],
    failed: Sequence[tuple[int, int]] = (),
    lengths: list[list[int]] | None = None,
) -> Rollout:
    """One row per slot; each step ends its own episode, so that the advantage is the reward minus the value."""
    earned = torch.tensor(rewards, dtype=torch.float64)
    shape = earned.shape
    valid = torch.tensor([[(n, t) not in failed for t in range(shape[1])] for n in range(shape[0])])
    steps = [
        [
            Step(envs[n], t, NO_PROMPT, torch.zeros(1), torch.zeros(1), torch.tensor([n * 10.0 + t]), 0, False)
            for t in range(shape[1])
        ]
        for n in range(shape[0])
    ]
    never = torch.zeros(shape, dtype=torch.bool)
    valued = torch.tensor(values, dtype=torch.float64)
    return Rollout(steps, valid, earned, valued, torch.full(shape, 9.0).double(), never, never, [], 0.0, 0.0)


def logps_of(rollout: Rollout) -> list[Tensor]:
    """The log-probs of each step name it."""
    return [step.features.clone() for row in rollout.steps for step in row]


def samples_of(rollout: Rollout, config: TrainerConfig, scales: Sequence[float] = (1.0,)) -> Samples:
    logps = logps_of(rollout)
    return make_samples(rollout, logps, [logp + 0.5 for logp in logps], scales, config)


def test_targets_are_the_unnormalised_advantages_plus_the_rollouts_values() -> None:
    rollout = make_rollout([[1.0, 4.0], [2.0, 9.0]], [[0.5, 1.0], [0.0, 3.0]], [0, 0])
    samples = samples_of(rollout, settings())
    # Advantages .5, 3, 2, 6: mean 2.875, standard deviation 2.0117.
    assert samples.targets.tolist() == [1.0, 4.0, 2.0, 9.0]
    assert samples.old_values.tolist() == [0.5, 1.0, 0.0, 3.0]
    assert samples.advantage_std == pytest.approx(2.0117, abs=1e-4)
    expected = [(a - 2.875) / 2.0117 for a in (0.5, 3, 2, 6)]
    assert samples.advantages.tolist() == pytest.approx(expected, abs=1e-3)
    assert samples.weights.tolist() == [1.0] * 4


def test_envs_are_normalised_by_themselves_with_their_own_reward_scale() -> None:
    rollout = make_rollout([[1.0, 3.0], [100.0, 100.02]], [[0.0, 0.0], [0.0, 0.0]], [0, 1])
    samples = samples_of(rollout, settings(envs=ENVS), scales=(1.0, 10.0))
    # First env: mean 2, standard deviation 1. Second: mean 100.01, standard deviation .01, floor .1 * 10.
    assert samples.advantages.tolist() == pytest.approx([-1, 1, -0.01, 0.01], abs=1e-4)
    assert samples.weights.tolist() == [0.5, 0.5, 2.0, 2.0]


def test_failed_steps_are_left_out_of_everything() -> None:
    rollout = make_rollout([[1.0, 1e6], [3.0, 2.0]], [[0.0, -1e6], [0.0, 0.0]], [0, 0], failed=[(0, 1)])
    samples = samples_of(rollout, settings())
    assert samples.targets.tolist() == [1.0, 3.0, 2.0]
    assert [step.features.item() for step in samples.steps] == [0.0, 10.0, 11.0]
    assert [logp.item() for logp in samples.old_logps] == [0.0, 10.0, 11.0]
    assert [logp.item() for logp in samples.ref_logps] == [0.5, 10.5, 11.5]
    assert samples.features.squeeze(1).tolist() == [0.0, 10.0, 11.0]
    assert len(samples) == 3
    assert samples.advantages.mean().item() == pytest.approx(0, abs=1e-6)


def test_an_env_all_of_whose_steps_failed_leaves_the_others_alone() -> None:
    rollout = make_rollout([[1.0, 3.0], [7.0, 7.0]], [[0.0] * 2] * 2, [0, 1], failed=[(1, 0), (1, 1)])
    samples = samples_of(rollout, settings(envs=ENVS), scales=(1.0, 1.0))
    assert samples.advantages.tolist() == [-1.0, 1.0]


def test_k1_goes_into_the_rewards_and_so_into_the_targets() -> None:
    rollout = make_rollout([[1.0, 4.0]], [[0.0, 0.0]], [0])
    old = [torch.tensor([-1.0, -2.0]), torch.tensor([-3.0])]
    ref = [torch.tensor([-2.0, -4.0]), torch.tensor([-1.0])]
    # Sums of log-ratios: 1 + 2 = 3 and -2; times -.5.
    samples = make_samples(rollout, old, ref, [1.0], settings(kl={"kind": "k1_reward", "beta": 0.5}))
    assert samples.targets.tolist() == [1.0 - 1.5, 4.0 + 1.0]
    samples = make_samples(rollout, old, ref, [1.0], settings(kl={"kind": "k3_loss", "beta": 0.5}))
    assert samples.targets.tolist() == [1.0, 4.0]


def test_gamma_and_lambda_are_those_of_the_settings() -> None:
    rollout = make_rollout([[0.0, 1.0]], [[0.0, 0.0]], [0])
    rollout.bootstraps[0, :] = True
    rollout.continues[0, 0] = True
    # delta_1 = 1 + .5 * 9 = 5.5; delta_0 = .5 * 9 = 4.5, A_0 = 4.5 + .5 * .4 * 5.5 = 5.6.
    assert samples_of(rollout, settings(gamma=0.5, lam=0.4)).targets.tolist() == pytest.approx([5.6, 5.5])
