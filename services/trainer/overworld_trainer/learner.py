"""The updates: PPO for the policy, regression for the critic, each with its own optimizer."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from overworld.errors import SettingsError
from overworld_vlm.batch import split
from overworld_vlm.load import VLM
from overworld_vlm.score import Scores, score
from overworld_vlm.sharding import full
from overworld_vlm.stopwatch import Stopwatch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from overworld_trainer.config import TrainerConfig
from overworld_trainer.critic import Critic
from overworld_trainer.losses import PolicyLoss, k3_estimate, policy_loss, step_mean, value_loss
from overworld_trainer.masters import MasterAdam
from overworld_trainer.metrics import Metric, Metrics
from overworld_trainer.ranks import Ranks
from overworld_trainer.rollout import Step
from overworld_trainer.samples import Samples
from overworld_trainer.seeds import derive
from overworld_trainer.snapshot import Snapshot
from overworld_trainer.stop import InterruptionError, Stop
from overworld_trainer.warmup import BestEpoch, hold_out


class Learner:
    """Owns the optimizers of a model's trainable weights and of its critic. Its parts are `critic` and `update`."""

    def __init__(
        self,
        config: TrainerConfig,
        vlm: VLM,
        critic: Critic,
        stopwatch: Stopwatch | None = None,
        stop: Stop | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        self._config = config
        self._ranks = ranks or Ranks()
        self._stop = stop or Stop()
        self._stopwatch = stopwatch or Stopwatch(vlm.device)
        self._vlm = vlm
        self.critic = critic
        weights = [parameter for parameter in vlm.model.parameters() if parameter.requires_grad]
        self.policy_optimizer = MasterAdam(weights, lr=config.policy.lr)
        self.critic_optimizer = torch.optim.Adam(critic.parameters(), lr=config.critic.lr)
        self._before = Snapshot(self.policy_optimizer, self.critic_optimizer)
        self._trains_vision = any(weight.requires_grad for weight in vlm.vision.parameters())
        if config.model.gradient_checkpointing:
            vlm.core.gradient_checkpointing_enable({"use_reentrant": False})

    def __repr__(self) -> str:
        trained = sum(weight.numel() for weight in self.policy_optimizer.masters)
        return f"Learner({self._vlm!r}, {trained:,} weights trained, critic of {self._config.critic.layers})"

    def update(self, samples: Samples, update: int) -> Metrics:
        """Learns from one rollout. During warm-up the policy's optimizer is not touched at all.

        Raises InterruptionError, and then weights and optimizers are what they were before, RankError and
        RanksDifferError.
        """
        self._stop.meet()
        alike = {"advantages": [samples.advantages], "values": self.critic.parameters()}
        if not self._vlm.sharded:
            alike["weights"] = self.policy_optimizer.masters
        self._ranks.require_alike(alike)
        self._before.take()
        try:
            return self._learn(samples, update)
        except InterruptionError:
            self._vlm.model.eval()
            self._before.restore()
            self.policy_optimizer.publish()
            raise

    def _learn(self, samples: Samples, update: int) -> Metrics:
        warming_up = update < self._config.warmup_updates
        metrics: Metrics = {}
        if self._config.parts.critic:
            with self._stopwatch("critic"):
                # The head learns from the rollout's features alone, whether or not the backbone shares its gradient.
                metrics = self._warm_up_critic(samples, update) if warming_up else self._fit_critic(samples, update)
        self._stop.meet()
        if not warming_up:
            with self._stopwatch("update"):
                metrics |= self._improve_policy(samples, update)
        metrics[Metric.LEARNING_RATE] = self.learning_rate(update)
        return metrics

    def learning_rate(self, update: int) -> float:
        """The policy's: a cosine from `lr` at the end of warm-up to `lr_end` after `lr_updates`; 0 during warm-up."""
        config = self._config
        if update < config.warmup_updates:
            return 0.0
        length = max((config.policy.lr_updates or config.updates) - 1 - config.warmup_updates, 1)
        progress = min((update - config.warmup_updates) / length, 1.0)
        policy = config.policy
        return policy.lr_end + (policy.lr - policy.lr_end) * (1 + math.cos(math.pi * progress)) / 2

    def _fit_critic(self, samples: Samples, update: int) -> Metrics:
        """Regression on the rollout's features, which takes no forward pass of the model."""
        data, means = self._critic_data(samples), _RunningMeans()
        for epoch in range(self._config.critic.epochs):
            self._fit_epoch(data, len(samples), update, epoch, means)
        return means.means() | {Metric.CRITIC_EPOCHS: self._config.critic.epochs}

    def _warm_up_critic(self, samples: Samples, update: int) -> Metrics:
        """The same with as many epochs as improve the prediction of held-out slots, within the bounds set."""
        config = self._config.critic
        fitted, held_out = hold_out(samples.slots, update)
        if config.warmup_epochs <= config.epochs or not len(fitted):
            return self._fit_critic(samples, update)
        data, means = self._critic_data(samples.select(fitted)), _RunningMeans()
        features, targets, _ = self._critic_data(samples.select(held_out))
        best = BestEpoch(self.critic, self.critic_optimizer)
        for epoch in range(config.warmup_epochs):
            self._fit_epoch(data, len(fitted), update, epoch, means)
            with torch.no_grad():
                error = (self.critic(features) - targets).square().mean().item()
            if epoch + 1 >= config.epochs and not best.add(epoch + 1, error):
                break
        best.restore()
        variance = targets.var(correction=0).item()
        return means.means() | {
            Metric.CRITIC_EPOCHS: best.epoch,
            Metric.HELD_OUT_EXPLAINED_VARIANCE: 1 - best.error / variance if variance > 0 else 0.0,
        }

    def _critic_data(self, samples: Samples) -> _CriticData:
        """Of each step, or of each of its tokens."""
        tensors = [samples.features, samples.targets, samples.old_values]
        if self._config.parts.of_tokens:
            tokens = [one.tokens for one in samples.decisions.values() if one.tokens is not None]
            tensors = [torch.cat([getattr(one, name) for one in tokens]) for name in ("features", "targets", "values")]
        return _CriticData(*(tensor.to(self._device) for tensor in tensors))

    def _fit_epoch(self, data: _CriticData, steps: int, update: int, epoch: int, means: _RunningMeans) -> None:
        config = self._config.critic
        size = config.minibatch * len(data.targets) // steps  # as many optimizer steps for tokens as for steps
        for chosen in self._minibatches("critic", len(data.targets), size, update, epoch):
            self._stop.check()
            features, targets, old_values = (tensor[chosen] for tensor in data)
            loss = value_loss(self.critic(features), old_values, targets, config.clip).mean()
            self.critic_optimizer.zero_grad()
            (config.coefficient * loss).backward()
            norm = torch.nn.utils.clip_grad_norm_(self.critic.parameters(), config.max_grad_norm)
            self.critic_optimizer.step()
            means.add({Metric.VALUE_LOSS: loss.item(), Metric.VALUE_GRAD_NORM: norm.item()})

    def _improve_policy(self, samples: Samples, update: int) -> Metrics:
        """PPO: some epochs of minibatches, each one optimizer step from accumulated micro-batches."""
        config = self._config
        for group in self.policy_optimizer.param_groups:
            group["lr"] = self.learning_rate(update)
        means = _RunningMeans()
        sampler = _RunningMeans()  # in the first minibatch, before any weight has changed
        first = True
        self._vlm.model.train()  # nothing drops out; this is what turns on gradient checkpointing
        for epoch in range(config.policy.epochs):
            for chosen in self._policy_minibatches(samples, update, epoch):
                self.policy_optimizer.zero_grad()
                for micro, factor in self._microbatches(samples, chosen):
                    scores, policy, loss = self._loss(micro)
                    (factor * loss / len(chosen)).backward()
                    if factor:
                        self._measure(means, micro, scores, policy)
                        if first:
                            self._compare_with_sampler(sampler, micro, scores)
                first = False
                self._stop.meet()
                if not self._vlm.sharded:
                    self._ranks.sum_gradients(self.policy_optimizer.masters)
                norm = torch.nn.utils.clip_grad_norm_(self.policy_optimizer.masters, config.policy.max_grad_norm)
                self.policy_optimizer.step()
                means.add({Metric.POLICY_GRAD_NORM: full(norm).item()})
        self._vlm.model.eval()
        self._stop.meet()
        return means.pool(self._ranks) | sampler.pool(self._ranks)

    def _loss(self, samples: Samples) -> tuple[Scores, PolicyLoss, Tensor]:
        """What was scored, and the weighted sum of the losses, [], of this rank's samples."""
        config = self._config
        decisions = list(samples.decisions.values())
        if self._vlm.sharded and self._trains_vision and not any(step.prompt.pictures for step in samples.steps):
            raise SettingsError(
                "parallel = shard: where the vision tower is trained, every prompt must show a frame, else ranks would "
                "wait for each other forever: set model.freeze_vision=true or parallel=replicate"
            )
        scores = self._score(samples.steps)
        policy = policy_loss(
            scores.logps,
            self._padded([one.old_logps for one in decisions]),
            self._padded([one.ref_logps for one in decisions]),
            scores.mask,
            self._advantages(samples),
            clip=config.policy.clip,
            dual_clip=config.policy.dual_clip,
            kl=config.kl.kind,
            beta=config.kl.beta,
            token_weights=self._token_weights(samples, scores.mask),
        )
        loss = policy.loss
        if config.parts.critic and not config.critic.stop_gradient:
            loss = loss + config.critic.coefficient * self._shared_value_loss(samples, scores)
        return scores, policy, (samples.weights.to(self._device) * loss).sum()

    def _advantages(self, samples: Samples) -> Tensor:
        """One for each step, fp32 [B], or for each token, [B, T]."""
        if not self._config.parts.of_tokens:
            return samples.advantages.to(self._device)
        return self._padded([one.tokens.advantages for one in samples.decisions.values() if one.tokens is not None])

    def _token_weights(self, samples: Samples, mask: Tensor) -> Tensor | None:
        """What each token's log-prob weighs in that of its reply, fp32 [B, T]; None where each token has a ratio."""
        match self._config.parts.ratio:
            case "token":
                return None
            case "reply":
                return torch.ones_like(mask, dtype=torch.float32)
            case "weighted reply":
                return torch.where(self._in_thoughts(samples, mask), self._config.policy.thought_weight, 1.0)

    def _in_thoughts(self, samples: Samples, mask: Tensor) -> Tensor:
        """Whether each token stands before the action's key, bool [B, T]."""
        thinking = torch.tensor([step.thinking for step in samples.steps], device=self._device)
        return torch.arange(mask.shape[1], device=self._device) < thinking[:, None]

    def _score(self, steps: Sequence[Step]) -> Scores:
        # A part of its own in each micro-batch: between parts, a profiler may stop recording.
        with self._stopwatch("update"):
            return score(
                self._vlm,
                [step.prompt for step in steps],
                [step.reply for step in steps],
                temperature=self._config.temperature,
                value_input=self._config.critic.input,
                entropy=True,
            )

    def _shared_value_loss(self, samples: Samples, scores: Scores) -> Tensor:
        """The value loss from the model's own features, [B], with the backbone's gradient and without the head's.

        The head has been fitted already; if it also learnt here, switching the stop-gradient off would change two
        things: what the backbone learns and how many steps the head makes.
        """
        head = {name: weight.detach() for name, weight in self.critic.named_parameters()}
        values = torch.func.functional_call(self.critic, head, (scores.features,))
        targets, old_values = samples.targets.to(self._device), samples.old_values.to(self._device)
        return value_loss(values, old_values, targets, self._config.critic.clip)

    def _measure(self, means: _RunningMeans, samples: Samples, scores: Scores, policy: PolicyLoss) -> None:
        means.add_all(Metric.POLICY_LOSS, policy.loss)
        means.add_all(Metric.CLIPFRAC, policy.clipped)
        means.add_all(Metric.KL_K1, policy.k1)
        means.add_all(Metric.KL_K3, policy.k3)
        means.add_largest(Metric.MAX_RATIO, policy.max_ratio.item())
        assert scores.entropy is not None
        in_thoughts = self._in_thoughts(samples, scores.mask)
        parts = {
            Metric.ENTROPY_THOUGHTS: in_thoughts & scores.mask,
            Metric.ENTROPY_ACTION: ~in_thoughts & scores.mask,
        }
        for name, where in parts.items():
            some = where.any(1)
            means.add_all(name, step_mean(scores.entropy[some], where[some]))

    def _compare_with_sampler(self, means: _RunningMeans, samples: Samples, scores: Scores) -> None:
        """How far the sampler's log-probs are from the training kernels'."""
        sampled = self._padded([step.logps for step in samples.steps])
        differences = (scores.logps.detach() - sampled)[scores.mask]
        means.add_largest(Metric.MAX_LOGPROB_ERROR, differences.abs().max().item())
        means.add_all(Metric.MEAN_LOGPROB_ERROR, differences.abs())
        means.add_all(Metric.SAMPLER_KL, k3_estimate(differences))

    def _policy_minibatches(self, samples: Samples, update: int, epoch: int) -> Iterator[Tensor]:
        """Indices of each minibatch, in order."""
        if self._config.parts.critic:
            return self._stratified_minibatches(samples, update, epoch)
        # Whole episodes differ in length: as many steps of each slot would make minibatches of all sizes.
        minibatches = self._minibatches("policy", len(samples), self._config.policy.minibatch, update, epoch)
        return (chosen.sort().values for chosen in minibatches)

    def _minibatches(self, whose: str, count: int, size: int, update: int, epoch: int) -> Iterator[Tensor]:
        """Indices of each minibatch, in an order that the run's seed decides. They differ in size by one at most."""
        generator = torch.Generator().manual_seed(derive(self._config.seed, "minibatches", whose, update, epoch))
        order = torch.randperm(count, generator=generator)
        return iter(order.tensor_split(max(round(count / size), 1)))

    def _stratified_minibatches(self, samples: Samples, update: int, epoch: int) -> Iterator[Tensor]:
        """Indices of each minibatch, in order. Each takes the same number of steps of every slot.

        So they are the same for any number of ranks, and each rank has as much to do as the others. Where there are
        more minibatches than a slot has steps, each takes one step of some of the slots.
        """
        generator = torch.Generator().manual_seed(derive(self._config.seed, "minibatches", "policy", update, epoch))

        def shuffled(values: Tensor) -> Tensor:
            return values[torch.randperm(len(values), generator=generator)]

        slots = [shuffled((samples.slots == slot).nonzero().squeeze(1)) for slot in shuffled(samples.slots.unique())]
        count = max(round(len(samples) / self._config.policy.minibatch), 1)
        groups = math.ceil(count / max(map(len, slots)))
        for group in range(groups):
            parts = [steps.tensor_split(max(round(count / groups), 1)) for steps in slots[group::groups]]
            for minibatch in map(torch.cat, zip(*parts, strict=True)):
                if len(minibatch):
                    yield minibatch.sort().values

    def _microbatches(self, samples: Samples, chosen: Tensor) -> Iterator[tuple[Samples, float]]:
        """This rank's samples in a minibatch, in parts that go through the model at once, and the factor of their loss.

        Where weights are sharded, ranks have equally many parts: spare ones count for nothing.
        """
        own = [number for number in chosen.tolist() if number in samples.decisions]
        # In order: a slot's steps show the same frames, each of which a batch encodes once.
        steps = [samples.decisions[number].step for number in own]
        parts = split([len(step.prompt) + len(step.reply) for step in steps], self._vlm.batch_tokens)
        micros = [samples.select(chosen.new_tensor([own[n] for n in part])) for part in parts]
        if not self._vlm.sharded:
            for micro in micros:
                self._stop.check()
                yield micro, 1.0
            return
        self._stop.meet()
        (most,) = self._ranks.largest(len(micros))
        for micro in micros:
            yield micro, float(self._ranks.size)  # FSDP2 averages gradients
        spare = samples.select(chosen.new_tensor([next(iter(samples.decisions))]))
        for _ in range(most - len(micros)):
            yield spare, 0.0

    def _padded(self, logps: Sequence[Tensor]) -> Tensor:
        """Log-probs of each step's tokens as one tensor, [B, T] on the model's device, 0 past the end."""
        return pad_sequence(list(logps), batch_first=True).to(self._device)

    @property
    def _device(self) -> torch.device:
        return self._vlm.device


class _CriticData(NamedTuple):
    """What the critic is fitted to, on its device: fp32 [M, features], [M], [M]."""

    features: Tensor
    targets: Tensor
    old_values: Tensor


class _RunningMeans:
    """Means, and largest values, of what is added bit by bit."""

    def __init__(self) -> None:
        self._sums: defaultdict[str, float] = defaultdict(float)
        self._counts: defaultdict[str, int] = defaultdict(int)
        self._largest: Metrics = {}

    def add(self, values: Metrics) -> None:
        """Adds one value to each of several means."""
        for name, value in values.items():
            self._sums[name] += value
            self._counts[name] += 1

    def add_all(self, name: str, values: Tensor) -> None:
        """Adds many values to one mean."""
        self._sums[name] += values.sum().item()
        self._counts[name] += values.numel()

    def add_largest(self, name: str, value: float) -> None:
        """Adds a value of which only the largest is kept."""
        _keep_largest(self._largest, {name: value})

    def pool(self, ranks: Ranks) -> Metrics:
        """The means and the largest values of what was added on any rank. Raises RankError."""
        parts = ranks.gather(json.dumps([self._sums, self._counts, self._largest]).encode())
        pooled = _RunningMeans()
        for sums, counts, largest in map(json.loads, parts):
            for name, value in sums.items():
                pooled._sums[name] += value
                pooled._counts[name] += counts[name]
            _keep_largest(pooled._largest, largest)
        return pooled.means()

    def means(self) -> Metrics:
        """The means and the largest values."""
        return {name: self._sums[name] / max(self._counts[name], 1) for name in self._sums} | self._largest


def _keep_largest(largest: Metrics, values: Metrics) -> None:
    for name, value in values.items():
        largest[name] = max(largest.get(name, value), value)
