"""Advantages per environment step, as pure functions in fp64. N rows (slots), T steps of the longest.

What a critic knows is recorded in the rollout (`gae`). Without one, episodes are whole, one a row, and are compared
with each other: with all of the rollout (`reward_to_go`) or with those of the same task (the others).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Discount(NamedTuple):
    """gamma, and GAE's lambda."""

    gamma: float
    lam: float


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Valuation:
    """What happened in a rollout, and what the critic thought of it. [N, T] where nothing else is said.

    features     fp32 [N x T, features] of the prompts, row by row; no features without a critic
    valid        False where nothing was played, or a step failed inside a server
    rewards      fp64
    values       fp64: V of the state before each step; 0 without a critic
    next_values  fp64: V of the state that step t led to; at a time limit of the true final observation
    bootstraps   bool: c_t, False where the episode ended by the task or by a rule
    continues    bool: d_t, True where step t + 1 belongs to the same episode and to this rollout
    tasks        int64 [N]: equal where whole episodes were of the same task
    states       int64: equal where the agent saw the same
    scales       fp64 [N]: size of the rewards of each row's env
    """

    features: Tensor
    valid: Tensor
    rewards: Tensor
    values: Tensor
    next_values: Tensor
    bootstraps: Tensor
    continues: Tensor
    tasks: Tensor
    states: Tensor
    scales: Tensor


def gae(valuation: Valuation, discount: Discount) -> Tensor:
    """Step-level GAE(gamma, lambda) (arXiv 1506.02438, Eq. 16), [N, T]: the value targets are these plus the values.

    delta_t = r_t + gamma V(s_{t+1}) c_t - V(s_t);  A_t = delta_t + gamma lambda d_t A_{t+1}
    """
    gamma, lam = discount
    following = gamma * valuation.next_values.double() * valuation.bootstraps
    deltas = valuation.rewards.double() + following - valuation.values.double()
    return _accumulate(deltas, valuation.continues, gamma * lam)


def token_gae(values: Tensor, step_return: float, lam: float) -> Tensor:
    """The lower level of bi-level GAE (VAGEN, arXiv 2510.16907): GAE over a reply's tokens, [T].

    The reply is an episode of its own, whose reward comes with its last token and is the step's return by the upper
    level: `gae` plus the value of the prompt. Tokens take no time in the env, so that nothing is discounted.

    delta_t = V_{t+1} - V_t, and return - V_t at the last token;  A_t = delta_t + lam A_{t+1}

    values  fp64 [T]: V before each token is drawn; the first one is the prompt's
    """
    deltas = torch.cat([values[1:], values.new_tensor([step_return])]) - values
    continues = torch.ones(1, len(values), dtype=torch.bool)
    continues[0, -1] = False
    return _accumulate(deltas[None], continues, lam)[0]


def reward_to_go(valuation: Valuation, discount: Discount) -> Tensor:
    """The discounted rewards from each step to its episode's end, [N, T]: G_t = r_t + gamma d_t G_{t+1}."""
    return _accumulate(valuation.rewards.double(), valuation.continues, discount.gamma)


def leave_one_out(valuation: Valuation, discount: Discount) -> Tensor:
    """Each episode's return less the mean of the others of its task, for all of its steps, [N, T].

    In units of the reward scale. LOOP (arXiv 2502.01600, Section 3) and RLOO (arXiv 2402.14740, Section 3.3).
    """
    returns, tasks, weights = _episodes(valuation, discount)
    counts = _sums(weights, tasks)
    others = (_sums(returns * weights, tasks) - returns) / (counts - 1).clamp(min=1)
    advantages = torch.where(counts > 1, (returns - others) / valuation.scales, 0.0)
    return advantages[:, None] * valuation.valid


def group_relative(valuation: Valuation, discount: Discount) -> Tensor:
    """Each episode's return, less the mean over its task's and divided by their standard deviation, [N, T].

    GRPO (arXiv 2402.03300, Section 4.1.2). The divisor has the floor of `normalise`.
    """
    returns, tasks, weights = _episodes(valuation, discount)
    return _relative(returns, tasks, weights, valuation.scales)[:, None] * valuation.valid


def group_in_group(valuation: Valuation, discount: Discount) -> Tensor:
    """`group_relative`, plus the same of each step's reward-to-go among the steps that saw the same, [N, T].

    GiGPO (arXiv 2505.10978, Section 4) with omega 1: steps of one task that the agent took from an equal observation
    form a group of their own. A step that is alone in it gets the episode's part only.
    """
    numbers: dict[tuple[int, int], int] = {}
    tasks = valuation.tasks[:, None].expand_as(valuation.states).flatten().tolist()
    pairs = list(zip(tasks, valuation.states.flatten().tolist(), strict=True))
    states = torch.tensor([numbers.setdefault(pair, len(numbers)) for pair in pairs])
    scales = valuation.scales[:, None].expand_as(valuation.states).flatten()
    to_go, valid = reward_to_go(valuation, discount).flatten(), valuation.valid.double().flatten()
    steps = _relative(to_go, states, valid, scales).reshape(valuation.valid.shape)
    return (group_relative(valuation, discount) + steps) * valuation.valid


def normalise(advantages: Tensor, reward_scale: float) -> Tensor:
    """Advantages of a rollout's steps, [M], for the policy: mean 0, standard deviation 1.

    The divisor is at least a tenth of the reward scale: without that floor an env that gives no reward would have its
    noise blown up, and the policy would drift.
    """
    centred = advantages - advantages.mean()
    return centred / advantages.std(correction=0).clamp(min=_FLOOR * reward_scale)


def idle_tasks(valuation: Valuation, discount: Discount) -> float:
    """The fraction of tasks that teach nothing, since all of their episodes had the same return."""
    returns, tasks, weights = _episodes(valuation, discount)
    played = weights > 0
    spreads = [
        (own.max() - own.min()).item() for task in tasks[played].unique() for own in [returns[played & (tasks == task)]]
    ]
    return sum(spread == 0 for spread in spreads) / len(spreads)


_FLOOR = 0.1


def _accumulate(deltas: Tensor, continues: Tensor, discount: float) -> Tensor:
    """Discounted sums of what is to come within each episode, [N, T]."""
    sums = torch.zeros_like(deltas)
    following = torch.zeros_like(deltas[:, 0])
    for step in reversed(range(deltas.shape[1])):
        following = deltas[:, step] + discount * continues[:, step] * following
        sums[:, step] = following
    return sums


def _episodes(valuation: Valuation, discount: Discount) -> tuple[Tensor, Tensor, Tensor]:
    """Each row's discounted return, its task's number, and whether it counts (1 or 0): all [N]."""
    returns = reward_to_go(valuation, discount)[:, 0]
    weights = valuation.valid[:, 0].double()
    return returns * weights, valuation.tasks.unique(return_inverse=True)[1], weights


def _sums(values: Tensor, groups: Tensor) -> Tensor:
    """The sum over the group that each value is in, [M], of values fp64 [M] in groups int64 [M] from 0 on."""
    return torch.zeros(len(values), dtype=values.dtype).index_add(0, groups, values)[groups]


def _relative(values: Tensor, groups: Tensor, weights: Tensor, scales: Tensor) -> Tensor:
    """How far each value is from its group's mean, in units of the group's standard deviation, [M].

    weights  fp64 [M]: 1, or 0 for values that do not count
    """
    counts = _sums(weights, groups).clamp(min=1)
    centred = values - _sums(values * weights, groups) / counts
    deviations = (_sums(centred.square() * weights, groups) / counts).sqrt()
    return centred / torch.maximum(deviations, _FLOOR * scales)
