"""The updates: what they minimise, which weights they touch, and when."""

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from overworld_trainer.losses import KlKind, policy_loss
from overworld_trainer.metrics import Metric
from overworld_trainer.policy import _with_new_adapter
from overworld_trainer.samples import Samples
from overworld_trainer.warmup import hold_out
from overworld_vlm.load import VLM
from overworld_vlm.score import score
from torch import Tensor, nn

from tests.support.learning import (
    changed,
    gradients,
    make_learner,
    make_samples,
    moved,
    old_logps,
    ref_logps,
    settings,
    weights,
)
from tests.support.optional import present
from tests.support.tiny_vlm import make_vlm


def largest_difference(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    assert ours.keys() == theirs.keys()
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours)


def expected_gradients(vlm: VLM, samples: Samples, clip: float, beta: float) -> dict[str, Tensor]:
    """Of the loss as the specification states it, step by step, token by token, without any batching."""
    vlm.model.zero_grad()
    total = torch.zeros(())
    for number, step in enumerate(samples.steps):
        now = score(vlm, [step.prompt], [step.reply]).logps[0]
        advantage = samples.advantages[number]
        terms = []
        for token in range(len(step.reply)):
            ratio = (now[token] - old_logps(samples)[number][token]).exp()
            kept = torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)
            d = ref_logps(samples)[number][token] - now[token]
            terms.append(-kept + beta * (d.exp() - d - 1))
        total = total + samples.weights[number] * sum(terms) / len(terms)
    (total / len(samples)).backward()
    result = gradients(vlm.model)
    vlm.model.zero_grad()
    return result


@pytest.mark.parametrize("batch_tokens", [1, 150, 400, 16_384])
def test_the_gradient_is_that_of_the_specification_however_the_batch_is_cut(batch_tokens: int) -> None:
    """N is the number of steps of the whole optimizer batch, not of a slice of it."""
    vlm = make_vlm()
    samples = make_samples(vlm, noise=0.3)
    samples = changed(samples, weights=torch.tensor([1.0, 0.5, 2.0] * 4)[: len(samples)])
    expected = expected_gradients(vlm, samples, clip=0.15, beta=0.7)
    vlm.batch_tokens = batch_tokens
    config = settings(policy={"clip": 0.15}, kl={"beta": 0.7})
    metrics = make_learner(vlm, config).update(samples, 0)
    assert 0.1 < metrics["losses/clipfrac"] < 0.9
    assert largest_difference(gradients(vlm.model), expected) < 1e-6
    norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in expected.values()))
    assert metrics["losses/policy_grad_norm"] == pytest.approx(norm, rel=1e-4)


def test_minibatches_are_optimizer_steps_of_their_own() -> None:
    vlm = make_vlm()
    learner = make_learner(vlm, settings(policy={"minibatch": 3, "epochs": 2}, critic={"minibatch": 4, "epochs": 3}))
    learner.update(make_samples(vlm, 11), 0)
    policy_steps = {int(state["step"]) for state in learner.policy_optimizer.state.values()}
    critic_steps = {int(state["step"]) for state in learner.critic_optimizer.state.values()}
    assert policy_steps == {2 * 4}  # 11 / 3, rounded
    assert critic_steps == {3 * 3}


def policy_minibatches(minibatch: int, slots: list[int], update: int, epoch: int, seed: int = 0) -> list[list[int]]:
    """The policy's minibatches of samples from these slots."""
    learner = make_learner(make_vlm(), settings(seed=seed, policy={"minibatch": minibatch}))
    samples = changed(make_samples(make_vlm(), len(slots)), slots=torch.tensor(slots))
    return [batch.tolist() for batch in learner._stratified_minibatches(samples, update, epoch)]


def critic_minibatches(minibatch: int, slots: list[int], update: int, epoch: int, seed: int = 0) -> list[list[int]]:
    """The critic's minibatches."""
    learner = make_learner(make_vlm(), settings(seed=seed))
    return [batch.tolist() for batch in learner._minibatches("critic", len(slots), minibatch, update, epoch)]


@pytest.mark.parametrize("minibatches", [policy_minibatches, critic_minibatches])
def test_every_sample_is_in_one_minibatch_of_each_epoch_in_an_order_of_the_seeds(
    minibatches: Callable[..., list[list[int]]],
) -> None:
    slots = [0] * 6 + [1] * 5  # a step failed
    parts = []
    for update in (0, 1):
        for epoch in (0, 1):
            batches = minibatches(4, slots, update, epoch)
            assert sorted(map(len, batches)) == [3, 4, 4]
            assert sorted(number for batch in batches for number in batch) == list(range(11))
            parts.append(tuple(tuple(sorted(batch)) for batch in batches))
    assert len(set(parts)) == 4
    assert minibatches(4, slots, 0, 0) == minibatches(4, slots, 0, 0) != minibatches(4, slots, 0, 0, seed=1)
    assert len(minibatches(128, [0, 1], 0, 0)) == 1


@pytest.mark.parametrize(("steps", "minibatch", "taken"), [(4, 6, 2), (4, 3, 1), (6, 9, 3), (8, 12, 4), (8, 3, 1)])
def test_each_of_the_policys_minibatches_takes_as_many_steps_of_every_slot(
    steps: int, minibatch: int, taken: int
) -> None:
    slots = [slot for slot in range(3) for _ in range(steps)]
    batches = policy_minibatches(minibatch, slots, 0, 0)
    assert len(batches) == 3 * steps // minibatch
    for batch in batches:
        assert [[slots[number] for number in batch].count(slot) for slot in range(3)] == [taken] * 3


def test_a_minibatch_smaller_than_the_number_of_slots_takes_a_step_of_some() -> None:
    slots = [slot for slot in range(6) for _ in range(2)]
    batches = policy_minibatches(2, slots, 0, 0)
    assert sorted(map(len, batches)) == [2] * 6
    assert all(len({slots[number] for number in batch}) == 2 for batch in batches)
    assert sorted(number for batch in batches for number in batch) == list(range(12))


@pytest.mark.parametrize("value_input", ["last_prompt_token", "prompt_mean"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_first_ratio_is_one(value_input: str, temperature: float) -> None:
    """The sampler's log-probs are those of training: same temperature, same bans, same positions."""
    vlm = make_vlm()
    config = settings(critic={"input": value_input}, temperature=temperature)
    metrics = make_learner(vlm, config).update(make_samples(vlm, temperature=temperature), 0)
    assert metrics["losses/max_logprob_error"] < 1e-4
    assert metrics["losses/mean_logprob_error"] <= metrics["losses/max_logprob_error"]
    assert abs(metrics["losses/max_ratio"] - 1) < 1e-4
    assert metrics["losses/clipfrac"] == 0
    assert abs(metrics["losses/kl_k1"]) < 1e-5


def test_the_samplers_error_is_that_of_the_first_minibatch_before_any_weight_has_changed() -> None:
    vlm = make_vlm()
    samples = make_samples(vlm)
    metrics = make_learner(vlm, settings(policy={"minibatch": 2, "epochs": 2, "lr": 0.1})).update(samples, 0)
    assert metrics["losses/max_logprob_error"] < 1e-4
    assert metrics["losses/max_ratio"] > 1.05
    for step in samples.steps:
        step.logps[-1] += 0.5
    metrics = make_learner(make_vlm(), settings()).update(samples, 0)
    assert metrics["losses/max_logprob_error"] == pytest.approx(0.5, abs=1e-4)
    # One token of each step is off, by .5 in the sampler's favour; the means are over all tokens of the minibatch.
    share = len(samples) / sum(len(step.reply) for step in samples.steps)
    assert metrics["losses/mean_logprob_error"] == pytest.approx(0.5 * share, abs=1e-4)
    assert metrics["losses/sampler_kl"] == pytest.approx((math.exp(-0.5) - 1 + 0.5) * share, abs=1e-4)


def test_the_dual_clip_is_the_one_asked_for() -> None:
    vlm = make_vlm()
    samples = make_samples(vlm)
    decisions = {
        number: dataclasses.replace(one, old_logps=one.old_logps - math.log(5.0))  # all ratios are 5
        for number, one in samples.decisions.items()
    }
    samples = changed(samples, decisions=decisions)
    samples = changed(samples, advantages=torch.full((len(samples),), -1.0))
    losses = {
        bound: make_learner(vlm, settings(policy={"dual_clip": bound, "lr": 1e-9}, kl={"kind": "none"}))
        .update(samples, 0)["losses/policy_loss"]
        for bound in (None, 3.0)
    }  # fmt: skip
    assert losses == {None: pytest.approx(5.0, rel=1e-3), 3.0: pytest.approx(3.0, rel=1e-3)}


def only_value(samples: Samples) -> Samples:
    """Samples that teach nothing but the critic."""
    return changed(samples, advantages=torch.zeros(len(samples)), targets=samples.targets + 100.0)


@pytest.mark.parametrize("value_input", ["last_prompt_token", "prompt_mean"])
@pytest.mark.parametrize("update", [0, 1])
def test_the_value_loss_never_reaches_the_backbone(value_input: str, update: int) -> None:
    """Neither while warming up, from the rollout's features, nor beside the policy's loss."""
    vlm = make_vlm()
    config = settings(critic={"warmup_updates": 1, "input": value_input}, kl={"kind": "none"})
    learner = make_learner(vlm, config)
    before, critic = weights(vlm.model), weights(learner.critic)
    metrics = learner.update(only_value(make_samples(vlm, value_input=value_input)), update)
    assert metrics["losses/value_grad_norm"] > 1
    assert gradients(vlm.model) == {}
    assert moved(before, vlm.model) == set()
    assert moved(critic, learner.critic) == set(critic)


@pytest.mark.parametrize("value_input", ["last_prompt_token", "prompt_mean"])
@pytest.mark.parametrize("coefficient", [1.0, 0.15])
def test_without_the_stop_gradient_only_the_backbones_gradient_differs_by_that_of_the_value_loss(
    value_input: str, coefficient: float
) -> None:
    """The head's every step is the same to the bit; the value loss is weighted as the policy's is."""
    samples = make_samples(make_vlm(), value_input=value_input, noise=0.3)
    importance = torch.tensor([1.0, 0.5, 2.0] * 4)[: len(samples)]
    samples = changed(samples, weights=importance, targets=samples.targets + 3.0)
    learners, backbones, metrics = {}, {}, {}
    for stop_gradient in (True, False):
        critic = {"stop_gradient": stop_gradient, "input": value_input, "coefficient": coefficient, "epochs": 4}
        backbones[stop_gradient] = make_vlm()
        learners[stop_gradient] = make_learner(backbones[stop_gradient], settings(critic=critic))
        metrics[stop_gradient] = learners[stop_gradient].update(samples, 0)
    before = weights(make_learner(make_vlm(), settings()).critic)
    head, shared_head = learners[True].critic, learners[False].critic
    assert moved(before, head) == set(before)
    assert moved(weights(head), shared_head) == set()
    assert largest_difference(gradients(head), gradients(shared_head)) == 0  # the shared pass leaves none in the head
    ours, theirs = (learners[kind].critic_optimizer.state_dict()["state"] for kind in (True, False))
    assert all(torch.equal(ours[n][field], theirs[n][field]) for n in ours for field in ours[n])
    assert {field for field in metrics[True] if metrics[True][field] != metrics[False][field]} == {
        Metric.POLICY_GRAD_NORM,
    }

    vlm = make_vlm()
    scores = score(vlm, [step.prompt for step in samples.steps], [step.reply for step in samples.steps],
                   value_input=value_input)  # fmt: skip
    squares = (head(scores.features) - samples.targets) ** 2 / 2
    (coefficient * importance * squares).mean().backward()
    expected = gradients(vlm.model)
    assert "model.visual.patch_embed.proj.weight" in expected
    alone, shared = gradients(backbones[True].model), gradients(backbones[False].model)
    difference = {name: shared[name] - alone.get(name, torch.zeros(())) for name in shared}
    difference = {name: gradient for name, gradient in difference.items() if name in expected}
    assert largest_difference(difference, expected) < 1e-5
    assert all(torch.equal(shared[name], alone[name]) for name in alone.keys() - expected.keys())


def test_the_policys_gradient_does_not_depend_on_the_targets() -> None:
    ours, theirs = make_vlm(), make_vlm()
    samples = make_samples(ours, noise=0.1)
    make_learner(ours, settings()).update(samples, 0)
    make_learner(theirs, settings()).update(changed(samples, targets=samples.targets * 50 + 7), 0)
    assert moved(weights(ours.model), theirs.model) == set()


@pytest.mark.parametrize("stop_gradient", [True, False])
def test_during_warm_up_the_policys_optimizer_is_frozen_entirely(stop_gradient: bool) -> None:
    vlm = make_vlm()
    samples = make_samples(vlm, noise=0.3)
    learner = make_learner(vlm, settings(critic={"warmup_updates": 2, "stop_gradient": stop_gradient}))
    before, critic = weights(vlm.model), weights(learner.critic)
    for update in (0, 1):
        metrics = learner.update(samples, update)
        assert "losses/policy_loss" not in metrics
        assert metrics["charts/learning_rate"] == 0
        assert metrics["losses/value_grad_norm"] > 0
    assert moved(before, vlm.model) == set()
    assert gradients(vlm.model) == {}
    assert not learner.policy_optimizer.state
    assert moved(critic, learner.critic) == set(critic)
    learner.update(samples, 2)
    assert moved(before, vlm.model) == set(before)
    assert {int(state["step"]) for state in learner.policy_optimizer.state.values()} == {1}


def grouped(count: int, informative: float) -> Samples:
    """Eight slots of steps whose features tell `informative` of the standard deviation of their targets."""
    vlm = make_vlm()
    random = torch.Generator().manual_seed(4)
    features = torch.randn(count, vlm.hidden_size, generator=random)
    noise = torch.randn(count, generator=random)
    targets = 2.0 + informative * features[:, 0] + (1 - informative**2) ** 0.5 * noise
    one = make_samples(vlm, 1)
    return changed(
        one,
        decisions=dict.fromkeys(range(count), one.decisions[0]),
        advantages=torch.zeros(count),
        weights=torch.ones(count),
        features=features,
        targets=targets,
        old_values=torch.zeros(count),
        slots=torch.arange(count) // (count // 8),
    )


def test_the_warm_up_ends_by_what_the_critic_predicts_in_slots_it_was_not_fitted_to() -> None:
    """It fits while that helps: many epochs where the features tell the targets, few where they are noise."""
    critic = {"layers": [64], "epochs": 2, "minibatch": 32, "lr": 3e-3, "warmup_updates": 1, "warmup_epochs": 40}
    epochs, explained = {}, {}
    for informative in (0.95, 0.0):
        metrics = make_learner(make_vlm(), settings(critic=critic)).update(grouped(256, informative), 0)
        epochs[informative] = metrics[Metric.CRITIC_EPOCHS]
        explained[informative] = metrics[Metric.HELD_OUT_EXPLAINED_VARIANCE]
    assert explained[0.95] > 0.4
    assert explained[0.0] < 0.1
    assert 2 <= epochs[0.0] < epochs[0.95] <= 40
    today = settings(critic=critic | {"warmup_epochs": 2})  # no more than after the warm-up
    learner = make_learner(make_vlm(), today)
    metrics = learner.update(grouped(256, 0.95), 0)
    assert metrics[Metric.CRITIC_EPOCHS] == 2
    assert Metric.HELD_OUT_EXPLAINED_VARIANCE not in metrics
    assert {int(state["step"]) for state in learner.critic_optimizer.state.values()} == {2 * 8}


def test_the_warm_up_leaves_the_critic_and_its_optimizer_as_they_were_after_the_best_epoch() -> None:
    critic = {"layers": [64], "epochs": 1, "minibatch": 32, "lr": 1e-2, "warmup_updates": 1, "warmup_epochs": 40}
    samples = grouped(256, 0.7)
    learner = make_learner(make_vlm(), settings(critic=critic))
    metrics = learner.update(samples, 0)
    fitted, held_out = hold_out(samples.slots, 0)
    steps = metrics[Metric.CRITIC_EPOCHS] * round(len(fitted) / 32)
    assert {int(state["step"]) for state in learner.critic_optimizer.state.values()} == {steps}
    with torch.no_grad():
        error = (learner.critic(samples.features[held_out]) - samples.targets[held_out]).square().mean()
    variance = samples.targets[held_out].var(correction=0)
    assert metrics[Metric.HELD_OUT_EXPLAINED_VARIANCE] == pytest.approx(float(1 - error / variance), abs=1e-6)
    assert 1 < metrics[Metric.CRITIC_EPOCHS] < 35  # it overfits well before the ceiling


def test_whole_slots_are_held_out_and_others_in_each_update() -> None:
    slots = torch.arange(16).repeat_interleave(4)
    seen = []
    for update in range(5):
        fitted, held_out = hold_out(slots, update)
        assert sorted([*fitted.tolist(), *held_out.tolist()]) == list(range(64))
        assert not set(slots[fitted].tolist()) & set(slots[held_out].tolist())
        seen += slots[held_out].unique().tolist()
    assert sorted(seen) == list(range(16))
    for update in range(3):  # with fewer slots than folds one is held out
        assert [len(part) for part in hold_out(torch.tensor([3, 3, 7, 7]), update)] == [2, 2]
    assert len(hold_out(torch.tensor([3, 3]), 1)[0]) == 0


def test_the_learning_rate_falls_along_a_cosine_that_begins_after_the_warm_up() -> None:
    config = settings(policy={"lr": 1e-3, "lr_end": 1e-5}, critic={"warmup_updates": 2}, updates=7)
    learner = make_learner(make_vlm(), config)
    # Updates 2 to 6: 0, 1/4, 1/2, 3/4, 1 of the way from 1e-3 to 1e-5.
    expected = [0, 0, 1e-3, *(1e-5 + 9.9e-4 * (1 + math.cos(math.pi * n / 4)) / 2 for n in (1, 2, 3)), 1e-5]
    assert [learner.learning_rate(update) for update in range(7)] == pytest.approx(expected)
    assert learner.learning_rate(50) == pytest.approx(1e-5)


@pytest.mark.parametrize("update", [2, 4])
def test_the_policys_optimizer_uses_the_learning_rate_of_the_update(update: int) -> None:
    """Adam's first step moves every weight by the learning rate, whatever the gradient's size."""
    vlm = make_vlm()
    learner = make_learner(vlm, settings(critic={"warmup_updates": 2}))
    before = weights(vlm.model)
    learner.update(make_samples(vlm, noise=0.3), update)
    name = "model.language_model.layers.1.mlp.down_proj.weight"
    step = (dict(vlm.model.named_parameters())[name] - before[name]).abs().median().item()
    assert step == pytest.approx(learner.learning_rate(update), rel=0.05)


def test_warm_up_can_be_left_out() -> None:
    assert make_learner(make_vlm(), settings(updates=1)).learning_rate(0) == pytest.approx(1e-3)


def test_policy_and_critic_are_clipped_apart() -> None:
    vlm = make_vlm()
    samples = changed(make_samples(vlm, noise=0.3), targets=torch.full((11,), 1e4))
    config = settings(policy={"max_grad_norm": 0.01}, critic={"max_grad_norm": 0.5})
    learner = make_learner(vlm, config)
    metrics = learner.update(samples, 0)

    def norm(module: nn.Module) -> float:
        return math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients(module).values()))

    assert norm(vlm.model) == pytest.approx(0.01, rel=1e-3)
    assert norm(learner.critic) == pytest.approx(0.5, rel=1e-3)
    assert metrics["losses/policy_grad_norm"] > 0.05
    assert metrics["losses/value_grad_norm"] > 100


def test_only_the_adapter_learns_where_there_is_one() -> None:
    base = make_vlm()
    base.model.requires_grad_(False)
    config = settings(model={"lora": {"r": 4, "alpha": 8}})
    vlm = _with_new_adapter(base, present(config.model.lora), 0)
    learner = make_learner(vlm, config)
    before = weights(vlm.model)
    samples = make_samples(vlm, noise=0.3)
    for update in (0, 1):  # in the first one half of an adapter's weights has no gradient, the other half being zero
        learner.update(samples, update)
    assert moved(before, vlm.model) == {name for name in before if "lora_" in name}


def test_a_fresh_adapter_changes_nothing_and_one_seed_makes_one_adapter() -> None:
    def fresh(seed: int) -> VLM:
        return _with_new_adapter(make_vlm(), present(settings(model={"lora": {}}).model.lora), seed)

    samples = make_samples(make_vlm())
    metrics = make_learner(fresh(0), settings()).update(samples, 0)
    assert metrics["losses/max_logprob_error"] < 1e-4
    assert moved(weights(fresh(1).model), fresh(1).model) == set()
    assert moved(weights(fresh(1).model), fresh(2).model) != set()


def test_the_critic_fits_its_targets() -> None:
    vlm = make_vlm()
    samples = make_samples(vlm, 24)
    learner = make_learner(vlm, settings(critic={"epochs": 300, "warmup_updates": 1, "layers": [64], "lr": 1e-2}))
    learner.update(samples, 0)
    with torch.no_grad():
        error = (learner.critic(samples.features) - samples.targets).square().mean()
    # Prompts repeat, so no critic can know more than the mean target of each.
    groups = [samples.targets[number::6] for number in range(6)]
    best = torch.cat([group - group.mean() for group in groups]).square().mean()
    assert float(error) < float(best) + 0.05


def test_value_clipping_is_measured_from_the_rollouts_values() -> None:
    vlm = make_vlm()
    samples = make_samples(vlm)
    learner = make_learner(vlm, settings(critic={"clip": 0.1, "warmup_updates": 1, "warmup_epochs": 1}))
    values = learner.critic(samples.features).detach()
    near = samples.old_values + (values - samples.old_values).clamp(-0.1, 0.1)
    squares = torch.maximum((values - samples.targets) ** 2, (near - samples.targets) ** 2)
    assert learner.update(samples, 0)["losses/value_loss"] == pytest.approx(float(squares.mean() / 2), rel=1e-5)


@pytest.mark.parametrize("kind", ["k2_loss", "k1_reward", "none"])
def test_the_kind_of_kl_is_the_one_asked_for(kind: KlKind) -> None:
    vlm = make_vlm()
    samples = make_samples(vlm, noise=0.3)
    beta = 0.7
    metrics = make_learner(vlm, settings(kl={"kind": kind, "beta": beta})).update(samples, 0)
    expected = [
        policy_loss(
            step.logps[None], old_logps(samples)[number][None], ref_logps(samples)[number][None],
            torch.ones(1, len(step.logps), dtype=torch.bool), samples.advantages[number, None],
            clip=0.2, kl=kind, beta=beta,
        ).loss.item()
        for number, step in enumerate(samples.steps)
    ]  # fmt: skip
    assert metrics["losses/policy_loss"] == pytest.approx(sum(expected) / len(expected), abs=1e-4)


def test_entropies_of_thoughts_and_action_are_told_apart() -> None:
    vlm = make_vlm()
    samples = make_samples(vlm)
    thinking = [min(number % 4, len(step.reply)) for number, step in enumerate(samples.steps)]
    decisions = {
        number: dataclasses.replace(one, step=dataclasses.replace(one.step, thinking=thinking[number]))
        for number, one in samples.decisions.items()
    }
    samples = changed(samples, decisions=decisions)
    metrics = make_learner(vlm, settings()).update(samples, 0)
    with torch.no_grad():
        scores = [score(make_vlm(), [step.prompt], [step.reply], entropy=True) for step in samples.steps]
        rows = [present(one.entropy)[0] for one in scores]
    thoughts = [row[:tokens].mean() for row, tokens in zip(rows, thinking, strict=True) if tokens]
    action = [row[tokens:].mean() for row, tokens in zip(rows, thinking, strict=True) if tokens < len(row)]
    assert 0 < len(thoughts) < len(rows)
    assert 0 < len(action) < len(rows)
    assert metrics["losses/entropy_thoughts"] == pytest.approx(float(torch.stack(thoughts).mean()), rel=1e-4)
    assert metrics["losses/entropy_action"] == pytest.approx(float(torch.stack(action).mean()), rel=1e-4)


def test_gradient_checkpointing_changes_nothing_and_decoding_still_works() -> None:
    ours, theirs = make_vlm(), make_vlm()
    samples = make_samples(ours, noise=0.3)
    make_learner(ours, settings()).update(samples, 0)
    make_learner(theirs, settings(model={"gradient_checkpointing": True})).update(samples, 0)
    assert largest_difference(gradients(ours.model), gradients(theirs.model)) < 1e-6
    assert not theirs.model.training
    make_samples(theirs, 2)


def test_an_update_repeats_exactly() -> None:
    first, second = make_vlm(), make_vlm()
    samples = make_samples(first, noise=0.3)
    config = settings(policy={"minibatch": 4, "epochs": 2})
    ours, theirs = (make_learner(vlm, config).update(samples, 0) for vlm in (first, second))
    assert ours == theirs
    assert moved(weights(first.model), second.model) == set()


def test_the_critics_weights_are_its_seeds_and_leave_the_process_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    ours, same, other = (make_learner(make_vlm(), settings(), seed).critic for seed in (5, 5, 6))
    assert torch.equal(torch.rand(2), expected)
    assert moved(weights(ours), same) == set()
    assert moved(weights(ours), other) == set(weights(ours))
