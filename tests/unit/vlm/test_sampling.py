"""The distribution that replies are drawn from, and the noise they are drawn with."""

import hashlib

import pytest
import torch
from overworld_vlm import sampling
from overworld_vlm.sampling import draw, log_probs, uniform
from torch import Tensor

from tests.support.optional import present

NONE = torch.zeros(6, dtype=torch.bool)


def uniforms(count: int, *key: int) -> Tensor:
    return torch.tensor([uniform((*key, number), 0) for number in range(count)], dtype=torch.float64)


def test_noise_is_named_by_key_and_token() -> None:
    assert uniform((1, 2, 3), 4) == uniform((1, 2, 3), 4)
    names = [((1, 2, 3), 4), ((1, 2, 3), 5), ((1, 2, 4), 4), ((2, 1, 3), 4), ((1, 2), 3), ((0, 1, 2, 3), 4), ((), 4)]
    assert len({uniform(*name) for name in names}) == len(names)
    assert uniform((-1, 2**63), 0) == uniform((2**64 - 1, 2**63), 0)


def test_noise_is_uniform() -> None:
    counts = torch.histc(uniforms(20_000, 7), 20, 0, 1)
    assert float(((counts - 1000) ** 2 / 1000).sum()) < 43.8  # chi-square, 19 degrees of freedom: .001


def test_noise_is_below_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a token behind the last one would be drawn, once in 2^54."""

    class Largest:
        def digest(self) -> bytes:
            return b"\xff" * 8

    monkeypatch.setattr(hashlib, "blake2b", lambda *_, **__: Largest())
    assert 0.999 < sampling.uniform((), 0) < 1


def test_log_probs_are_those_of_the_softmax_at_the_temperature() -> None:
    logits = torch.tensor([1.0, 2.0, 0.0, -1.0, 3.0, 0.5])
    expected = torch.log((logits / 0.7).exp() / (logits / 0.7).exp().sum())
    assert torch.allclose(log_probs(logits, NONE, 0.7), expected, atol=1e-6)
    several = log_probs(torch.stack([logits, logits]), NONE, torch.tensor([[0.7], [1.0]]))
    assert torch.allclose(several[0], expected, atol=1e-6)
    assert torch.allclose(several[1], logits.log_softmax(-1), atol=1e-6)


def test_log_probs_leave_banned_tokens_out_without_nans() -> None:
    logits = torch.tensor([9.0, 2.0, 0.0, -1.0, 3.0, 0.5], requires_grad=True)
    banned = torch.tensor([True, False, False, False, False, True])
    logps = log_probs(logits, banned)
    assert torch.allclose(logps[1:5], logits[1:5].log_softmax(-1), atol=1e-6)
    assert (logps[[0, 5]].exp() == 0).all()
    entropy = -(logps.exp() * logps).sum()
    entropy.backward()
    gradient = present(logits.grad)
    assert torch.isfinite(gradient).all()
    assert (gradient[[0, 5]] == 0).all()


def test_log_probs_are_computed_in_fp32() -> None:
    logits = torch.tensor([1.0, 2.0, 0.0, -1.0, 3.0, 0.5])
    assert torch.equal(log_probs(logits.bfloat16(), NONE), log_probs(logits, NONE))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_sampled_frequencies_follow_the_softmax(temperature: float) -> None:
    banned = torch.tensor([False, True, False, False, False, True])
    logps = log_probs(torch.tensor([1.0, 5.0, 0.0, -1.0, 2.0, 9.0]), banned, temperature)
    count = 20_000
    drawn = draw(logps.expand(count, -1), uniforms(count, 3), torch.ones(count))
    counts = torch.bincount(drawn, minlength=6).double()
    expected = logps.double().exp() * count
    assert (counts[banned] == 0).all()
    chi_square = ((counts - expected)[~banned] ** 2 / expected[~banned]).sum()
    assert float(chi_square) < 16.3  # 3 degrees of freedom: .001


def test_tokens_of_no_probability_are_not_drawn_at_the_ends_either() -> None:
    logps = log_probs(torch.tensor([[9.0, 1.0, 0.0, 2.0, 9.0, 9.0]]), torch.tensor([True, False] * 2 + [True] * 2))
    for number, token in ((0.0, 1), (0.2689, 1), (0.2690, 3), (1 - 2**-53, 3)):
        assert draw(logps, torch.tensor([number], dtype=torch.float64), torch.ones(1)).item() == token


def test_top_p_draws_from_the_likeliest_tokens_in_proportion() -> None:
    logps = torch.tensor([0.05, 0.4, 0.2, 0.05, 0.3, 0.0]).log()
    count = 10_000
    drawn = draw(logps.expand(count, -1), uniforms(count, 1), torch.full((count,), 0.75))
    counts = torch.bincount(drawn, minlength=6).double() / count
    assert counts[[0, 3, 5]].tolist() == [0, 0, 0]
    assert torch.allclose(counts[[1, 2, 4]], torch.tensor([4, 2, 3]).double() / 9, atol=0.02)


def test_top_p_always_leaves_the_likeliest_token() -> None:
    logps = torch.tensor([[0.3, 0.4, 0.3]]).log().expand(100, -1)
    assert set(draw(logps, uniforms(100, 2), torch.full((100,), 1e-6)).tolist()) == {1}


def test_top_p_of_one_reply_is_nothing_to_another() -> None:
    """Rounding may let the likely tokens of a row add up to 1 before its last one has come."""
    logps = torch.tensor([[0.5 + 1e-7, 0.5, 1e-9]]).log().expand(2, -1)
    numbers = torch.full((2,), 1 - 1e-12, dtype=torch.float64)
    assert draw(logps, numbers, torch.tensor([1.0, 0.9])).tolist() == [2, 1]
