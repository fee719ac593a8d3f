"""How long the critic is fitted during warm-up: until it predicts slots that it has not seen no better."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

_FOLDS = 5
_PATIENCE = 5


def hold_out(slots: Tensor, update: int) -> tuple[Tensor, Tensor]:
    """Indices of the samples to fit and of those to hold out, int64, given each one's slot, [M].

    Every fifth slot is held out, others in the next update. Whole slots, because steps that follow each other have
    almost the same features and targets: a critic that knows one by heart would predict the other.
    """
    names = slots.unique()
    held_out = torch.isin(slots, names[update % min(_FOLDS, len(names)) :: _FOLDS])
    return (~held_out).nonzero().squeeze(1), held_out.nonzero().squeeze(1)


class BestEpoch:
    """Keeps the critic and its optimizer as they were after the epoch with the smallest held-out error."""

    def __init__(self, critic: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self._critic = critic
        self._optimizer = optimizer
        self._kept = self._copy()
        self.epoch = 0
        self.error = math.inf

    def add(self, epoch: int, error: float) -> bool:
        """Adds an epoch with its held-out error. Returns whether fitting should continue."""
        if error < self.error:
            self.epoch, self.error, self._kept = epoch, error, self._copy()
        return epoch - self.epoch < _PATIENCE

    def restore(self) -> None:
        """Brings critic and optimizer back to the best epoch."""
        critic, optimizer = self._kept
        self._critic.load_state_dict(critic)
        self._optimizer.load_state_dict(optimizer)

    def _copy(self) -> tuple[dict[str, Any], dict[str, Any]]:
        return copy.deepcopy((self._critic.state_dict(), self._optimizer.state_dict()))
