"""The losses of VL-DAC on numbers worked out by hand, and what their gradients are the gradients of."""

import math

import pytest
import torch
from overworld_trainer.losses import (
    KlKind,
    PolicyLoss,
    k3_estimate,
    kl_penalty,
    kl_rewards,
    policy_loss,
    step_mean,
    value_loss,
)
from torch import Tensor

from tests.support.optional import present


def rows(*values: float | list[float] | list[bool]) -> Tensor:
    return torch.tensor(values)


def logs(*values: float | list[float] | list[bool]) -> Tensor:
    return torch.tensor(values).log()


def loss_of(
    ratios: Tensor,
    advantages: Tensor,
    mask: Tensor | None = None,
    ref: Tensor | None = None,
    clip: float = 0.2,
    kl: KlKind = "none",
    beta: float = 0.0,
    dual_clip: float | None = None,
) -> tuple[PolicyLoss, Tensor]:
    """`policy_loss` where the old log-probs are 0, so that the log-probs are the logarithms of the ratios."""
    logps = ratios.log().requires_grad_()
    mask = torch.ones_like(ratios, dtype=torch.bool) if mask is None else mask
    ref = torch.zeros_like(ratios) if ref is None else ref
    result = policy_loss(
        logps, torch.zeros_like(ratios), ref, mask, advantages, clip=clip, kl=kl, beta=beta, dual_clip=dual_clip
    )
    return result, logps


def test_each_token_has_its_own_ratio_and_the_clip_takes_the_worse_side() -> None:
    # A = 2: min(.5 * 2, .8 * 2) = 1; min(1 * 2, 1 * 2) = 2; min(1.5 * 2, 1.2 * 2) = 2.4. Mean 1.8.
    # A = -2: min(-1, -1.6) = -1.6; min(-2, -2) = -2; min(-3, -2.4) = -3. Mean -2.2.
    result, _ = loss_of(rows([0.5, 1.0, 1.5], [0.5, 1.0, 1.5]), rows(2.0, -2.0))
    assert torch.allclose(result.loss, rows(-1.8, 2.2))
    assert result.max_ratio.item() == pytest.approx(1.5)


def test_the_gradient_is_gone_where_the_clip_is_the_worse_side_and_only_there() -> None:
    result, logps = loss_of(rows([0.5, 1.0, 1.5], [0.5, 1.0, 1.5]), rows(2.0, -2.0))
    result.loss.sum().backward()
    # d/dlogp of -r A / T = -r A / T; 0 at r = 1.5 with A > 0 and at r = .5 with A < 0.
    assert torch.allclose(present(logps.grad), rows([-1 / 3, -2 / 3, 0.0], [0.0, 2 / 3, 1.0]))
    assert torch.allclose(result.clipped, rows(1 / 3, 1 / 3))


def test_the_dual_clip_bounds_the_loss_where_the_advantage_is_negative() -> None:
    # A = -2, bound 3: -min(r A, clip(r) A) is 4 at r = 2, 8 at r = 4, and 3 * 2 = 6 at most; A = 2 is left alone.
    ratios, advantages = rows([2.0, 4.0], [2.0, 4.0]), rows(-2.0, 2.0)
    without, _ = loss_of(ratios, advantages)
    result, logps = loss_of(ratios, advantages, dual_clip=3.0)
    assert torch.allclose(without.loss, rows((4.0 + 8.0) / 2, -2.4))
    assert torch.allclose(result.loss, rows((4.0 + 6.0) / 2, -2.4))
    result.loss.sum().backward()
    assert torch.allclose(present(logps.grad), rows([2.0, 0.0], [0.0, 0.0]))
    assert torch.allclose(without.clipped, rows(0.0, 1.0))
    assert torch.allclose(result.clipped, rows(0.5, 1.0))


def test_the_kl_estimate_is_that_of_the_distribution_that_was_drawn_from() -> None:
    p, q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.2, 0.6])
    assert float((p * k3_estimate((q / p).log())).sum()) == pytest.approx(float((p * (p / q).log()).sum()))


def test_the_clip_is_the_one_asked_for() -> None:
    # min(1.25 * 1, 1.3 * 1) = 1.25 with clip .3; min(1.25, 1.1) = 1.1 with clip .1.
    assert loss_of(rows([1.25]), rows(1.0), clip=0.3)[0].loss.item() == pytest.approx(-1.25)
    assert loss_of(rows([1.25]), rows(1.0), clip=0.1)[0].loss.item() == pytest.approx(-1.1)


def test_nothing_is_clipped_where_the_advantage_is_zero() -> None:
    result, _ = loss_of(rows([0.1, 9.0]), rows(0.0))
    assert result.clipped.item() == result.loss.item() == 0


def test_each_step_is_normalised_by_its_own_tokens_and_then_steps_by_their_number() -> None:
    # Ratios 1: each token's loss is -A. A reply of 1 token and A = 3, one of 4 tokens and A = -1:
    # mean within steps, then over steps: (-3 + 1) / 2 = -1; one mean over the 5 tokens would be (-3 + 4) / 5 = .2.
    mask = rows([True, False, False, False], [True, True, True, True])
    result, logps = loss_of(torch.ones(2, 4), rows(3.0, -1.0), mask)
    assert torch.allclose(result.loss, rows(-3.0, 1.0))
    result.loss.mean().backward()
    assert torch.allclose(present(logps.grad), rows([-3.0, 0, 0, 0], [0.25] * 4) / 2)


def test_what_lies_behind_the_end_of_a_reply_does_not_count() -> None:
    mask = rows([True, True, False])
    ratios = rows([1.1, 0.9, 50.0])
    ref = rows([0.1, -0.2, 7.0])
    padded, logps = loss_of(ratios, rows(1.0), mask, ref, kl="k3_loss", beta=0.5)
    plain, _ = loss_of(ratios[:, :2], rows(1.0), None, ref[:, :2], kl="k3_loss", beta=0.5)
    for field in ("loss", "clipped", "k1", "k3", "max_ratio"):
        assert torch.allclose(getattr(padded, field), getattr(plain, field)), field
    padded.loss.sum().backward()
    assert present(logps.grad)[0, 2] == 0


def test_the_ends_token_counts_as_any_other() -> None:
    # Three tokens, the third the end: A = 1, ratios 1, 1, 1.1: mean 3.1 / 3.
    assert loss_of(rows([1.0, 1.0, 1.1]), rows(1.0))[0].loss.item() == pytest.approx(-3.1 / 3)


def test_kl_is_measured_over_a_steps_tokens_by_both_estimators() -> None:
    # log now = log .5, log .4; log ref = log .25, log .8. Log-ratios log 2, -log 2.
    # k1: mean 0. k3 = exp(-x) - 1 + x: .5 - 1 + .6931 = .1931; 2 - 1 - .6931 = .3069. Mean .25.
    now, ref = logs([0.5, 0.4]), logs([0.25, 0.8])
    for kind in ("k3_loss", "k2_loss", "k1_reward", "none"):
        result = policy_loss(now, now, ref, rows([True, True]), rows(0.0), clip=0.2, kl=kind, beta=0.0)
        assert result.k1.item() == pytest.approx(0.0, abs=1e-7)
        assert result.k3.item() == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        # d = ref - now = -log 2, log 2. k3: .5 - 1 + .6931 = .1931; 2 - 1 - .6931 = .3069. Mean .25.
        ("k3_loss", 0.25),
        ("k2_loss", math.log(2) ** 2 / 2),
        ("k1_reward", 0.0),
        ("none", 0.0),
    ],
)
def test_the_kl_goes_into_the_loss_by_its_weight(kind: KlKind, expected: float) -> None:
    now, ref = logs([0.5, 0.4]), logs([0.25, 0.8])
    result = policy_loss(now, now, ref, rows([True, True]), rows(1.0), clip=0.2, kl=kind, beta=0.3)
    assert result.loss.item() == pytest.approx(-1 + 0.3 * expected)


def test_k3_is_clamped_so_that_one_token_cannot_ruin_an_update() -> None:
    now = rows([-50.0, 0.0]).requires_grad_()
    loss = kl_penalty(now, rows([0.0, -50.0]), "k3_loss")
    # d = 50 -> 10: e^10 - 11; d = -50 -> -10: e^-10 + 10 - 1.
    assert torch.allclose(loss, rows([math.exp(10) - 11, math.exp(-10) + 9]))
    loss.sum().backward()
    assert present(now.grad).tolist() == [[0.0, 0.0]]


@pytest.fixture
def policy() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A policy over five tokens with gradients, and a reference."""
    logits = torch.tensor([0.3, -0.5, 1.2, 0.0, -1.0], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([0.1, 0.4, -0.3, 0.8, 0.2], dtype=torch.float64).log_softmax(0)
    return logits, logits.log_softmax(0), reference


def expectation(logps: Tensor, values: Tensor) -> Tensor:
    """Over what the policy samples; sampling itself has no gradient."""
    return (logps.exp().detach() * values).sum()


def test_k3s_value_is_kl_of_the_policy_to_the_reference(
    policy: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> None:
    _, logps, reference = policy
    kl = (logps.exp() * (logps - reference)).sum()
    assert expectation(logps, kl_penalty(logps, reference, "k3_loss")).item() == pytest.approx(kl.item())


def test_k3s_gradient_is_that_of_kl_of_the_reference_to_the_policy(
    policy: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> None:
    logits, logps, reference = policy
    (ours,) = torch.autograd.grad(
        expectation(logps, kl_penalty(logps, reference, "k3_loss")), logits, retain_graph=True
    )
    (expected,) = torch.autograd.grad((reference.exp() * (reference - logps)).sum(), logits, retain_graph=True)
    (other,) = torch.autograd.grad((logps.exp() * (logps - reference)).sum(), logits)
    assert torch.allclose(ours, expected)
    assert not torch.allclose(ours, other, atol=0.05)


def test_k2s_gradient_is_that_of_kl_of_the_policy_to_the_reference(
    policy: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> None:
    logits, logps, reference = policy
    (ours,) = torch.autograd.grad(
        expectation(logps, kl_penalty(logps, reference, "k2_loss")), logits, retain_graph=True
    )
    (expected,) = torch.autograd.grad((logps.exp() * (logps - reference)).sum(), logits)
    assert torch.allclose(ours, expected)


def test_k1s_value_is_kl_of_the_policy_to_the_reference(
    policy: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> None:
    _, logps, reference = policy
    mask = torch.ones(5, 1, dtype=torch.bool)
    rewards = kl_rewards(logps[:, None], reference[:, None], mask, beta=2.0)
    kl = (logps.exp() * (logps - reference)).sum()
    assert expectation(logps, rewards).item() == pytest.approx(-2 * kl.item())


def test_k1_is_summed_over_a_steps_tokens_into_its_reward() -> None:
    # -.5 * ((-1 + 2) + (-3 + 1)) = .5; the second reply has one token: -.5 * (-1 + 4) = -1.5.
    old, ref = rows([-1.0, -3.0], [-1.0, 8.0]), rows([-2.0, -1.0], [-4.0, 9.0])
    rewards = kl_rewards(old, ref, rows([True, True], [True, False]), beta=0.5)
    assert rewards.tolist() == [0.5, -1.5]


def test_the_value_loss_is_half_the_square() -> None:
    values = rows(1.0, -2.0).requires_grad_()
    loss = value_loss(values, rows(0.0, 0.0), rows(3.0, -1.0))
    assert loss.tolist() == [2.0, 0.5]
    loss.sum().backward()
    assert present(values.grad).tolist() == [-2.0, -1.0]


def test_value_clipping_takes_the_larger_loss() -> None:
    # Old 0, clip .1. V = 1, target 3: near .1: max(4, 8.41) / 2. V = 1, target -1: max(4, 1.21) / 2.
    # V = .05 is within: (.05 - 1)^2 / 2. V = -1, target -3: near -.1: max(4, 8.41) / 2.
    values = rows(1.0, 1.0, 0.05, -1.0).requires_grad_()
    loss = value_loss(values, torch.zeros(4), rows(3.0, -1.0, 1.0, -3.0), clip=0.1)
    assert torch.allclose(loss, rows(4.205, 2.0, 0.45125, 4.205))
    loss.sum().backward()
    assert torch.allclose(present(values.grad), rows(0.0, 2.0, -0.95, 0.0))


def test_step_mean() -> None:
    mask = rows([True, True, False], [True, True, True])
    assert step_mean(rows([1.0, 3.0, 9.0], [1.0, 2.0, 6.0]), mask).tolist() == [2.0, 3.0]
