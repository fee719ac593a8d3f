"""Teacher-forced scoring: the log-probs that the model, as it is now, gives to the tokens of existing replies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from overworld_vlm.batch import Prompt, collate, hidden_states
from overworld_vlm.load import VLM
from overworld_vlm.sampling import log_probs


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Scores:
    """Scores of B replies, the longest of T tokens.

    logps     fp32 [B, T]: log-prob of each token, 0 past the end
    entropy   fp32 [B, T]: of the distribution that each token was drawn from, 0 past the end; without gradient
    mask      bool [B, T]: True where there is a token
    features  fp32 [B, hidden]: see `prompt_features`
    """

    logps: Tensor
    entropy: Tensor
    mask: Tensor
    features: Tensor

    def __repr__(self) -> str:
        rows, longest = self.mask.shape
        return f"Scores({rows} replies, {int(self.mask.sum())} tokens, the longest of {longest})"


def score(
    vlm: VLM,
    prompts: Sequence[Prompt],
    replies: Sequence[Tensor],
    *,
    temperature: float = 1.0,
    value_input: str = "last_prompt_token",
) -> Scores:
    """Scores replies (int64 [T_b], at least one token each) to prompts, with gradients where they are enabled."""
    batch = collate(vlm, prompts, replies)
    hidden = hidden_states(vlm, batch)
    lengths = torch.tensor([len(reply) for reply in replies], device=hidden.device)
    steps = torch.arange(int(lengths.max()), device=hidden.device)
    mask = steps < lengths[:, None]
    # Token t of a reply is predicted at the position before it; past the end, any position does.
    at = (batch.prompt_lengths[:, None] - 1 + steps).clamp(max=hidden.shape[1] - 2)
    rows = torch.arange(len(hidden), device=hidden.device)[:, None]
    logits = vlm.core.lm_head(hidden[rows, at])
    logps = log_probs(logits, vlm.banned, temperature)
    chosen = logps.gather(-1, batch.ids[rows, at + 1].unsqueeze(-1)).squeeze(-1)
    with torch.no_grad():
        entropy = -(logps.exp() * logps).sum(-1)
    return Scores(
        logps=chosen.masked_fill(~mask, 0.0),
        entropy=entropy.masked_fill(~mask, 0.0),
        mask=mask,
        features=prompt_features(hidden, batch.prompt_lengths, value_input),
    )


def prompt_features(hidden: Tensor, prompt_lengths: Tensor, value_input: str) -> Tensor:
    """What a critic sees of prompts, fp32 [B, hidden]: never any of the reply, which would bias the baseline.

    hidden       [B, L, hidden], the last layer's
    value_input  "last_prompt_token" (Eq. 4 of arXiv 2508.04280) or "prompt_mean"
    """
    if value_input == "last_prompt_token":
        rows = torch.arange(len(hidden), device=hidden.device)
        return hidden[rows, prompt_lengths - 1].float()
    if value_input == "prompt_mean":
        within = torch.arange(hidden.shape[1], device=hidden.device) < prompt_lengths[:, None]
        return (hidden.float() * within.unsqueeze(-1)).sum(1) / prompt_lengths[:, None]
    raise ValueError(f"value_input is 'last_prompt_token' or 'prompt_mean', not {value_input!r}")


@torch.no_grad()
def prefill_features(vlm: VLM, prompts: Sequence[Prompt], value_input: str, batch_size: int) -> Tensor:
    """Features of prompts without replies, fp32 [B, hidden] on the CPU; see `prompt_features`."""
    features = [torch.empty(0, vlm.hidden_size)]
    for start in range(0, len(prompts), batch_size):
        batch = collate(vlm, prompts[start : start + batch_size])
        features.append(prompt_features(hidden_states(vlm, batch), batch.prompt_lengths, value_input).cpu())
    return torch.cat(features)
