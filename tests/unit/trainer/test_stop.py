"""Stopping in mid-update: where it is noticed, and that nothing remains of the update."""

import copy

import pytest
import torch
from overworld_trainer.learner import Learner
from overworld_trainer.reference import score_all
from overworld_trainer.stop import InterruptionError, Stop
from torch import Tensor

from tests.support.learning import make_learner, make_samples, settings, weights
from tests.support.tiny_vlm import make_vlm


class AtCheck(Stop):
    """Is asked to stop just before a certain check."""

    def __init__(self, number: int | None) -> None:
        super().__init__()
        self.checks = 0
        self._number = number

    def check(self) -> None:
        self.checks += 1
        if self.checks == self._number:
            self.ask()
        super().check()


def state(learner: Learner) -> list[Tensor]:
    """All that training changes."""
    optimizers = learner.policy_optimizer.state_dict(), learner.critic_optimizer.state_dict()
    tensors = [*weights(learner._vlm.model).values(), *weights(learner.critic).values()]
    tensors += learner.policy_optimizer.masters
    for optimizer in optimizers:
        tensors += [value for number in sorted(optimizer["state"]) for value in optimizer["state"][number].values()]
    return copy.deepcopy([tensor.detach() for tensor in tensors])


def same(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return len(ours) == len(theirs) and all(map(torch.equal, ours, theirs))


CRITIC = {"warmup_updates": 1, "epochs": 2, "minibatch": 4, "warmup_epochs": 5}


def learner_with(stop: Stop, dtype: str) -> Learner:
    vlm = make_vlm()
    vlm.model.to({"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype])
    learner = make_learner(vlm, settings(policy={"epochs": 2, "minibatch": 4}, critic=CRITIC, model={"dtype": dtype}))
    learner._stop = stop
    return learner


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("done", [0, 1, 2])
def test_an_interrupted_update_leaves_everything_as_it_was_before_it(done: int, dtype: str) -> None:
    """In the warm-up, in the first update of the policy, whose optimizer has no state before it, and in the next."""
    samples = make_samples(make_vlm(), noise=0.3)
    undisturbed = learner_with(counting := AtCheck(None), dtype)
    for update in range(done):
        undisturbed.update(samples, update)
    so_far = counting.checks
    undisturbed.update(samples, done)
    checks = counting.checks - so_far
    assert checks > 6
    learner = learner_with(Stop(), dtype)
    for update in range(done):
        learner.update(samples, update)
    before = state(learner)
    for number in {1, 2, checks // 2, checks}:
        learner._stop = AtCheck(number)
        with pytest.raises(InterruptionError):
            learner.update(samples, done)
        assert same(state(learner), before)
        assert not learner._vlm.model.training
    learner._stop = Stop()
    learner.update(samples, done)
    assert not same(state(learner), before)
    assert same(state(learner), state(undisturbed))


def test_scoring_stops_between_two_batches() -> None:
    vlm = make_vlm()
    vlm.batch_tokens = 1  # each reply is a batch of its own
    steps = make_samples(vlm).steps
    stop = AtCheck(None)
    score_all(vlm, steps, settings(), stop)
    assert stop.checks == len(steps)
    with pytest.raises(InterruptionError):
        score_all(vlm, steps, settings(), AtCheck(len(steps)))
