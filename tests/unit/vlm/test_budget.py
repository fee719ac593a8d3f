"""Batches are bounded by the tokens that fit into memory."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from overworld_vlm import budget
from overworld_vlm.batch import split
from overworld_vlm.budget import MAX_BATCH_TOKENS, activation_bytes, free_memory, token_budget

from tests.support.tiny_vlm import make_vlm


@pytest.mark.parametrize("tokens", [1, 7, 30, 64, 1000])
def test_batches_hold_every_row_once_and_no_more_tokens_than_they_may(tokens: int) -> None:
    lengths = [7, 30, 8, 8, 2, 41, 8, 30, 1, 19]
    batches = list(split(lengths, tokens))
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= tokens


def test_rows_of_similar_length_share_a_batch_and_equal_ones_stay_in_order() -> None:
    assert list(split([5, 9, 5, 9, 5, 5], 20)) == [[0, 2, 4, 5], [1, 3]]
    assert list(split([], 20)) == []


def test_a_seven_billion_model_takes_what_was_estimated() -> None:
    """trainer_review: 19,200 tokens keep 3.9 GB of layer inputs with checkpointing, and 6.7 GB of one layer."""
    both = 19_200 * activation_bytes(3584, 18_944, 28, 2, checkpointing=True, adapters=True)
    assert both == pytest.approx(3.9e9 + 6.7e9, rel=0.05)


def model(free: int, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A 7B model on a device with so much free memory."""
    monkeypatch.setattr(budget, "free_memory", lambda device: free)
    config = SimpleNamespace(hidden_size=3584, intermediate_size=18_944, num_hidden_layers=28)
    return SimpleNamespace(
        config=SimpleNamespace(text_config=config), dtype=torch.bfloat16, device=torch.device("cuda")
    )


@pytest.mark.parametrize(
    ("gigabytes", "checkpointing", "tokens"),
    [(60, True, 16_384), (20, True, 16_384), (10, True, 8192), (60, False, 2048), (1, False, 512), (0, True, 512)],
)
def test_the_budget_follows_the_free_memory(
    gigabytes: int, checkpointing: bool, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = model(gigabytes << 30, monkeypatch)
    assert token_budget(core, checkpointing=checkpointing, adapters=True) == tokens


def test_a_tiny_model_takes_as_many_as_are_useful_wherever_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """So its numbers do not depend on what else fills the machine's memory."""
    core = make_vlm().core
    monkeypatch.setattr(budget, "free_memory", lambda device: 1 << 30)
    assert token_budget(core, checkpointing=False, adapters=False) == MAX_BATCH_TOKENS


def test_free_memory_is_that_of_this_machine() -> None:
    assert 100 << 20 < free_memory(torch.device("cpu")) < 1 << 50
