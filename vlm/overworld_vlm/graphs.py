"""CUDA graphs: hundreds of kernels launched at once, where launching each would take longer than running it."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Protocol

import torch
from torch import Tensor

_WARM_UP = 2


class Graph(Protocol):
    """What has been captured."""

    def replay(self) -> None:
        """Computes the outputs from the inputs, both of which stay where they are."""


class Graphs:
    """A function of one tensor, captured once for each shape and each value of its other arguments.

    The function must be free of host synchronisations, and running it again on the same inputs must change nothing: it
    is run a few times before it is captured. What it returns is valid until the next call.
    """

    def __init__(self, function: Callable[..., Tensor], device: torch.device) -> None:
        self._function = function
        self._device = device
        self._captured: dict[Hashable, tuple[Graph, Tensor, Tensor]] = {}

    def __repr__(self) -> str:
        return f"Graphs({len(self._captured)} captured)"

    def __call__(self, inputs: Tensor, *arguments: Hashable) -> Tensor:
        """The function's value at `inputs`, on the CPU or the device."""
        key = (inputs.shape, arguments)
        if key not in self._captured:
            static = inputs.to(self._device, copy=True)
            self._captured[key] = (*self._capture(static, arguments), static)
        graph, outputs, static = self._captured[key]
        static.copy_(inputs, non_blocking=True)
        graph.replay()
        return outputs

    def forget(self) -> None:
        """Forgets all graphs; to be called when a tensor that the function uses has moved."""
        self._captured.clear()

    def _capture(self, static: Tensor, arguments: tuple[Any, ...]) -> tuple[Graph, Tensor]:
        """Captures the function at one tensor that will hold its inputs from now on."""
        aside = torch.cuda.Stream(self._device)
        aside.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UP):  # libraries are set up on first use, which cannot be captured
                self._function(static, *arguments)
        torch.cuda.current_stream(self._device).wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = self._function(static, *arguments)
        return graph, outputs
