"""Decoding in static shapes: what a GPU would capture as a graph is computed again here, from the same tensors."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from overworld_vlm.engine import Engine
from overworld_vlm.graphs import Graph, Graphs
from overworld_vlm.load import VLM
from overworld_vlm.writer import Request
from torch import Tensor

from tests.support.tiny_vlm import make_vlm, mixed_prompts


class Replay(Graph):
    """Computes the outputs again from the same tensor, in place."""

    def __init__(self, function: Any, static: Tensor, arguments: tuple[Any, ...]) -> None:
        self._function, self._static, self._arguments = function, static, arguments
        self.outputs: Tensor = function(static, *arguments)

    def replay(self) -> None:
        self.outputs.copy_(self._function(self._static, *self._arguments))


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Shapes and arguments of all captures, which are made without a GPU."""
    seen: list[Any] = []

    def capture(self: Graphs, static: Tensor, arguments: tuple[Any, ...]) -> tuple[Graph, Tensor]:
        seen.append((tuple(static.shape), arguments))
        for _ in range(2):  # as before a real capture: it must change nothing
            self._function(static, *arguments)
        graph = Replay(self._function, static, arguments)
        return graph, graph.outputs

    monkeypatch.setattr(Graphs, "_capture", capture)
    yield seen


def requests(vlm: VLM, top_p: float = 1.0) -> list[Request]:
    prompts = mixed_prompts(vlm)
    return [Request(prompts[n % 6], 1 + n * 7 % 40, key=(9, n), top_p=top_p) for n in range(20)]


@pytest.mark.parametrize("top_p", [1.0, 0.7])
def test_replies_are_those_of_decoding_without_graphs(captures: list[Any], top_p: float) -> None:
    vlm = make_vlm()
    expected, replayed = requests(vlm, top_p), requests(vlm, top_p)
    Engine(vlm, max_batch=18).run(expected)
    engine = Engine(vlm, max_batch=18, graphs=True)
    engine.run(replayed)
    assert [one.tokens for one in replayed] == [one.tokens for one in expected]
    for one, other in zip(replayed, expected, strict=True):
        assert torch.allclose(torch.tensor(one.logps), torch.tensor(other.logps), rtol=0, atol=1e-5)
    tokens = max(len(one.tokens) for one in expected)
    assert len(captures) < tokens
    assert {rows for (_, rows), _ in captures} <= {16, 32}
    assert {longest for _, (longest, _) in captures} == {256}
    assert {cut for _, (_, cut) in captures} == {top_p < 1}
    before = len(captures)
    engine.run(requests(vlm, top_p))  # the cache has not moved, so nothing is captured again
    assert len(captures) == before


def test_graphs_are_captured_again_when_the_cache_has_moved(captures: list[Any]) -> None:
    vlm = make_vlm()
    engine = Engine(vlm, graphs=True)
    engine.run(requests(vlm)[:3])
    (first,) = captures
    engine.run(requests(vlm))  # more rows
    assert captures[1:]
    assert captures[0] == first
    again = requests(vlm)[:3]
    engine.run(again)
    expected = requests(vlm)[:3]
    Engine(vlm).run(expected)
    assert [one.tokens for one in again] == [one.tokens for one in expected]
