"""What an update changes, kept so that it can be undone."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from overworld_vlm.sharding import local
from torch import Tensor

_WEIGHT = "weight"

_Name = tuple[int, int, str]
"""Number of the optimizer, number of the parameter in it, name of the tensor."""


class Snapshot:
    """Copies of some optimizers' parameters and of their state, in the host's memory, which is used again each time.

    Of sharded ones, this process's part. With Adam that is 12 bytes a parameter in fp32.
    """

    def __init__(self, *optimizers: torch.optim.Optimizer) -> None:
        self._optimizers = optimizers
        self._copies: dict[_Name, Tensor] = {}

    @torch.no_grad()
    def take(self) -> None:
        """Copies everything as it is now."""
        copies = {}
        for name, tensor in self._tensors():
            known = self._copies.get(name)
            copies[name] = (torch.empty_like(tensor, device="cpu") if known is None else known).copy_(tensor)
        self._copies = copies

    @torch.no_grad()
    def restore(self) -> None:
        """Brings everything back to where it was, in place. State that was not there is removed."""
        for number, optimizer in enumerate(self._optimizers):
            for index, parameter in enumerate(_parameters(optimizer)):
                if not any((number, index, field) in self._copies for field in optimizer.state.get(parameter, {})):
                    optimizer.state.pop(parameter, None)
        for name, tensor in self._tensors():
            tensor.copy_(self._copies[name])

    def _tensors(self) -> Iterator[tuple[_Name, Tensor]]:
        for number, optimizer in enumerate(self._optimizers):
            for index, parameter in enumerate(_parameters(optimizer)):
                yield (number, index, _WEIGHT), local(parameter)
                for field, tensor in optimizer.state.get(parameter, {}).items():
                    yield (number, index, field), local(tensor)


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
