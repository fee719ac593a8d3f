"""How fast the model works and how much memory that takes, as metrics."""

from __future__ import annotations

import logging
import resource
from collections.abc import Mapping

import torch
from overworld_vlm.load import VLM
from peft import PeftModel

from overworld_trainer.accelerators import PEAK_FLOPS
from overworld_trainer.metrics import Metric, Metrics
from overworld_trainer.rollout import Rollout

_logger = logging.getLogger(__name__)

_GIB = 2**30


class Throughput:
    """Knows what a token costs a model to learn from, and what its device could do.

    epochs   how often each token of a rollout is learnt from
    devices  how many work at once

    A token costs 6 FLOPs per weight: 2 in the forward pass, 2 for the gradient of what the layers put out and 2 for
    that of the weights, which an adapter does without. The weights are those of the language model's layers; the vision
    tower, attention scores and the vocabulary's matrices are left out, so that the true figures are somewhat higher.
    Recomputation (gradient checkpointing) does not count.
    """

    def __init__(self, vlm: VLM, epochs: int, devices: int = 1) -> None:
        self._device = vlm.device
        self._epochs = epochs
        self._devices = devices
        self.flops_per_token = (4 if isinstance(vlm.model, PeftModel) else 6) * _layer_weights(vlm)
        self.peak_flops: float | None = None
        if self._device.type == "cuda":
            name = torch.cuda.get_device_name(self._device)
            self.peak_flops = PEAK_FLOPS.get(name)
            if self.peak_flops is None:
                _logger.info("%s: its peak is not known (overworld_trainer/accelerators.py), so no MFU is logged", name)

    def __repr__(self) -> str:
        peak = "unknown" if self.peak_flops is None else f"{self.peak_flops / 1e12:g} TFLOP/s"
        return f"Throughput({self.flops_per_token / 1e9:.3g} GFLOPs per token, peak of {self._device}: {peak})"

    def metrics(self, rollout: Rollout, seconds: Mapping[str, float]) -> Metrics:
        """Of an update, of whose time `seconds` were spent in each part; a rate for each part that occurred.

        Tokens are those of all devices, memory is this one's.
        """
        steps = rollout.all_records
        learnt = [step for step in steps if not step.failed]
        tokens = {
            "prefill": (Metric.PREFILL_TOKENS_PER_SECOND, sum(step.prompt_tokens for step in steps)),
            # A reply's first token comes from the prefill.
            "decode": (Metric.DECODE_TOKENS_PER_SECOND, sum(step.reply_tokens - 1 for step in steps)),
            "update": (
                Metric.UPDATE_TOKENS_PER_SECOND,
                self._epochs * sum(step.prompt_tokens + step.reply_tokens for step in learnt),
            ),
        }
        metrics: Metrics = {name: count / seconds[part] for part, (name, count) in tokens.items() if seconds.get(part)}
        if Metric.UPDATE_TOKENS_PER_SECOND in metrics:
            flops = self.flops_per_token * metrics[Metric.UPDATE_TOKENS_PER_SECOND]
            metrics[Metric.UPDATE_TFLOPS] = flops / 1e12
            if self.peak_flops is not None:
                metrics[Metric.UPDATE_MFU] = flops / (self.peak_flops * self._devices)
        return metrics | self._peak_memory()

    def _peak_memory(self) -> Metrics:
        """The host's of the process so far, a GPU's since the last call."""
        # ru_maxrss is in KiB on Linux.
        metrics: Metrics = {Metric.HOST_PEAK_MEMORY: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / _GIB}
        if self._device.type == "cuda":
            metrics[Metric.GPU_PEAK_MEMORY] = torch.cuda.max_memory_allocated(self._device) / _GIB
            torch.cuda.reset_peak_memory_stats(self._device)
        return metrics


def _layer_weights(vlm: VLM) -> int:
    """Number of weights in the language model's layers, adapters included."""
    core = vlm.core
    left_out = [getattr(core.model, name) for name in vlm.family.vision]
    left_out += [core.get_input_embeddings(), core.get_output_embeddings()]
    others = {parameter for module in left_out for parameter in module.parameters()}
    return sum(parameter.numel() for parameter in core.parameters() if parameter not in others)
