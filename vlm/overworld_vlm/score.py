"""Teacher-forced scoring: the log-probs that the model, as it is now, gives to the tokens of existing replies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from overworld_vlm.batch import Prompt, collate, hidden_states, split
from overworld_vlm.load import VLM
from overworld_vlm.sampling import log_probs

_CHUNK_LOGITS = 1 << 25
"""Logits that are computed at once: 128 MB in fp32."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Scores:
    """Scores of B replies, the longest of T tokens.

    logps     fp32 [B, T]: log-prob of each token, 0 past the end
    entropy   fp32 [B, T]: of the distribution that each token was drawn from, 0 past the end; without gradient; None
              unless it was asked for
    mask      bool [B, T]: True where there is a token
    features  fp32 [B, hidden]: see `prompt_features`
    """

    logps: Tensor
    entropy: Tensor | None
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
    entropy: bool = False,
) -> Scores:
    """Scores replies (int64 [T_b], at least one token each) to prompts, with gradients where they are enabled."""
    batch = collate(vlm, prompts, replies)
    lengths = torch.tensor([len(reply) for reply in replies], device=batch.ids.device)
    mask = torch.arange(max(map(len, replies)), device=batch.ids.device) < lengths[:, None]
    rows, tokens = mask.nonzero(as_tuple=True)
    at = batch.prompt_lengths[rows] + tokens

    def forward() -> tuple[Tensor, Tensor | None, Tensor]:
        hidden = hidden_states(vlm, batch)
        # Token t of a reply is predicted at the position before it.
        scored = _score_tokens(vlm, hidden[rows, at - 1], batch.ids[rows, at], temperature, entropy)
        return *scored, prompt_features(hidden, batch.prompt_lengths, value_input)

    logps, entropies, features = vlm.through(forward)
    return Scores(
        logps=_spread(logps, mask),
        entropy=None if entropies is None else _spread(entropies, mask),
        mask=mask,
        features=features,
    )


def _score_tokens(
    vlm: VLM, hidden: Tensor, tokens: Tensor, temperature: float, entropy: bool
) -> tuple[Tensor, Tensor | None]:
    """Log-probs, fp32 [N], of tokens, int64 [N], from the hidden states before them, [N, hidden], and the entropies.

    Logits of the whole vocabulary exist for one chunk of tokens only: the backward pass computes them again.
    """

    def chunk(hidden: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor | None]:
        logps = log_probs(vlm.core.lm_head(hidden), vlm.banned, temperature)
        chosen = logps.gather(-1, tokens[:, None]).squeeze(-1)
        with torch.no_grad():
            return chosen, -(logps.exp() * logps).sum(-1) if entropy else None

    size = max(_CHUNK_LOGITS // len(vlm.banned), 1)
    if len(tokens) <= size:
        return chunk(hidden, tokens)
    parts = zip(hidden.split(size), tokens.split(size), strict=True)
    scored = [checkpoint(chunk, *part, use_reentrant=False, preserve_rng_state=False) for part in parts]
    return torch.cat([logps for logps, _ in scored]), torch.cat([one for _, one in scored]) if entropy else None


def _spread(values: Tensor, mask: Tensor) -> Tensor:
    """Values of the tokens that there are, [N], as [B, T] with 0 past the end."""
    return torch.zeros(mask.shape, device=values.device).masked_scatter(mask, values)


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
def token_features(vlm: VLM, prompts: Sequence[Prompt], replies: Sequence[Tensor]) -> list[Tensor]:
    """What a critic of tokens sees before each token of replies, fp32 [T_b, hidden] on the CPU: the last layer's hidden
    states from which they are predicted. The first one is that of the prompt, see `prompt_features`.
    """
    features: dict[int, Tensor] = {}
    lengths = [len(prompt) + len(reply) for prompt, reply in zip(prompts, replies, strict=True)]
    for rows in split(lengths, vlm.batch_tokens):
        batch = collate(vlm, [prompts[row] for row in rows], [replies[row] for row in rows])
        hidden = hidden_states(vlm, batch)
        for place, row in enumerate(rows):
            start = int(batch.prompt_lengths[place]) - 1
            features[row] = hidden[place, start : start + len(replies[row])].float().cpu()
    return [features[row] for row in range(len(replies))]


@torch.no_grad()
def prefill_features(vlm: VLM, prompts: Sequence[Prompt], value_input: str) -> Tensor:
    """Features of prompts without replies, fp32 [B, hidden] on the CPU; see `prompt_features`."""
    features = torch.empty(len(prompts), vlm.hidden_size)
    for rows in split([len(prompt) for prompt in prompts], vlm.batch_tokens):
        batch = collate(vlm, [prompts[row] for row in rows])
        features[rows] = prompt_features(hidden_states(vlm, batch), batch.prompt_lengths, value_input).cpu()
    return features
