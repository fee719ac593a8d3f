"""Training in bf16: steps too small for a weight's spacing add up in its master."""

import copy
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from overworld_trainer.clone import clone
from overworld_trainer.config import CloneConfig
from overworld_trainer.demonstrations import Demonstration
from overworld_trainer.masters import MasterAdam
from overworld_trainer.metrics import Metric
from overworld_vlm.load import VLM
from torch import Tensor, nn

from tests.support.learning import make_learner, make_samples, moved, settings, weights
from tests.support.tiny_vlm import TEXTS, make_vlm, user

STEPS = 20
LR = 1e-5


def real_weights() -> nn.Parameter:
    """Weights as large models have them: a standard deviation of .02, in bf16."""
    random = torch.Generator().manual_seed(0)
    return nn.Parameter((0.02 * torch.randn(100_000, generator=random)).bfloat16())


def descend(weight: nn.Parameter, optimizer: torch.optim.Optimizer) -> Tensor:
    """The fraction of weights that did not move in 20 steps whose gradients keep their signs."""
    random = torch.Generator().manual_seed(1)
    before = weight.detach().clone()
    signs = torch.randn(len(weight), generator=random).sign()
    for _ in range(STEPS):
        gradient = (signs * torch.rand(len(weight), generator=random)).bfloat16()
        optimizer.zero_grad()
        (weight * gradient).sum().backward()
        optimizer.step()
    return (weight == before).float().mean()


def test_small_steps_move_the_weights_that_act() -> None:
    """Those that stay are above .0625, where neighbours in bf16 are 4.9e-4 apart: more than twice 20 steps of 1e-5."""
    weight = real_weights()
    assert descend(weight, torch.optim.Adam([weight], lr=LR)) > 0.8
    weight = real_weights()
    optimizer = MasterAdam([weight], lr=LR)
    before = weight.detach().clone()
    assert descend(weight, optimizer) < 0.01
    assert weight.dtype == torch.bfloat16
    assert before[weight == before].abs().min() >= 0.0625
    (master,) = optimizer.masters
    assert float((master.detach() - before.float()).abs().mean()) == pytest.approx(STEPS * LR, rel=0.15)
    assert torch.equal(weight, master.bfloat16())


def test_the_masters_come_to_what_fp32_would_have() -> None:
    weight = real_weights()
    full = nn.Parameter(weight.detach().float())
    ours, theirs = MasterAdam([weight], lr=LR), torch.optim.Adam([full], lr=LR)
    descend(weight, ours)
    descend(full, theirs)
    assert torch.equal(ours.masters[0], full)


def test_fp32_weights_are_their_own_masters_and_nothing_changes() -> None:
    weight, other = (nn.Parameter(real_weights().detach().float()) for _ in range(2))
    ours, theirs = MasterAdam([weight], lr=LR), torch.optim.Adam([other], lr=LR)
    descend(weight, ours)
    descend(other, theirs)
    assert ours.masters[0] is weight
    assert torch.equal(weight, other)
    assert ours.state_dict()["state"][0].keys() == theirs.state_dict()["state"][0].keys()


def test_gradients_of_micro_batches_add_up_in_fp32() -> None:
    """In bf16 256 + 1 is 256."""
    weight = nn.Parameter(torch.ones(1, dtype=torch.bfloat16))
    optimizer = MasterAdam([weight], lr=LR)
    for gradient in (256.0, *[1.0] * 100):
        (weight * gradient).sum().backward()
        assert weight.grad is None
    assert optimizer.masters[0].grad is not None
    assert optimizer.masters[0].grad.item() == 356.0
    optimizer.zero_grad()
    assert optimizer.masters[0].grad is None


def test_masters_come_back_from_a_state_and_go_on_alike() -> None:
    ours, theirs = real_weights(), real_weights()
    before = MasterAdam([ours], lr=LR)
    assert before.state_dict()["state"] == {}  # nothing is kept of weights that were not stepped
    descend(ours, before)
    after = MasterAdam([theirs], lr=LR)
    after.load_state_dict(copy.deepcopy(before.state_dict()))
    assert torch.equal(ours, theirs)
    descend(ours, before)
    descend(theirs, after)
    assert torch.equal(ours, theirs)
    assert torch.equal(before.masters[0], after.masters[0])


def test_a_closed_optimizer_leaves_the_gradients_to_the_weights() -> None:
    weight = real_weights()
    MasterAdam([weight], lr=LR).close()
    weight.sum().backward()
    assert weight.grad is not None


def in_bf16(vlm: VLM) -> VLM:
    vlm.model.to(torch.bfloat16)
    return vlm


def test_the_learner_steps_masters_in_bf16_and_clips_their_gradients() -> None:
    vlm = in_bf16(make_vlm())
    learner = make_learner(vlm, settings(model={"dtype": "bfloat16"}, policy={"lr": 1e-6, "max_grad_norm": 1e-3}))
    before = weights(vlm.model)
    masters = [master.detach().clone() for master in learner.policy_optimizer.masters]
    samples = make_samples(vlm, noise=0.3)
    metrics = learner.update(samples, 0)
    norms = [float(master.grad.norm()) for master in learner.policy_optimizer.masters if master.grad is not None]
    assert sum(norm**2 for norm in norms) ** 0.5 == pytest.approx(1e-3, rel=1e-2)
    assert metrics[Metric.POLICY_GRAD_NORM] > 1e-2
    assert all(parameter.grad is None for parameter in vlm.model.parameters())
    assert {parameter.dtype for parameter in vlm.model.parameters()} == {torch.bfloat16}
    assert not all(map(torch.equal, masters, learner.policy_optimizer.masters))
    assert moved(before, vlm.model)


def demonstrations() -> list[Demonstration]:
    return [Demonstration(messages=[user(TEXTS[n])], reply=TEXTS[3]) for n in range(2)]


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Replaces the masters of cloning by plain Adam."""

    class Plain(torch.optim.Adam):
        def __init__(self, weights: Sequence[nn.Parameter], lr: float) -> None:
            self.masters = weights
            super().__init__(weights, lr=lr)

        def close(self) -> None:
            pass

    yield lambda: monkeypatch.setattr("overworld_trainer.clone.MasterAdam", Plain)


def test_cloning_in_bf16_keeps_small_steps_too(plain: Callable[[], None]) -> None:
    def unmoved() -> float:
        vlm = in_bf16(make_vlm())
        before = weights(vlm.model)
        clone(vlm, demonstrations, CloneConfig(updates=20, lr=1e-4), lambda *_: None)
        same = [(parameter == before[name]).flatten() for name, parameter in vlm.model.named_parameters()
                if "mlp" in name and "language_model" in name]  # fmt: skip
        return float(torch.cat(same).float().mean())

    with_masters = unmoved()
    plain()
    assert with_masters < 0.5 * unmoved()
