"""The parts `logprobs` and `bf16` of trainer.py."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from overworld_vlm.batch import Prompt, collate, hidden_states
from overworld_vlm.load import VLM
from overworld_vlm.sampling import log_probs
from overworld_vlm.score import score
from report import Row
from tensor_memory import TensorMemory

sys.path.append(str(Path(__file__).parents[1]))  # for the tiny models, which the tests use, too

from tests.support.learning import make_learner, settings
from tests.support.tiny_vlm import make_vlm, mixed_prompts

VOCABULARY, REPLIES, REPLY_TOKENS = 152_064, 8, 128
COPIES, DIFFERENCE = 0.8, 1e-6
LR, STEPS, STD, UNMOVED = 1e-5, 20, 0.02, 0.01


def logprobs() -> Iterator[Row]:
    """Peak memory of forward and backward, in fp32 copies of the logits; equality of values and gradients."""
    torch.set_num_threads(1)
    vlm = make_vlm()
    vlm.model.resize_token_embeddings(VOCABULARY, mean_resizing=False)
    # As with an adapter: no gradient of the vocabulary's weights, which would be counted on both sides.
    vlm.model.requires_grad_(False)
    vlm.model.model.language_model.layers.requires_grad_(True)
    prompts = (mixed_prompts(vlm) * 2)[:REPLIES]
    replies = list(torch.randint(10, 300, (REPLIES, REPLY_TOKENS), generator=torch.Generator().manual_seed(0)))
    copy = REPLIES * REPLY_TOKENS * VOCABULARY * 4
    logps, gradient, peak = _measured(vlm, lambda: score(vlm, prompts, replies).logps)
    theirs, their_gradient, their_peak = _measured(vlm, lambda: _plain(vlm, prompts, replies))
    copies, peer = peak / copy, their_peak / copy
    values = float((logps - theirs).abs().max() / theirs.abs().max())
    gradients = float((gradient - their_gradient).norm() / their_gradient.norm())
    setting = f"{REPLIES} x {REPLY_TOKENS} tokens, {VOCABULARY:,} in the vocabulary"
    name = "peak memory of log-probs"
    yield Row(name, setting, copies, "fp32 copies of the logits", "at most", COPIES, COPIES / copies, 1)
    yield Row(name, setting, copies, "fp32 copies of the logits", "whole log_softmax", peer, peer / copies)
    for what, difference in (("values", values), ("gradients", gradients)):
        ratio = DIFFERENCE / max(difference, 1e-12)
        yield Row(f"log-probs: {what}", setting, difference, "relative to whole", "allowed", DIFFERENCE, ratio, 1)


def bf16() -> Iterator[Row]:
    """How many weights of the model that acts stay where they were."""
    ours, plain = _unmoved(ours=True), _unmoved(ours=False)
    setting = f"{STEPS} steps, lr {LR:g}, weights of std {STD:g}, gradients of one sign"
    name = "bf16 weights unmoved"
    yield Row(name, setting, ours, "share", "at most", UNMOVED, UNMOVED / max(ours, 1e-9), 1)
    yield Row(name, setting, ours, "share", "Adam on bf16 weights", plain, plain / max(ours, 1e-9))


def _measured(vlm: VLM, compute: object) -> tuple[torch.Tensor, torch.Tensor, int]:
    assert callable(compute)
    with TensorMemory() as memory:
        logps = compute()
        logps.sum().backward()
    weights = [weight for weight in vlm.model.parameters() if weight.grad is not None]
    gradient = torch.cat([weight.grad.flatten() for weight in weights if weight.grad is not None])
    vlm.model.zero_grad()
    return logps.detach(), gradient, memory.peak


def _plain(vlm: VLM, prompts: Sequence[Prompt], replies: Sequence[torch.Tensor]) -> torch.Tensor:
    """All log-probs of all tokens at once."""
    batch = collate(vlm, prompts, replies)
    hidden = hidden_states(vlm, batch)
    at = (batch.prompt_lengths - 1)[:, None] + torch.arange(REPLY_TOKENS)
    kept = hidden[torch.arange(REPLIES)[:, None], at]
    return log_probs(vlm.core.lm_head(kept), vlm.banned).gather(-1, torch.stack(list(replies))[..., None])[..., 0]


def _unmoved(*, ours: bool) -> float:
    vlm = make_vlm()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in vlm.model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * STD)
    vlm.model.to(torch.bfloat16)
    weights = [weight for weight in vlm.model.parameters() if weight.requires_grad]
    if ours:
        config = settings(model={"dtype": "bfloat16"}, policy={"lr": LR})
        optimizer: torch.optim.Optimizer = make_learner(vlm, config).policy_optimizer
    else:
        optimizer = torch.optim.Adam(weights, lr=LR)
    before = [weight.detach().clone() for weight in weights]
    for _ in range(STEPS):
        optimizer.zero_grad()
        sum((weight * 1e-3 * (-1) ** number).sum() for number, weight in enumerate(weights)).backward()
        optimizer.step()
    unmoved = sum(int((weight == old).sum()) for weight, old in zip(weights, before, strict=True))
    total = sum(weight.numel() for weight in weights)
    return float(unmoved / total)
