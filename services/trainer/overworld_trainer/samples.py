"""From a rollout to samples: what each step teaches policy and critic. M valid steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from overworld_trainer.advantages import gae, normalise
from overworld_trainer.config import TrainerConfig
from overworld_trainer.losses import kl_rewards
from overworld_trainer.rollout import Rollout, Step


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """The valid steps of a rollout.

    old_logps, ref_logps  fp32 [T] each: of the rollout's policy as the training kernels see it, and of the reference
    advantages            fp32 [M], normalised
    weights               fp32 [M]: each env's weight
    features              fp32 [M, features], targets fp32 [M], old_values fp32 [M]: for the critic
    advantage_std         before normalisation
    """

    steps: list[Step]
    old_logps: list[Tensor]
    ref_logps: list[Tensor]
    advantages: Tensor
    weights: Tensor
    features: Tensor
    targets: Tensor
    old_values: Tensor
    advantage_std: float

    def __len__(self) -> int:
        return len(self.steps)


def make_samples(
    rollout: Rollout,
    old_logps: Sequence[Tensor],
    ref_logps: Sequence[Tensor],
    reward_scales: Sequence[float],
    config: TrainerConfig,
) -> Samples:
    """Advantages and targets of a rollout.

    `old_logps` and `ref_logps` are those of all its steps, slot by slot. Advantages are normalised over the rollout,
    each env by itself: their rewards have scales of their own.
    """
    flat = [step for row in rollout.steps for step in row]
    rewards = rollout.rewards
    if config.kl.kind == "k1_reward":
        mask = pad_sequence([torch.ones(len(logps)) for logps in old_logps], batch_first=True)
        old, ref = (pad_sequence(list(logps), batch_first=True) for logps in (old_logps, ref_logps))
        rewards = rewards + kl_rewards(old, ref, mask, config.kl.beta).reshape(rewards.shape).double()
    advantages = gae(
        rewards,
        rollout.values,
        rollout.next_values,
        rollout.bootstraps,
        rollout.continues,
        gamma=config.gamma,
        lam=config.lam,
    )
    targets = advantages + rollout.values
    chosen = rollout.valid.flatten().nonzero().squeeze(1)
    advantages, targets, values = (tensor.flatten()[chosen].float() for tensor in (advantages, targets, rollout.values))
    steps = [flat[n] for n in chosen.tolist()]
    envs = torch.tensor([step.env for step in steps])
    normalised = torch.zeros_like(advantages)
    for env, scale in enumerate(reward_scales):
        if (envs == env).any():
            normalised[envs == env] = normalise(advantages[envs == env], scale)
    return Samples(
        steps,
        [old_logps[n] for n in chosen.tolist()],
        [ref_logps[n] for n in chosen.tolist()],
        normalised,
        torch.tensor([config.envs[env].weight for env in envs.tolist()]),
        torch.stack([step.features for step in steps]),
        targets,
        values,
        float(advantages.std(correction=0)),
    )
