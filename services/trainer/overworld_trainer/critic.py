"""The value head."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Critic(nn.Module):
    """V(s) = MLP(features of the prompt) (arXiv 2508.04280, Eq. 4; there with layers of 3072 and 2048).

    fp32 [B, features] -> [B]. PyTorch's initial weights, drawn from `seed`.
    """

    def __init__(self, features: int, layers: Sequence[int], seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            sizes = [features, *layers]
            hidden = [
                module
                for size, next_size in itertools.pairwise(sizes)
                for module in (nn.Linear(size, next_size), nn.ReLU())
            ]
            self.mlp = nn.Sequential(*hidden, nn.Linear(sizes[-1], 1))

    def forward(self, features: Tensor) -> Tensor:
        """Values, fp32 [B]."""
        values: Tensor = self.mlp(features).squeeze(-1)
        return values
