"""The losses as pure functions. B steps (replies), T tokens of the longest.

Every token of a step is normalised by its own step first, then steps by their number: a mean over all tokens of a
minibatch would let long replies dominate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

KlKind = Literal["k3_loss", "k2_loss", "k1_reward", "none"]

_MAX_LOG_RATIO = 10.0


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class PolicyLoss:
    """`loss` fp32 [B], with gradient; the rest describes it and has none.

    clipped    [B]: fraction of the step's tokens at which the clip took the gradient away
    k1, k3     [B]: KL(policy || reference) over the step's tokens on average, by both estimators
    max_ratio  []: largest ratio of all tokens
    """

    loss: Tensor
    clipped: Tensor
    k1: Tensor
    k3: Tensor
    max_ratio: Tensor


def policy_loss(
    logps: Tensor,
    old_logps: Tensor,
    ref_logps: Tensor,
    mask: Tensor,
    advantages: Tensor,
    *,
    clip: float,
    kl: KlKind,
    beta: float,
    dual_clip: float | None = None,
    token_weights: Tensor | None = None,
) -> PolicyLoss:
    """PPO with a per-token KL to the reference (arXiv 2508.04280, Eq. 3 and 5), per step.

    (1 / T_s) sum over tokens of -min(r A, clip(r, 1 - clip, 1 + clip) A) + beta K

    Each token has its own ratio r. With `token_weights` all of a step's tokens have one: that of the step's
    probability, in whose logarithm each token's counts with its weight (arXiv 2405.10292, Eq. 4).

    Where A < 0, -r A has no upper bound. `dual_clip` bounds it by -`dual_clip` A (arXiv 1912.09729, Eq. 5).

    logps, old_logps, ref_logps  fp32 [B, T]: now, at the rollout, of the reference
    mask                         bool [B, T]: the tokens of each reply
    advantages                   fp32 [B], one for all tokens of a step, or [B, T], one for each
    token_weights                fp32 [B, T]
    """
    log_ratio = logps - old_logps
    if token_weights is not None:
        log_ratio = (log_ratio * token_weights * mask).sum(1, keepdim=True).expand_as(logps)
    ratio = log_ratio.exp()
    advantage = advantages if advantages.ndim == 2 else advantages[:, None]
    surrogate = torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)
    if dual_clip is not None:
        surrogate = torch.where(advantage < 0, torch.maximum(surrogate, dual_clip * advantage), surrogate)
    loss = -surrogate + beta * kl_penalty(logps, ref_logps, kl)
    with torch.no_grad():
        # The minimum picks the clipped, flat side where the ratio has moved too far in the advantage's direction.
        clipped = torch.where(advantage > 0, ratio > 1 + clip, ratio < 1 - clip) & (advantage != 0)
        if dual_clip is not None:
            clipped |= (advantage < 0) & (ratio > dual_clip)
        moved = logps - ref_logps
        k3 = k3_estimate(-moved)
    return PolicyLoss(
        loss=step_mean(loss, mask),
        clipped=step_mean(clipped.float(), mask),
        k1=step_mean(moved, mask).detach(),
        k3=step_mean(k3, mask),
        max_ratio=ratio.detach().masked_fill(~mask, 0.0).max(),
    )


def k3_estimate(log_ratio: Tensor) -> Tensor:
    """exp(d) - d - 1 per token for d = log q - log p: its mean over tokens drawn from p estimates KL(p || q)."""
    return torch.expm1(log_ratio) - log_ratio


def kl_penalty(logps: Tensor, ref_logps: Tensor, kind: KlKind) -> Tensor:
    """The KL term of each token, [B, T].

    k3_loss  exp(d) - d - 1 with d = ref - now within +-10: its value estimates KL(policy || reference), its gradient as
             a loss is that of KL(reference || policy). The paper's.
    k2_loss  d^2 / 2: its gradient is that of KL(policy || reference).
    others   0: k1_reward is subtracted from the rewards (`kl_rewards`).
    """
    if kind == "k3_loss":
        difference = (ref_logps - logps).clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO)
        return difference.exp() - difference - 1
    if kind == "k2_loss":
        return (ref_logps - logps) ** 2 / 2
    return torch.zeros_like(logps)


def kl_rewards(old_logps: Tensor, ref_logps: Tensor, mask: Tensor, beta: float) -> Tensor:
    """What k1_reward adds to each step's reward, [B]: -beta times the sum of its tokens' log-ratios at the rollout."""
    return -beta * ((old_logps - ref_logps) * mask).sum(1)


def value_loss(values: Tensor, old_values: Tensor, targets: Tensor, clip: float | None = None) -> Tensor:
    """1/2 (V - target)^2 per step, [B] (arXiv 2508.04280, Eq. 4), without the coefficient c_V.

    `clip` bounds how far V may move from `old_values`, as PPO implementations do; None: no bound.
    """
    loss = (values - targets) ** 2
    if clip is not None:
        near = old_values + (values - old_values).clamp(-clip, clip)
        loss = torch.maximum(loss, (near - targets) ** 2)
    return loss / 2


def step_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the tokens of each step, [B]."""
    return (values * mask).sum(1) / mask.sum(1)
