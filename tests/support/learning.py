"""Settings and samples for tests of the learner."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from overworld_trainer.config import TrainerConfig
from overworld_trainer.critic import Critic
from overworld_trainer.learner import Learner
from overworld_trainer.rollout import Rollout, Step
from overworld_trainer.samples import Decision, Samples
from overworld_vlm.batch import Prompt
from overworld_vlm.engine import Engine
from overworld_vlm.load import VLM
from overworld_vlm.writer import Request
from torch import nn

from tests.support.optional import present
from tests.support.tiny_vlm import mixed_prompts

PROMPT = Prompt(ids=torch.zeros(1), positions=torch.zeros(1, 1), next=1, pictures=())
"""For what does not look at prompts."""

WHOLE = 1000
"""A minibatch size that takes in all samples."""


def settings(**changes: Any) -> TrainerConfig:
    """Settings for one optimizer step on all samples, without warm-up; `changes` are merged into the sections."""
    sections: dict[str, dict[str, Any]] = {
        "policy": {"epochs": 1, "minibatch": WHOLE, "lr": 1e-3, "max_grad_norm": 1e9},
        "critic": {"layers": [16], "epochs": 1, "minibatch": WHOLE, "lr": 1e-3, "warmup_updates": 0},
        "clone": {"updates": 1},
        "model": {},
        "kl": {},
    }
    plain = {key: value for key, value in changes.items() if key not in sections}
    merged = {key: value | changes.get(key, {}) for key, value in sections.items()}
    required: dict[str, Any] = {"run": "unused", "envs": [{"id": "toy/Count"}], "updates": 5}
    return TrainerConfig(**(required | merged | plain))


def make_learner(vlm: VLM, config: TrainerConfig, seed: int = 0) -> Learner:
    return Learner(config, vlm, Critic(vlm.hidden_size, config.critic.layers, seed))


def make_samples(
    vlm: VLM, count: int = 11, noise: float = 0.0, value_input: str = "last_prompt_token", temperature: float = 1.0
) -> Samples:
    """Replies that the model samples for prompts of all kinds, with random advantages and targets."""
    prompts = mixed_prompts(vlm)
    requests = [
        Request(prompts[number % len(prompts)], 1 + number * 5 % 13, key=(3, number), temperature=temperature)
        for number in range(count)
    ]
    Engine(vlm, value_input=value_input).run(requests)
    random = torch.Generator().manual_seed(1)

    def draw(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=random)

    steps = [
        Step(
            env=0,
            turn=0,
            prompt=request.prompt,
            reply=torch.tensor(request.tokens),
            logps=torch.tensor(request.logps),
            features=request.features,
            thinking=1,
            cut=False,
        )
        for request in requests
    ]
    old_logps = [step.logps + noise * draw(len(step.logps)) for step in steps]
    ref_logps = [step.logps + noise * draw(len(step.logps)) for step in steps]
    return Samples(
        decisions=dict(enumerate(map(Decision, steps, old_logps, ref_logps))),
        advantages=draw(count),
        weights=torch.ones(count),
        features=torch.stack([present(step.features) for step in steps]),
        targets=draw(count),
        old_values=draw(count),
        slots=torch.arange(count),
        advantage_std=1.0,
    )


def rollout_of(steps: list[list[Step]], reward_scales: Sequence[float] = (1.0,)) -> Rollout:
    """A rollout, one row per slot, all of it played here."""
    return Rollout(
        steps=steps,
        next_prompts=[],
        rows=[list(range(len(steps)))],
        rank=0,
        records=[[step.record for step in row] for row in steps],
        episodes=[],
        reward_scales=list(reward_scales),
    )


def old_logps(samples: Samples) -> list[torch.Tensor]:
    return [decision.old_logps for decision in samples.decisions.values()]


def ref_logps(samples: Samples) -> list[torch.Tensor]:
    return [decision.ref_logps for decision in samples.decisions.values()]


def changed(samples: Samples, **fields: Any) -> Samples:
    return dataclasses.replace(samples, **fields)


def weights(module: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of a model's or critic's weights."""
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


def moved(before: dict[str, torch.Tensor], module: nn.Module) -> set[str]:
    """The names of the weights that differ from `before`."""
    return {name for name, parameter in module.named_parameters() if not torch.equal(parameter, before[name])}


def gradients(module: nn.Module) -> dict[str, torch.Tensor]:
    """The non-zero gradients, by parameter name."""
    return {
        name: parameter.grad.clone()
        for name, parameter in module.named_parameters()
        if parameter.grad is not None and parameter.grad.any()
    }
