"""The distribution that replies are drawn from and scored by, and noise that depends on names, not on order."""

from __future__ import annotations

import hashlib
import struct

import torch
from torch import Tensor

Key = tuple[int, ...]
"""Names a reply, e.g. (run seed, slot, episode, turn); each part fits into 64 bits."""

_BAN = -1e9  # not -inf: zero times -inf would be nan


def log_probs(logits: Tensor, banned: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """Log-probabilities of all tokens, fp32 [..., vocabulary], at the sampling temperature."""
    return torch.log_softmax(logits.float().masked_fill(banned, _BAN).div_(temperature), dim=-1)


def uniform(key: Key, token: int) -> float:
    """A number in [0, 1) for token number `token` of the reply that `key` names.

    Neither batch order nor retries nor world size can change it.
    """
    packed = struct.pack(f"<{len(key) + 1}Q", *(part & 0xFFFF_FFFF_FFFF_FFFF for part in key), token)
    return (int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "little") >> 11) / 2**53


def draw(logps: Tensor, uniforms: Tensor, top_p: Tensor | None = None) -> Tensor:
    """Draws a token per row by inverting the distribution function at `uniforms`. int64 [B].

    logps     [B, vocabulary]
    uniforms  float64 [B], in [0, 1)
    top_p     [B]: only the likeliest tokens that add up to this probability are drawn from; 1, or None: all
    """
    probabilities = logps.double().exp()
    if top_p is not None:
        ordered, order = probabilities.sort(dim=-1, descending=True)
        outside = ordered.cumsum(-1) - ordered >= top_p[:, None].double()
        outside &= top_p[:, None] < 1  # rounding may let the others' tokens add up to 1 before the last one
        outside[:, 0] = False
        probabilities = probabilities.masked_fill(outside.scatter(1, order, outside), 0.0)
    sums = probabilities.cumsum(-1)
    # With right=True a token of probability 0 is never drawn: its sum equals that of the token before it.
    return torch.searchsorted(sums, uniforms[:, None].to(sums) * sums[:, -1:], right=True).squeeze(1)
