"""Tokens per second, FLOPs and memory."""

import dataclasses
import re
from pathlib import Path

import pytest
import torch
from overworld_trainer.rollout import Rollout
from overworld_trainer.throughput import Throughput
from overworld_vlm.load import VLM
from peft import LoraConfig, get_peft_model
from torch.utils.flop_counter import FlopCounterMode

from tests.support.learning import make_samples, rollout_of
from tests.support.tiny_vlm import make_vlm


def make_rollout(vlm: VLM, count: int = 4, failed: int = 0) -> Rollout:
    steps = make_samples(vlm, count).steps
    return rollout_of([[dataclasses.replace(step, failed=n < failed) for n, step in enumerate(steps)]])


def test_each_part_that_occurred_has_a_rate() -> None:
    vlm = make_vlm()
    rollout = make_rollout(vlm, failed=1)
    prompts, replies = sum(len(one.prompt) for one in rollout.flat), sum(len(one.reply) for one in rollout.flat)
    learnt = sum(len(one.prompt) + len(one.reply) for one in rollout.flat[1:])
    throughput = Throughput(vlm, epochs=2)
    metrics = throughput.metrics(rollout, {"prefill": 2.0, "decode": 4.0, "update": 0.5, "other": 1.0})
    rates = {
        "throughput/prefill_tokens_per_second": prompts / 2,
        "throughput/decode_tokens_per_second": (replies - 4) / 4,
        "throughput/update_tokens_per_second": 4 * learnt,
        "throughput/update_tflops": 4 * learnt * throughput.flops_per_token / 1e12,
    }
    assert metrics == pytest.approx(rates | {"memory/host_peak": metrics["memory/host_peak"]})
    warming_up = throughput.metrics(rollout, {"prefill": 2.0, "critic": 4.0})
    assert warming_up.keys() == {"throughput/prefill_tokens_per_second", "memory/host_peak"}


def test_utilisation_is_what_is_achieved_of_a_known_peak() -> None:
    vlm = make_vlm()
    throughput = Throughput(vlm, epochs=1)
    assert throughput.peak_flops is None  # a CPU
    throughput.peak_flops = 2e12
    metrics = throughput.metrics(make_rollout(vlm), {"update": 0.5})
    assert metrics["throughput/update_mfu"] == pytest.approx(metrics["throughput/update_tflops"] / 2)


@pytest.mark.parametrize("adapted", [False, True])
def test_flops_per_token_are_those_of_the_layers_products(adapted: bool) -> None:
    """As PyTorch counts them, forwards and backwards, for one token and each product by itself."""
    vlm = make_vlm()
    if adapted:
        adapter = LoraConfig(r=2, target_modules=vlm.family.lora_targets)
        vlm = VLM(get_peft_model(vlm.model, adapter), vlm.tokenizer, vlm.image_processor)
    with FlopCounterMode(display=False) as counter:
        for module in vlm.core.model.language_model.layers.modules():
            if isinstance(module, torch.nn.Linear):
                module(torch.ones(1, module.in_features, requires_grad=True)).sum().backward()
    # Norms and biases are weights without products, and an adapter's own weights do get gradients.
    assert Throughput(vlm, 1).flops_per_token == pytest.approx(counter.get_total_flops(), rel=0.07)


def test_the_hosts_peak_is_in_gib() -> None:
    vlm = make_vlm()
    metrics = Throughput(vlm, 1).metrics(make_rollout(vlm), {})
    (peak,) = re.findall(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    # What ru_maxrss gives is also the peak of the process that this one was forked from.
    assert int(peak) / 2**20 <= 1.001 * metrics["memory/host_peak"] < int(peak) / 2**20 + 1
