"""From a rollout to samples: who is compared with whom, what is left out."""

import dataclasses
from collections.abc import Sequence

import pytest
import torch
from overworld_trainer.advantages import Valuation
from overworld_trainer.config import TrainerConfig
from overworld_trainer.rollout import Rollout, Step
from overworld_trainer.samples import Samples, assemble
from torch import Tensor

from tests.support.learning import PROMPT, old_logps, ref_logps, rollout_of, settings
from tests.support.optional import present

ENVS = [{"id": "toy/Count", "weight": 0.5}, {"id": "toy/Other", "weight": 2.0}]


def make_rollout(
    rewards: list[list[float]],
    values: list[list[float]],
    envs: list[int],
    failed: Sequence[tuple[int, int]] = (),
    scales: Sequence[float] = (1.0,),
) -> tuple[Rollout, Valuation]:
    """One row per slot; each step ends its own episode, so that the advantage is the reward minus the value."""
    earned = torch.tensor(rewards, dtype=torch.float64)
    shape = earned.shape
    valid = torch.tensor([[(n, t) not in failed for t in range(shape[1])] for n in range(shape[0])])
    steps = [
        [
            Step(
                env=envs[n],
                turn=t,
                prompt=PROMPT,
                reply=torch.zeros(1),
                logps=torch.zeros(1),
                features=torch.tensor([n * 10.0 + t]),
                thinking=0,
                cut=False,
            )
            for t in range(shape[1])
        ]
        for n in range(shape[0])
    ]
    never = torch.zeros(shape, dtype=torch.bool)
    rollout = rollout_of(steps, scales)
    valuation = Valuation(
        features=torch.stack([present(step.features) for step in rollout.flat]),
        valid=valid,
        rewards=earned,
        values=torch.tensor(values, dtype=torch.float64),
        next_values=torch.full(shape, 9.0).double(),
        bootstraps=never,
        continues=never.clone(),
        tasks=torch.zeros(shape[0], dtype=torch.int64),
        states=torch.zeros(shape, dtype=torch.int64),
        scales=torch.ones(shape[0], dtype=torch.float64),
    )
    return rollout, valuation


def logps_of(rollout: Rollout) -> list[Tensor]:
    """The log-probs of each step name it."""
    return [present(step.features).clone() for step in rollout.flat]


def samples_of(rollout: Rollout, valuation: Valuation, config: TrainerConfig) -> Samples:
    logps = logps_of(rollout)
    return assemble(rollout, valuation, logps, [logp + 0.5 for logp in logps], config)


def test_targets_are_the_unnormalised_advantages_plus_the_rollouts_values() -> None:
    samples = samples_of(*make_rollout([[1.0, 4.0], [2.0, 9.0]], [[0.5, 1.0], [0.0, 3.0]], [0, 0]), settings())
    # Advantages .5, 3, 2, 6: mean 2.875, standard deviation 2.0117.
    assert samples.targets.tolist() == [1.0, 4.0, 2.0, 9.0]
    assert samples.old_values.tolist() == [0.5, 1.0, 0.0, 3.0]
    assert samples.advantage_std == pytest.approx(2.0117, abs=1e-4)
    expected = [(a - 2.875) / 2.0117 for a in (0.5, 3, 2, 6)]
    assert samples.advantages.tolist() == pytest.approx(expected, abs=1e-3)
    assert samples.weights.tolist() == [1.0] * 4
    assert samples.normalised_std == pytest.approx(1.0)


def test_envs_are_normalised_by_themselves_with_their_own_reward_scale() -> None:
    rollout = make_rollout([[1.0, 3.0], [100.0, 100.02]], [[0.0, 0.0], [0.0, 0.0]], [0, 1], scales=(1.0, 10.0))
    samples = samples_of(*rollout, settings(envs=ENVS))
    # First env: mean 2, standard deviation 1. Second: mean 100.01, standard deviation .01, floor .1 * 10.
    assert samples.advantages.tolist() == pytest.approx([-1, 1, -0.01, 0.01], abs=1e-4)
    assert samples.normalised_std == pytest.approx(0.01, abs=1e-4)  # the second's floor binds
    assert samples.weights.tolist() == [0.5, 0.5, 2.0, 2.0]


def test_failed_steps_are_left_out_of_everything() -> None:
    rollout = make_rollout([[1.0, 1e6], [3.0, 2.0]], [[0.0, -1e6], [0.0, 0.0]], [0, 0], failed=[(0, 1)])
    samples = samples_of(*rollout, settings())
    assert samples.targets.tolist() == [1.0, 3.0, 2.0]
    assert [present(step.features).item() for step in samples.steps] == [0.0, 10.0, 11.0]
    assert [logp.item() for logp in old_logps(samples)] == [0.0, 10.0, 11.0]
    assert [logp.item() for logp in ref_logps(samples)] == [0.5, 10.5, 11.5]
    assert samples.features.squeeze(1).tolist() == [0.0, 10.0, 11.0]
    assert samples.slots.tolist() == [0, 1, 1]
    assert samples.select(torch.tensor([2, 0])).slots.tolist() == [1, 0]
    assert len(samples) == 3
    assert samples.advantages.mean().item() == pytest.approx(0, abs=1e-6)


def test_an_env_all_of_whose_steps_failed_leaves_the_others_alone() -> None:
    failed, scales = [(1, 0), (1, 1)], (1.0, 1.0)
    rollout = make_rollout([[1.0, 3.0], [7.0, 7.0]], [[0.0] * 2] * 2, [0, 1], failed=failed, scales=scales)
    samples = samples_of(*rollout, settings(envs=ENVS))
    assert samples.advantages.tolist() == [-1.0, 1.0]


def test_k1_goes_into_the_rewards_and_so_into_the_targets() -> None:
    rollout = make_rollout([[1.0, 4.0]], [[0.0, 0.0]], [0])
    old = [torch.tensor([-1.0, -2.0]), torch.tensor([-3.0])]
    ref = [torch.tensor([-2.0, -4.0]), torch.tensor([-1.0])]
    # Sums of log-ratios: 1 + 2 = 3 and -2; times -.5.
    samples = assemble(*rollout, old, ref, settings(kl={"kind": "k1_reward", "beta": 0.5}))
    assert samples.targets.tolist() == [1.0 - 1.5, 4.0 + 1.0]
    samples = assemble(*rollout, old, ref, settings(kl={"kind": "k3_loss", "beta": 0.5}))
    assert samples.targets.tolist() == [1.0, 4.0]


def test_gamma_and_lambda_are_those_of_the_settings() -> None:
    rollout, valuation = make_rollout([[0.0, 1.0]], [[0.0, 0.0]], [0])
    valuation.bootstraps[0, :] = True
    valuation.continues[0, 0] = True
    # delta_1 = 1 + .5 * 9 = 5.5; delta_0 = .5 * 9 = 4.5, A_0 = 4.5 + .5 * .4 * 5.5 = 5.6.
    assert samples_of(rollout, valuation, settings(gamma=0.5, lam=0.4)).targets.tolist() == pytest.approx([5.6, 5.5])


def test_the_value_at_start_is_that_of_the_first_turns_failed_ones_included() -> None:
    values = [[0.5, 9.0], [1.5, 9.0]]
    rollout, valuation = make_rollout([[1.0, 4.0], [2.0, 9.0]], values, [0, 0], failed=[(1, 0)])
    assert samples_of(rollout, valuation, settings()).value_at_start == 1.0
    later = [[dataclasses.replace(step, turn=step.turn + 1) for step in row] for row in rollout.steps]
    rollout = rollout_of(later)
    assert samples_of(rollout, valuation, settings()).value_at_start is None


def test_a_selection_holds_the_same_of_everything() -> None:
    samples = samples_of(*make_rollout([[1.0, 4.0], [2.0, 9.0]], [[0.5, 1.0], [0.0, 3.0]], [0, 0]), settings())
    chosen = samples.select(torch.tensor([3, 0]))
    assert len(chosen) == 2
    assert chosen.steps == [samples.steps[3], samples.steps[0]]
    assert old_logps(chosen) == [old_logps(samples)[3], old_logps(samples)[0]]
    assert ref_logps(chosen) == [ref_logps(samples)[3], ref_logps(samples)[0]]
    for field in ("advantages", "weights", "features", "targets", "old_values"):
        assert getattr(chosen, field).tolist() == getattr(samples, field)[[3, 0]].tolist(), field
