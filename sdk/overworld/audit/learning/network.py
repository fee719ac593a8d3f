"""A small convolutional actor-critic."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from overworld.audit.learning.eyes import SIDE

_FEATURES = 128


class ActorCritic(nn.Module):
    """Logits of the words and the value of the state, from views uint8 [batch, channels, 48, 48].

    Two convolutions, one hidden layer; orthogonal weights, with a policy that begins close to uniform (as in "The 37
    Implementation Details of PPO", Huang et al., ICLR blog track 2022).
    """

    def __init__(self, channels: int, words: int) -> None:
        super().__init__()
        side = ((SIDE - 8) // 4 + 1 - 4) // 2 + 1
        self._body = nn.Sequential(
            _scaled(nn.Conv2d(channels, 16, 8, stride=4)),
            nn.ReLU(),
            _scaled(nn.Conv2d(16, 32, 4, stride=2)),
            nn.ReLU(),
            nn.Flatten(),
            _scaled(nn.Linear(32 * side**2, _FEATURES)),
            nn.ReLU(),
        )
        self._policy = _scaled(nn.Linear(_FEATURES, words), 0.01)
        self._value = _scaled(nn.Linear(_FEATURES, 1), 1.0)

    def forward(self, views: Tensor, admissible: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities [batch, words], -inf where `admissible`, bool [batch, words], is false; values [batch].

        A single view stands for the whole batch.
        """
        features = self._body(views.float().div_(255).sub_(0.5))  # in place: new memory costs more than the division
        logits = self._policy(features).masked_fill(~admissible, -math.inf)
        return torch.log_softmax(logits, dim=1), self._value(features).squeeze(1).expand(len(logits))


def _scaled(layer: nn.Conv2d | nn.Linear, gain: float = math.sqrt(2)) -> nn.Conv2d | nn.Linear:
    nn.init.orthogonal_(layer.weight, gain)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer
