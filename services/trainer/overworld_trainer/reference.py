"""The policy at the start of RL, which the KL keeps the trained one close to."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from overworld_vlm.batch import split
from overworld_vlm.load import VLM
from overworld_vlm.score import score
from peft import PeftModel
from torch import Tensor

from overworld_trainer.config import TrainerConfig
from overworld_trainer.rollout import Step
from overworld_trainer.stop import Stop


class Reference:
    """Scores replies with the reference: the trained model with its adapter off, or else a `frozen` model."""

    def __init__(self, vlm: VLM, frozen: VLM | None = None) -> None:
        if frozen is None and not isinstance(vlm.model, PeftModel):
            raise ValueError("a model without an adapter needs a frozen reference")
        self._vlm = vlm if frozen is None else frozen
        self._frozen = frozen is not None

    def score(self, steps: Sequence[Step], config: TrainerConfig, stop: Stop | None = None) -> list[Tensor]:
        """Log-probs of each step's tokens, fp32 [T] each, on the CPU. Raises InterruptionError.

        With several ranks, all must call this.
        """
        with self._vlm.whole(), self._adapter_off():
            return score_all(self._vlm, steps, config, stop)

    @contextlib.contextmanager
    def _adapter_off(self) -> Iterator[None]:
        if self._frozen:
            yield
        else:
            with self._vlm.model.disable_adapter():
                yield


@torch.no_grad()
def score_all(vlm: VLM, steps: Sequence[Step], config: TrainerConfig, stop: Stop | None = None) -> list[Tensor]:
    """Log-probs of each step's tokens, fp32 [T] each, on the CPU. Raises InterruptionError."""
    stop = stop or Stop()
    logps: dict[int, Tensor] = {}
    for chosen in split([len(step.prompt) + len(step.reply) for step in steps], vlm.batch_tokens):
        stop.check()
        prompts, replies = [steps[n].prompt for n in chosen], [steps[n].reply for n in chosen]
        scores = score(vlm, prompts, replies, temperature=config.temperature)
        for n, row in zip(chosen, scores.logps.cpu(), strict=True):
            logps[n] = row[: len(steps[n].reply)].clone()
    return [logps[n] for n in range(len(steps))]
