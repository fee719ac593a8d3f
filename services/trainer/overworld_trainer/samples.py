"""From a rollout to samples: what each step teaches.

N slots, T steps of the longest, M valid steps, of all ranks: vectors of them are the same on each, to the last bit.
Only the steps themselves are where they were played.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from overworld import End
from overworld_vlm.load import VLM
from overworld_vlm.score import prefill_features, token_features
from overworld_vlm.stopwatch import Stopwatch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from overworld_trainer.advantages import Discount, Valuation, idle_tasks, normalise, token_gae
from overworld_trainer.config import TrainerConfig
from overworld_trainer.losses import kl_rewards
from overworld_trainer.ranks import Ranks
from overworld_trainer.reference import Reference, score_all
from overworld_trainer.rollout import Rollout, Step, StepRecord
from overworld_trainer.stop import Stop

_TIME_LIMIT_PENALTY = -1.0

ValueFunction = Callable[[Tensor], Tensor]
"""Features fp32 [B, features] -> values fp32 [B], both on the model's device."""


@dataclass(frozen=True, slots=True, eq=False)
class TokenSamples:
    """What each of a reply's T tokens teaches, where tokens have values: fp32 [T], features [T, features].

    advantages  as the policy learns from them
    """

    features: Tensor
    values: Tensor
    advantages: Tensor
    targets: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Decision:
    """A step played on this rank. old_logps, ref_logps: fp32 [T], of the rollout's policy as the training kernels see
    it, and of the reference.
    """

    step: Step
    old_logps: Tensor
    ref_logps: Tensor
    tokens: TokenSamples | None = None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Samples:
    """The valid steps of a rollout.

    decisions       those played on this rank, by their number among all M
    advantages      fp32 [M], as the policy learns from them
    weights         fp32 [M]: each env's weight
    features        fp32 [M, features], targets fp32 [M], old_values fp32 [M]: for the critic, if there is one
    slots           int64 [M]: which of the rollout's rows each step is from
    advantage_std   before normalisation
    normalised_std  after it: 1, but less in an env whose reward scale's floor binds; the smallest of the envs. None
                    where the algorithm does not normalise over the rollout
    idle_tasks      fraction of tasks that teach nothing; None where episodes of one task are not compared
    value_at_start  mean value of the states in which episodes began; None if none did, or without a critic
    """

    decisions: dict[int, Decision]
    advantages: Tensor
    weights: Tensor
    features: Tensor
    targets: Tensor
    old_values: Tensor
    slots: Tensor
    advantage_std: float
    normalised_std: float | None = None
    idle_tasks: float | None = None
    value_at_start: float | None = None

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def steps(self) -> list[Step]:
        """The steps played on this rank."""
        return [decision.step for decision in self.decisions.values()]

    def select(self, chosen: Tensor) -> Samples:
        """Those with the indices `chosen`, int64 [K]."""
        numbers = enumerate(chosen.tolist())
        return dataclasses.replace(
            self,
            decisions={new: self.decisions[old] for new, old in numbers if old in self.decisions},
            advantages=self.advantages[chosen],
            weights=self.weights[chosen],
            features=self.features[chosen],
            targets=self.targets[chosen],
            old_values=self.old_values[chosen],
            slots=self.slots[chosen],
        )

    def __repr__(self) -> str:
        return f"Samples({len(self)} steps, advantages with a standard deviation of {self.advantage_std:.3g})"


def make_samples(
    rollout: Rollout,
    vlm: VLM,
    reference: Reference,
    value: ValueFunction,
    config: TrainerConfig,
    stopwatch: Stopwatch | None = None,
    stop: Stop | None = None,
    ranks: Ranks | None = None,
) -> Samples:
    """Scores a rollout's replies and states, and works out what each step teaches.

    Raises InterruptionError and RankError. Its parts are `reference`, `old_logps` and `values`.
    """
    stopwatch, stop = stopwatch or Stopwatch(vlm.device), stop or Stop()
    steps = rollout.flat
    with stopwatch("reference"):
        ref_logps = reference.score(steps, config, stop)
    # In bf16 the sampler's kernels round differently: ratios are taken to what the training kernels say.
    exact = config.model.dtype == "float32"
    stop.meet()
    with vlm.whole():
        with stopwatch("old_logps"):
            old_logps = [step.logps for step in steps] if exact else score_all(vlm, steps, config, stop)
        with stopwatch("values"):
            valuation = estimate_values(rollout, vlm, value, config, stop, ranks)
            samples = assemble(rollout, valuation, old_logps, ref_logps, config, stop, ranks)
            return with_token_samples(samples, vlm, value, config, rollout.reward_scales)


@torch.no_grad()
def estimate_values(
    rollout: Rollout,
    vlm: VLM,
    value: ValueFunction,
    config: TrainerConfig,
    stop: Stop | None = None,
    ranks: Ranks | None = None,
) -> Valuation:
    """What happened in a rollout; with a critic, the values of all of its states, those after its border and after
    time limits included.

    Raises InterruptionError and RankError.
    """
    ranks, stop = ranks or Ranks(), stop or Stop()

    def values_of(features: Tensor) -> Tensor:
        return value(features.to(vlm.device)).cpu().double()

    played = _column(rollout, lambda step: True, False)
    valid = _column(rollout, lambda step: not step.failed, False)
    over = _column(rollout, lambda step: step.end is not None, True)
    limit = _column(rollout, lambda step: step.end is End.TIME_LIMIT, False)
    rewards = _column(rollout, lambda step: step.reward, 0.0, torch.float64)
    bootstraps = ~over | limit
    if config.time_limit == "penalty":
        bootstraps = ~over
        rewards = rewards + _TIME_LIMIT_PENALTY * limit
    features, values, next_values = torch.zeros(played.numel(), 0), torch.zeros_like(rewards), torch.zeros_like(rewards)
    if config.parts.critic:
        # The state that a step led to is the one before the next step, but where an episode or the rollout ended.
        ends = limit.clone()
        ends[:, -1] = True
        own, own_ends = _features(rollout.flat, vlm, config), _end_features(rollout, vlm, config)
        stop.meet()
        features = _place(ranks.gather_rows(own), rollout, played)
        values = values_of(features).reshape(valid.shape)
        next_values = values.roll(-1, 1)
        next_values[ends] = values_of(_place(ranks.gather_rows(own_ends), rollout, ends))
    else:
        valid &= valid.logical_or(~played).all(1, keepdim=True)  # an episode that failed on the way has no return
    # After a failed step a new episode has begun, and before it there is no advantage to take over.
    continues = ~over & valid & valid.roll(-1, 1)
    continues[:, -1] = False
    return Valuation(
        features=features,
        valid=valid,
        rewards=rewards,
        values=values,
        next_values=next_values,
        bootstraps=bootstraps,
        continues=continues,
        tasks=_column(rollout, lambda step: step.task, 0)[:, 0],
        states=_column(rollout, lambda step: step.state, 0),
        scales=torch.tensor([rollout.reward_scales[row[0].env] for row in rollout.records], dtype=torch.float64),
    )


def assemble(
    rollout: Rollout,
    valuation: Valuation,
    old_logps: Sequence[Tensor],
    ref_logps: Sequence[Tensor],
    config: TrainerConfig,
    stop: Stop | None = None,
    ranks: Ranks | None = None,
) -> Samples:
    """Advantages and targets of a rollout.

    `old_logps` and `ref_logps` are those of the steps played here, slot by slot. Advantages are normalised over the
    rollout, each env by itself: their rewards have different scales. Raises InterruptionError and RankError.
    """
    parts, discount = config.parts, Discount(config.gamma, config.lam)
    if config.kl.kind == "k1_reward":
        mask = pad_sequence([torch.ones(len(logps)) for logps in old_logps], batch_first=True)
        old, ref = (pad_sequence(list(logps), batch_first=True) for logps in (old_logps, ref_logps))
        (stop or Stop()).meet()
        penalties = (ranks or Ranks()).gather_rows(kl_rewards(old, ref, mask, config.kl.beta))
        played = _column(rollout, lambda step: True, False)
        rewards = valuation.rewards.clone()
        rewards[played] += _place(penalties, rollout, played).double()
        valuation = dataclasses.replace(valuation, rewards=rewards)
    advantages = parts.advantages(valuation, discount)
    targets = advantages + valuation.values
    starts = _column(rollout, lambda step: step.turn == 0, False)
    value_at_start = valuation.values[starts].mean().item() if parts.critic and starts.any() else None
    chosen = valuation.valid.flatten().nonzero().squeeze(1)
    advantages, targets, values = (
        tensor.flatten()[chosen].float() for tensor in (advantages, targets, valuation.values)
    )
    length = valuation.valid.shape[1]
    slots = chosen // length
    envs = torch.tensor([row[0].env for row in rollout.records])[slots]
    learnt, normalised_stds = advantages.clone(), []
    for env, scale in enumerate(rollout.reward_scales) if parts.normalised else ():
        if (envs == env).any():
            learnt[envs == env] = normalise(advantages[envs == env], scale)
            normalised_stds.append(float(learnt[envs == env].std(correction=0)))
    own = [row * length + turn for row in rollout.rows[rollout.rank] for turn in range(len(rollout.records[row]))]
    decisions = dict(zip(own, map(Decision, rollout.flat, old_logps, ref_logps), strict=True))
    return Samples(
        decisions={new: decisions[old] for new, old in enumerate(chosen.tolist()) if old in decisions},
        advantages=learnt,
        weights=torch.tensor([config.envs[env].weight for env in envs.tolist()]),
        features=valuation.features[chosen],
        targets=targets,
        old_values=values,
        slots=slots,
        advantage_std=float(advantages.std(correction=0)),
        normalised_std=min(normalised_stds, default=None),
        idle_tasks=idle_tasks(valuation, discount) if parts.grouped else None,
        value_at_start=value_at_start,
    )


@torch.no_grad()
def with_token_samples(
    samples: Samples, vlm: VLM, value: ValueFunction, config: TrainerConfig, reward_scales: Sequence[float]
) -> Samples:
    """The samples with what each token teaches, if the algorithm has values of tokens. All steps were played here.

    Advantages are normalised over all tokens of an env.
    """
    if not config.parts.of_tokens:
        return samples
    steps = samples.steps
    features = token_features(vlm, [step.prompt for step in steps], [step.reply for step in steps])
    values = [value(one.to(vlm.device)).cpu().double() for one in features]
    returns = samples.targets.tolist()
    advantages = [token_gae(own, end, config.lam) for own, end in zip(values, returns, strict=True)]
    learnt = list(advantages)
    for env, scale in enumerate(reward_scales):
        chosen = [number for number, step in enumerate(steps) if step.env == env]
        if chosen:
            together = normalise(torch.cat([advantages[number] for number in chosen]), scale)
            parts = together.split([len(advantages[number]) for number in chosen])
            for number, part in zip(chosen, parts, strict=True):
                learnt[number] = part
    decisions = {
        number: dataclasses.replace(
            decision,
            tokens=TokenSamples(
                features[number],
                values[number].float(),
                learnt[number].float(),
                (advantages[number] + values[number]).float(),
            ),
        )
        for number, decision in samples.decisions.items()
    }
    return dataclasses.replace(samples, decisions=decisions)


def _column(
    rollout: Rollout, read: Callable[[StepRecord], Any], missing: Any, dtype: torch.dtype | None = None
) -> Tensor:
    """Something of each step of all slots, [N, T], and `missing` where a slot has played fewer steps."""
    longest = max(map(len, rollout.records))
    return torch.tensor([[*map(read, row), *[missing] * (longest - len(row))] for row in rollout.records], dtype=dtype)


def _features(steps: Sequence[Step], vlm: VLM, config: TrainerConfig) -> Tensor:
    """Features of the prompts, fp32 [n x T, features]: the writer's, or computed here if it gave none."""
    known = [step.features for step in steps if step.features is not None]
    if len(known) == len(steps):
        return torch.stack(known)
    prompts = [step.prompt for step in steps]
    return prefill_features(vlm, prompts, config.critic.input)


def _end_features(rollout: Rollout, vlm: VLM, config: TrainerConfig) -> Tensor:
    """Features, fp32 [..., features], of the states that this rank's steps led to at time limits and at the end."""
    prompts = []
    for row, following in zip(rollout.steps, rollout.next_prompts, strict=True):
        prompts += [step.final for step in row if step.final is not None]
        if row[-1].final is None:
            prompts.append(following)
    return prefill_features(vlm, prompts, config.critic.input)


def _place(parts: Sequence[Tensor], rollout: Rollout, where: Tensor) -> Tensor:
    """What the ranks have of their steps, each [k, ...], put in the rollout's order.

    where  bool [N, T]: the steps that they have it of
    """
    numbers = where.flatten().cumsum(0).reshape(where.shape) - 1
    placed = parts[0].new_empty((int(where.sum()), *parts[0].shape[1:]))
    for rows, part in zip(rollout.rows, parts, strict=True):
        placed[numbers[rows][where[rows]]] = part
    return placed
