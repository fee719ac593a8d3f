"""Proximal policy optimisation (Schulman et al., arXiv:1707.06347) of the small learner, after CleanRL's `ppo.py`."""

from __future__ import annotations

import collections
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from overworld.audit.learning.arena import Arena, Episode, Job
from overworld.audit.learning.eyes import Eyes, stacked
from overworld.audit.learning.network import ActorCritic
from overworld.audit.learning.plateau import Plateau
from overworld.audit.learning.policy import Policy
from overworld.audit.learning.rollout import Rollout, Turn, advantages
from overworld.audit.stage import Stage


@dataclass(frozen=True, slots=True)
class PpoSettings:
    """How the small learner learns, and when it stops.

    steps      Env steps at most, and `seconds` CPU-seconds of this process.
    batch      Env steps between two updates; `minibatch` those of one gradient.
    window     Episodes whose mean return says how good the policy is.
    patience   Env steps without a gain after which training is flat; at least two windows.
    won        Success share of the window from which on a tenth of that patience is enough.
    """

    steps: int = 200_000
    seconds: float = 80.0
    batch: int = 1024
    minibatch: int = 256
    epochs: int = 3
    lr: float = 1e-3
    gamma: float = 0.99
    lam: float = 0.95
    clip: float = 0.2
    entropy: float = 0.01
    value: float = 0.5
    max_grad_norm: float = 0.5
    window: int = 400
    patience: int = 24_000
    won: float = 0.98


@dataclass(frozen=True, slots=True)
class Point:
    """The mean return and the success share of the window's episodes after so many env steps."""

    steps: int
    mean: float
    success: float


@dataclass(frozen=True, slots=True)
class Training:
    """A trained policy, and how it came about. `stopped` is "won", "flat", "steps" or "seconds"."""

    policy: Policy
    curve: tuple[Point, ...]
    steps: int
    stopped: str


def train(stage: Stage, eyes: Eyes, seeds: Iterator[int], seed: int, settings: PpoSettings) -> Training:
    """Trains a policy from scratch on the episodes of `seeds`.

    The same seed and episodes give the same policy, unless `seconds` run out. Torch's global generator is left as it
    was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _Trainer(stage, eyes, seeds, seed, settings).run()


class _Trainer:
    def __init__(self, stage: Stage, eyes: Eyes, seeds: Iterator[int], seed: int, settings: PpoSettings) -> None:
        words = stage.spec.action.vocabulary
        self._settings = settings
        self._network = ActorCritic(eyes.channels, len(words))
        self._policy = Policy(self._network, words, seed)
        self._optimizer = torch.optim.Adam(self._network.parameters(), settings.lr, eps=1e-5)
        self._rollout = Rollout(Arena(stage, (Job(drawn) for drawn in seeds), eyes), self._policy)
        self._window: collections.deque[Episode] = collections.deque(maxlen=settings.window)
        self._plateau = Plateau()
        self._greatest = 0.0
        """The greatest |return| of an episode so far: what rewards are divided by."""

    def run(self) -> Training:
        deadline = time.process_time() + self._settings.seconds
        curve: list[Point] = []
        steps = 0
        while True:
            fragments, episodes = self._rollout.collect(self._settings.batch)
            steps += sum(map(len, fragments))
            self._window.extend(episodes)
            self._greatest = max(self._greatest, *(abs(episode.total) for episode in episodes), 0.0)
            if self._window:
                mean = float(np.mean([episode.total for episode in self._window]))
                curve.append(Point(steps, mean, float(np.mean([episode.success for episode in self._window]))))
            stopped = self._stopped(curve, steps, deadline)
            if stopped:
                return Training(self._policy, tuple(curve), steps, stopped)
            self._update(fragments)

    def _stopped(self, curve: list[Point], steps: int, deadline: float) -> str:
        settings = self._settings
        if len(self._window) == settings.window:
            age = self._plateau.age([episode.total for episode in self._window], steps)
            patience = max(settings.patience, 2 * sum(episode.turns for episode in self._window))
            if curve[-1].success >= settings.won and age >= patience / 10:
                return "won"
            if age >= patience:
                return "flat"
        if steps >= settings.steps:
            return "steps"
        return "seconds" if time.process_time() > deadline else ""

    def _update(self, fragments: list[list[Turn]]) -> None:
        settings = self._settings
        turns = [turn for fragment in fragments for turn in fragment]
        scale = 1 / self._greatest if self._greatest else 1.0
        gains = torch.tensor(
            [gain for part in fragments for gain in advantages(part, scale, settings.gamma, settings.lam)]
        )
        views = stacked([turn.view for turn in turns])
        admissible = torch.stack([turn.admissible for turn in turns])
        actions = torch.tensor([turn.action for turn in turns])
        old_log_probs = torch.tensor([turn.log_prob for turn in turns])
        returns = gains + torch.tensor([turn.value for turn in turns])
        for _ in range(settings.epochs):
            for rows in torch.split(torch.randperm(len(turns)), settings.minibatch):
                odds, values = self._network(views if len(views) == 1 else views[rows], admissible[rows])
                log_probs = odds.gather(1, actions[rows, None]).squeeze(1)
                loss = ppo_loss(
                    log_probs, old_log_probs[rows], gains[rows], values, returns[rows], entropy(odds), settings
                )
                self._optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(self._network.parameters(), settings.max_grad_norm)
                self._optimizer.step()


def entropy(log_probs: Tensor) -> Tensor:
    """The entropy [batch], in nats, of log-probabilities [batch, words], some of which may be -inf."""
    return -(log_probs.exp() * log_probs.masked_fill(log_probs.isinf(), 0.0)).sum(dim=1)


def ppo_loss(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    values: Tensor,
    returns: Tensor,
    entropy: Tensor,
    settings: PpoSettings,
) -> Tensor:
    """The clipped surrogate, the squared error of the value and the entropy bonus of tensors [batch], as a scalar.

    The advantages are normalised over the batch.
    """
    normal = (advantages - advantages.mean()) / (advantages.std(correction=0) + 1e-8)
    ratio = (log_probs - old_log_probs).exp()
    clipped = ratio.clamp(1 - settings.clip, 1 + settings.clip)
    policy = -torch.minimum(ratio * normal, clipped * normal).mean()
    value = 0.5 * (values - returns).square().mean()
    return policy + settings.value * value - settings.entropy * entropy.mean()
