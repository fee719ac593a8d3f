"""Log-probs in chunks: the same values and gradients, and logits of one chunk only."""

import pytest
import torch
from overworld_vlm import score as scoring
from overworld_vlm.batch import Prompt
from overworld_vlm.load import VLM
from overworld_vlm.score import Scores, score
from torch import Tensor

from tests.support.optional import present
from tests.support.tiny_vlm import make_vlm, mixed_prompts

REPLIES = [torch.arange(30, 30 + length) for length in (4, 1, 7, 3, 2, 5)]


def scored(vlm: VLM, entropy: bool = True) -> tuple[Scores, dict[str, Tensor]]:
    """Scores and the gradients of a sum in which every token has a weight of its own."""
    vlm.model.zero_grad()
    prompts: list[Prompt] = mixed_prompts(vlm)
    scores = score(vlm, prompts, REPLIES, temperature=0.8, entropy=entropy)
    weights = torch.linspace(-1, 2, scores.logps.numel()).view_as(scores.logps)
    (weights * scores.logps).sum().backward()
    return scores, {name: one.grad.clone() for name, one in vlm.model.named_parameters() if one.grad is not None}


@pytest.mark.parametrize("tokens", [1, 3, 21])
def test_chunks_change_neither_values_nor_gradients(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    vlm = make_vlm()
    expected, gradients = scored(vlm)
    monkeypatch.setattr(scoring, "_CHUNK_LOGITS", tokens * len(vlm.banned))
    scores, again = scored(vlm)
    assert torch.allclose(scores.logps, expected.logps, rtol=0, atol=1e-6)
    assert torch.allclose(present(scores.entropy), present(expected.entropy), rtol=0, atol=3e-6)
    assert again.keys() == gradients.keys()
    steepest = max(float(gradient.abs().max()) for gradient in gradients.values())
    for name, gradient in gradients.items():
        assert torch.allclose(again[name] / steepest, gradient / steepest, rtol=0, atol=1e-6), name


@pytest.mark.parametrize("gradients", [False, True])
def test_logits_of_all_tokens_never_stand_at_once(gradients: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    vlm = make_vlm()
    rows: list[int] = []
    vlm.core.lm_head.register_forward_hook(lambda module, inputs, output: rows.append(output.shape[0]))
    monkeypatch.setattr(scoring, "_CHUNK_LOGITS", 5 * len(vlm.banned))
    with torch.set_grad_enabled(gradients):
        scores = score(vlm, mixed_prompts(vlm), REPLIES)
        assert rows == [5, 5, 5, 5, 2]  # padding is not scored
        if gradients:
            scores.logps.sum().backward()
            assert sorted(rows) == sorted([5, 5, 5, 5, 2] * 2)


def test_entropy_is_computed_where_it_is_asked_for(vlm: VLM) -> None:
    assert scored(make_vlm(), entropy=False)[0].entropy is None
