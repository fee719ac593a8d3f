"""Advantages per environment step: GAE over the values recorded in the rollout. N slots, T steps."""

from __future__ import annotations

import torch
from torch import Tensor


def gae(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    bootstraps: Tensor,
    continues: Tensor,
    *,
    gamma: float,
    lam: float,
) -> Tensor:
    """Step-level GAE(gamma, lambda), fp64 [N, T]: the value targets are these plus `values`.

    delta_t = r_t + gamma V(s_{t+1}) c_t - V(s_t);  A_t = delta_t + gamma lambda d_t A_{t+1}

    rewards, values  [N, T]
    next_values      [N, T]: V of the state that step t led to; at a time limit of the true final observation
    bootstraps       bool [N, T]: c_t, False where the episode ended by the task or by a rule
    continues        bool [N, T]: d_t, True where step t + 1 belongs to the same episode and to this rollout
    """
    deltas = rewards.double() + gamma * next_values.double() * bootstraps - values.double()
    advantages = torch.zeros_like(deltas)
    following = torch.zeros_like(deltas[:, 0])
    for step in reversed(range(deltas.shape[1])):
        following = deltas[:, step] + gamma * lam * continues[:, step] * following
        advantages[:, step] = following
    return advantages


def normalise(advantages: Tensor, reward_scale: float) -> Tensor:
    """Advantages of a rollout's steps, [M], for the policy: mean 0, standard deviation 1.

    The divisor is at least a tenth of the reward scale: without that floor an env that gives no reward would have its
    noise blown up, and the policy would drift.
    """
    centred = advantages - advantages.mean()
    return centred / advantages.std(correction=0).clamp(min=0.1 * reward_scale)
