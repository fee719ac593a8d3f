"""The algorithms, each put together from the same parts: how advantages come about, what a ratio is of, and a critic.

All else is the same for all of them: PPO's clip, the KL to the policy at the start of RL, the mean over a step's tokens
and then over steps, gamma, optimizers, minibatches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from overworld_trainer.advantages import (
    Discount,
    Valuation,
    gae,
    group_in_group,
    group_relative,
    leave_one_out,
    reward_to_go,
)

AlgorithmName = Literal["vl_dac", "rl4vlm", "bilevel_gae", "reward_to_go", "loop", "rloo", "grpo", "gigpo"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Algorithm:
    """The parts of an algorithm.

    advantages  [N, T] of a rollout's steps
    normalised  whether these are then normalised over the rollout, env by env; else they have their scale already
    ratio       what has one: each token; or a reply as a whole, in whose log-prob thoughts may be weighted
    critic      whether values are learnt. Without one nothing can be bootstrapped: every slot plays one whole episode
                per update, and what a time limit cuts off counts as nothing
    grouped     whether an env's slots play each task `group_size` times
    of_tokens   whether each token has a value and an advantage of its own, by `token_gae` from its step's return
    """

    advantages: Callable[[Valuation, Discount], Tensor]
    normalised: bool
    ratio: Literal["token", "reply", "weighted reply"]
    critic: bool
    grouped: bool
    of_tokens: bool = False


ALGORITHMS: dict[AlgorithmName, Algorithm] = {
    # arXiv 2508.04280, Eq. 3 to 5
    "vl_dac": Algorithm(advantages=gae, normalised=True, ratio="token", critic=True, grouped=False),
    # arXiv 2405.10292, Eq. 4: log pi(a | o) = thought_weight x log pi(thoughts) + log pi(action | thoughts)
    "rl4vlm": Algorithm(advantages=gae, normalised=True, ratio="weighted reply", critic=True, grouped=False),
    # VAGEN, arXiv 2510.16907
    "bilevel_gae": Algorithm(
        advantages=gae, normalised=True, ratio="token", critic=True, grouped=False, of_tokens=True
    ),
    # VL-DAC's returns without its critic
    "reward_to_go": Algorithm(advantages=reward_to_go, normalised=True, ratio="token", critic=False, grouped=False),
    # arXiv 2502.01600, with a ratio per token
    "loop": Algorithm(advantages=leave_one_out, normalised=False, ratio="token", critic=False, grouped=True),
    # arXiv 2402.14740, where a reply as a whole is the action
    "rloo": Algorithm(advantages=leave_one_out, normalised=False, ratio="reply", critic=False, grouped=True),
    # arXiv 2402.03300, Eq. 3
    "grpo": Algorithm(advantages=group_relative, normalised=False, ratio="token", critic=False, grouped=True),
    # arXiv 2505.10978
    "gigpo": Algorithm(advantages=group_in_group, normalised=False, ratio="token", critic=False, grouped=True),
}
