"""The updates: PPO on every token for the policy, regression for the critic, each with an optimizer of its own."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator

import torch
from overworld_vlm.load import VLM
from overworld_vlm.score import Scores, score
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from overworld_trainer.config import TrainerConfig
from overworld_trainer.critic import Critic
from overworld_trainer.losses import policy_loss, step_mean, value_loss
from overworld_trainer.samples import Samples
from overworld_trainer.seeds import derive

Metrics = dict[str, float]


class Learner:
    """Owns the optimizers of a model's trainable weights and of its critic."""

    def __init__(self, config: TrainerConfig, vlm: VLM, critic: Critic) -> None:
        self._config = config
        self._vlm = vlm
        self.critic = critic
        self._weights = [parameter for parameter in vlm.model.parameters() if parameter.requires_grad]
        self.policy_optimizer = torch.optim.Adam(self._weights, lr=config.policy.lr)
        self.critic_optimizer = torch.optim.Adam(critic.parameters(), lr=config.critic.lr)
        if config.model.gradient_checkpointing:
            vlm.core.gradient_checkpointing_enable({"use_reentrant": False})

    def update(self, samples: Samples, update: int) -> Metrics:
        """Learns from one rollout. During warm-up the policy's optimizer is not touched at all."""
        config = self._config
        warming_up = update < config.critic.warmup_updates
        metrics: Metrics = {}
        if warming_up or config.critic.stop_gradient:
            # The backbone gets no gradient of the value, so the rollout's features serve: no forward pass of the model.
            metrics |= self._update_critic(samples, update)
        if not warming_up:
            metrics |= self._update_policy(samples, update)
        metrics["charts/learning_rate"] = self.learning_rate(update)
        return metrics

    def learning_rate(self, update: int) -> float:
        """The policy's: a cosine from `lr` at the end of warm-up to `lr_end` at the last update; 0 during warm-up."""
        config = self._config
        if update < config.critic.warmup_updates:
            return 0.0
        length = max(config.updates - 1 - config.critic.warmup_updates, 1)
        progress = min((update - config.critic.warmup_updates) / length, 1.0)
        policy = config.policy
        return policy.lr_end + (policy.lr - policy.lr_end) * (1 + math.cos(math.pi * progress)) / 2

    def _update_critic(self, samples: Samples, update: int) -> Metrics:
        config = self._config.critic
        sums = _Means()
        features, targets, old_values = (
            tensor.to(self._device) for tensor in (samples.features, samples.targets, samples.old_values)
        )
        for epoch in range(config.epochs):
            for chosen in self._minibatches(len(samples), config.minibatch, update, epoch, "critic"):
                loss = value_loss(self.critic(features[chosen]), old_values[chosen], targets[chosen], config.clip)
                self.critic_optimizer.zero_grad()
                loss.mean().backward()
                norm = torch.nn.utils.clip_grad_norm_(self.critic.parameters(), config.max_grad_norm)
                self.critic_optimizer.step()
                sums.add({"losses/value_loss": loss.mean().item(), "losses/value_grad_norm": norm.item()})
        return sums.means()

    def _update_policy(self, samples: Samples, update: int) -> Metrics:
        config = self._config.policy
        for group in self.policy_optimizer.param_groups:
            group["lr"] = self.learning_rate(update)
        sums = _Means()
        largest: Metrics = {}
        self._vlm.model.train()  # nothing drops out; this is what turns on gradient checkpointing
        for epoch in range(config.epochs):
            for chosen in self._minibatches(len(samples), config.minibatch, update, epoch, "policy"):
                first = not largest
                self._zero_grad()
                for micro in _microbatches(samples, chosen, config.microbatch):
                    scores = self._score(samples, micro)
                    loss = self._loss(samples, micro, scores, sums)
                    (loss / len(chosen)).backward()
                    if first:
                        _keep_largest(largest, self._sampler_error(samples, micro, scores))
                sums.add(self._step())
        self._vlm.model.eval()
        return sums.means() | largest

    def _loss(self, samples: Samples, chosen: Tensor, scores: Scores, sums: _Means) -> Tensor:
        """The sum over steps of all that is minimised with the policy's weights."""
        config = self._config
        old, ref = (
            pad_sequence([logps[n] for n in chosen.tolist()], batch_first=True).to(self._device)
            for logps in (samples.old_logps, samples.ref_logps)
        )
        advantages, weights = samples.advantages[chosen].to(self._device), samples.weights[chosen].to(self._device)
        policy = policy_loss(
            scores.logps,
            old,
            ref,
            scores.mask,
            advantages,
            clip=config.policy.clip,
            kl=config.kl.kind,
            beta=config.kl.beta,
        )
        loss = (weights * policy.loss).sum()
        thinking = torch.tensor([samples.steps[n].thinking for n in chosen.tolist()], device=self._device)
        in_thoughts = torch.arange(scores.mask.shape[1], device=self._device) < thinking[:, None]
        measured = {
            "losses/policy_loss": policy.loss,
            "losses/clipfrac": policy.clipped,
            "losses/kl_k1": policy.k1,
            "losses/kl_k3": policy.k3,
        }
        for name, where in (("thoughts", in_thoughts & scores.mask), ("action", ~in_thoughts & scores.mask)):
            some = where.any(1)
            measured[f"losses/entropy_{name}"] = step_mean(scores.entropy[some], where[some])
        if not config.critic.stop_gradient:
            targets, old_values = samples.targets[chosen].to(self._device), samples.old_values[chosen].to(self._device)
            value = value_loss(self.critic(scores.features), old_values, targets, config.critic.clip)
            loss = loss + value.sum()
            measured["losses/value_loss"] = value
        for name, per_step in measured.items():
            sums.add_all(name, per_step.detach())
        sums.add_largest("losses/max_ratio", policy.max_ratio.item())
        return loss

    def _score(self, samples: Samples, chosen: Tensor) -> Scores:
        steps = [samples.steps[n] for n in chosen.tolist()]
        return score(
            self._vlm,
            [step.prompt for step in steps],
            [step.reply for step in steps],
            temperature=self._config.temperature,
            value_input=self._config.critic.input,
        )

    def _sampler_error(self, samples: Samples, chosen: Tensor, scores: Scores) -> Metrics:
        """How far the sampler's log-probs are from the training kernels', before any weight has changed."""
        sampled = pad_sequence([samples.steps[n].logps for n in chosen.tolist()], batch_first=True).to(self._device)
        difference = (scores.logps.detach() - sampled).abs()
        return {
            "losses/max_logprob_error": difference.max().item(),
            "losses/mean_logprob_error": difference[scores.mask].mean().item(),
        }

    def _zero_grad(self) -> None:
        self.policy_optimizer.zero_grad()
        if not self._config.critic.stop_gradient:
            self.critic_optimizer.zero_grad()

    def _step(self) -> Metrics:
        """Steps the optimizers of what got gradients. Returns the gradients' norms."""
        norm = torch.nn.utils.clip_grad_norm_(self._weights, self._config.policy.max_grad_norm)
        norms = {"losses/policy_grad_norm": norm.item()}
        self.policy_optimizer.step()
        if not self._config.critic.stop_gradient:
            norm = torch.nn.utils.clip_grad_norm_(self.critic.parameters(), self._config.critic.max_grad_norm)
            norms["losses/value_grad_norm"] = norm.item()
            self.critic_optimizer.step()
        return norms

    def _minibatches(self, count: int, size: int, update: int, epoch: int, name: str) -> Iterator[Tensor]:
        """Indices of each minibatch, in an order that the run's seed decides. They differ in size by one at most."""
        generator = torch.Generator().manual_seed(derive(self._config.seed, "minibatches", name, update, epoch))
        order = torch.randperm(count, generator=generator)
        return iter(order.tensor_split(max(round(count / size), 1)))

    @property
    def _device(self) -> torch.device:
        return self._vlm.device


class _Means:
    """Means over samples, gathered bit by bit."""

    def __init__(self) -> None:
        self._sums: defaultdict[str, float] = defaultdict(float)
        self._counts: defaultdict[str, int] = defaultdict(int)
        self._largest: Metrics = {}

    def add(self, values: Metrics) -> None:
        """One value each."""
        for name, value in values.items():
            self._sums[name] += value
            self._counts[name] += 1

    def add_all(self, name: str, values: Tensor) -> None:
        """Many values."""
        self._sums[name] += values.sum().item()
        self._counts[name] += values.numel()

    def add_largest(self, name: str, value: float) -> None:
        """A value of which the largest counts."""
        _keep_largest(self._largest, {name: value})

    def means(self) -> Metrics:
        """What came together."""
        return {name: self._sums[name] / max(self._counts[name], 1) for name in self._sums} | self._largest


def _keep_largest(largest: Metrics, values: Metrics) -> None:
    for name, value in values.items():
        largest[name] = max(largest.get(name, value), value)


def _microbatches(samples: Samples, chosen: Tensor, size: int) -> Iterator[Tensor]:
    """Parts of a minibatch, of similar length so as to pad little."""
    lengths = torch.tensor([len(samples.steps[n].prompt) + len(samples.steps[n].reply) for n in chosen.tolist()])
    return iter(chosen[lengths.argsort(stable=True)].split(size))
