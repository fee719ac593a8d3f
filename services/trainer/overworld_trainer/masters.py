"""Adam for weights in bf16: it steps fp32 copies of them, the masters.

A weight of .02 in bf16 has its neighbours at a distance of 1.2e-4, so that a step of 1e-5 is rounded away: plain Adam
leaves most weights where they are. The masters add up such steps, and the weights follow, rounded to the nearest.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

_MASTER = "master"


class MasterAdam(torch.optim.Adam):
    """Adam that keeps a master of every weight that is not in fp32; weights in fp32 are their own masters.

    Each gradient is added to its master's as soon as it is there, so that micro-batches add up in fp32, and the weight
    keeps none. What is clipped are the gradients of `masters`. Memory of a bf16 weight under training: 2 bytes for
    itself, 16 for master, gradient and moments.

    A model belongs to one of these at a time: `close` sets its weights free.
    """

    def __init__(self, weights: Iterable[nn.Parameter], lr: float) -> None:
        self._copied: dict[int, tuple[nn.Parameter, nn.Parameter]] = {}
        self.masters: list[nn.Parameter] = []
        self._hooks = []
        for number, weight in enumerate(weights):
            master = weight
            if weight.dtype != torch.float32:
                master = nn.Parameter(weight.detach().float())
                self._copied[number] = weight, master
                self._hooks.append(weight.register_post_accumulate_grad_hook(_hand_over_gradient(master)))
            self.masters.append(master)
        super().__init__(self.masters, lr=lr)

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Steps the masters by their gradients and rounds them to the weights."""
        super().step(closure)
        self.publish()

    @torch.no_grad()
    def publish(self) -> None:
        """Rounds the masters to the weights."""
        for weight, master in self._copied.values():
            weight.copy_(master)

    def state_dict(self) -> dict[str, Any]:
        """Adam's, where the state of each weight that was stepped has its master as well."""
        state: dict[str, Any] = super().state_dict()
        for number, (_, master) in self._copied.items():
            if number in state["state"]:
                state["state"][number] = state["state"][number] | {_MASTER: master.detach()}
        return state

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over what `state_dict` gave, masters and weights included."""
        moments = {
            number: {name: value for name, value in fields.items() if name != _MASTER}
            for number, fields in state_dict["state"].items()
        }
        super().load_state_dict({**state_dict, "state": moments})
        for number, (_, master) in self._copied.items():
            if number in state_dict["state"]:
                master.copy_(state_dict["state"][number][_MASTER])
        self.publish()

    def close(self) -> None:
        """Lets the weights keep their gradients again."""
        for hook in self._hooks:
            hook.remove()


def _hand_over_gradient(master: nn.Parameter) -> Any:
    def hand_over(weight: Tensor) -> None:
        assert weight.grad is not None
        if master.grad is None:
            master.grad = weight.grad.float()
        else:
            master.grad += weight.grad
        weight.grad = None

    return hand_over
