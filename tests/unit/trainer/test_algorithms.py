"""Each algorithm from a rollout to its loss, against an implementation of its own in plain Python and fp64.

The rollouts have two envs with rewards of other sizes and other weights, replies of all lengths, ends of each kind, a
step that failed, and episodes that the rollout's border cuts or, without a critic, that are whole and of all lengths.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import get_args

import pytest
import torch
from overworld import End
from overworld_trainer.algorithms import ALGORITHMS, AlgorithmName
from overworld_trainer.config import TrainerConfig
from overworld_trainer.losses import policy_loss
from overworld_trainer.rollout import Rollout, Step
from overworld_trainer.samples import assemble, estimate_values, with_token_samples
from overworld_vlm.batch import Prompt, collate, hidden_states
from overworld_vlm.load import VLM
from overworld_vlm.score import prefill_features, score
from torch import Tensor

from tests.support.learning import make_learner, rollout_of, settings
from tests.support.tiny_vlm import mixed_prompts

GAMMA, LAMBDA, CLIP, BETA, THOUGHT_WEIGHT = 0.9, 0.8, 0.15, 0.3, 0.4
SCALES, WEIGHTS = (1.0, 10.0), (0.5, 2.0)
TASK, RULE, LIMIT, FAILED = End.TASK, End.RULE, End.TIME_LIMIT, "failed"

CUT_ROWS: list[list[End | str | None]] = [
    [None, TASK, None, None, None],
    [None, None, LIMIT, None, LIMIT],
    [RULE, None, None, FAILED, None],
    [None, None, None, None, TASK],
]
"""What ended each step, in slots 0 and 1 of the first env and 2 and 3 of the second."""

WHOLE_ROWS: list[list[End | str | None]] = [
    [None, TASK], [None, None, None, LIMIT], [RULE], [None, None, None, None, TASK],
    [TASK], [None, None, RULE], [None, FAILED], [None, LIMIT],
]  # fmt: skip
"""Two tasks of four episodes each, the second in the second env."""


@dataclass
class Played:
    """A step as the reference implementation sees it: plain numbers."""

    env: int
    ended: End | str | None
    reward: float
    value: float
    following: float
    task: int
    state: int
    thinking: int
    now: list[float]
    old: list[float]
    ref: list[float]
    token_values: list[float]
    advantage: float = 0.0
    token_advantages: list[float] = field(default_factory=list)


def value(features: Tensor) -> Tensor:
    return features[:, :8].sum(1) * 0.3


def rollout(vlm: VLM, whole: bool) -> Rollout:
    draw, prompts = random.Random(3), mixed_prompts(vlm)
    rows = []
    for number, ends in enumerate(WHOLE_ROWS if whole else CUT_ROWS):
        env = number // (4 if whole else 2)
        row = []
        for turn, end in enumerate(ends):
            reply = torch.tensor([draw.randrange(20, 200) for _ in range(draw.randrange(1, 9))])
            prompt = draw.choice(prompts)
            logps = score(vlm, [prompt], [reply]).logps[0].detach()
            row.append(
                Step(
                    env=env,
                    turn=turn,
                    prompt=prompt,
                    reply=reply,
                    logps=logps + torch.tensor([draw.gauss(0, 0.15) for _ in reply]),
                    features=prefill_features(vlm, [prompt], "last_prompt_token")[0],
                    thinking=draw.randrange(len(reply) + 1),
                    cut=False,
                    reward=round(draw.uniform(-1, 1), 2) * SCALES[env],
                    end=end if isinstance(end, End) else None,
                    failed=end == FAILED,
                    final=draw.choice(prompts) if end is LIMIT else None,
                    task=70 + env,
                    state=draw.randrange(3),
                )
            )
        rows.append(row)
    made = rollout_of(rows, SCALES)
    made.next_prompts.extend(draw.choice(prompts) for _ in rows)
    return made


def as_played(vlm: VLM, made: Rollout, refs: Sequence[Tensor]) -> list[list[Played]]:
    def valued(prompt: Prompt) -> float:
        return float(value(prefill_features(vlm, [prompt], "last_prompt_token")))

    def token_values(step: Step) -> list[float]:
        batch = collate(vlm, [step.prompt], [step.reply])
        start = len(step.prompt) - 1
        hidden = hidden_states(vlm, batch).detach()
        return [float(value(hidden[:, start + token])) for token in range(len(step.reply))]

    rows, left = [], list(refs)
    for steps, following in zip(made.steps, made.next_prompts, strict=True):
        prompts = [step.prompt for step in steps[1:]] + [following]
        rows.append(
            [
                Played(
                    env=step.env, ended=FAILED if step.failed else step.end, reward=step.reward,
                    value=valued(step.prompt), following=valued(step.final or after),
                    task=step.task, state=step.state, thinking=step.thinking,
                    now=score(vlm, [step.prompt], [step.reply]).logps[0].tolist(),
                    old=step.logps.tolist(), ref=left.pop(0).tolist(), token_values=token_values(step),
                )
                for step, after in zip(steps, prompts, strict=True)
            ]
        )  # fmt: skip
    return rows


def spread(numbers: Sequence[float]) -> tuple[float, float]:
    mean = math.fsum(numbers) / len(numbers)
    return mean, math.sqrt(math.fsum((number - mean) ** 2 for number in numbers) / len(numbers))


def relative(number: float, group: Sequence[float], scale: float) -> float:
    mean, deviation = spread(group)
    return (number - mean) / max(deviation, 0.1 * scale)


def to_go(row: list[Played], turn: int) -> float:
    return math.fsum(GAMMA**ahead * step.reward for ahead, step in enumerate(row[turn:]))


def gae_of(row: list[Played], turn: int) -> float:
    """The sum of Eq. 16, whose terms end where the episode or the rollout does."""
    total = 0.0
    for ahead, step in enumerate(row[turn:]):
        bootstrap = 0.0 if step.ended in (TASK, RULE) else step.following
        total += (GAMMA * LAMBDA) ** ahead * (step.reward + GAMMA * bootstrap - step.value)
        if step.ended is not None or (turn + ahead + 1 < len(row) and row[turn + ahead + 1].ended == FAILED):
            break
    return total


def tokens_of(values: list[float], step_return: float) -> list[float]:
    """Of each token: a mixture of the differences between its value and those that came after it, the return last."""
    following = [*values[1:], step_return]
    advantages = []
    for token, own in enumerate(values):
        later = following[token:]
        mixed = math.fsum((1 - LAMBDA) * LAMBDA**ahead * one for ahead, one in enumerate(later[:-1]))
        advantages.append(mixed + LAMBDA ** (len(later) - 1) * later[-1] - own)
    return advantages


def learnt_from(name: AlgorithmName, rows: list[list[Played]]) -> list[Played]:
    """The steps that count, with their advantages."""
    if name in ("vl_dac", "rl4vlm", "bilevel_gae"):
        for row in rows:
            for turn, step in enumerate(row):
                step.advantage = gae_of(row, turn)
                step.token_advantages = tokens_of(step.token_values, step.advantage + step.value)
        counted = [step for row in rows for step in row if step.ended != FAILED]
        raw = {env: [one for step in counted if step.env == env for one in step.token_advantages] for env in range(2)}
        for step in counted:
            step.token_advantages = [relative(one, raw[step.env], SCALES[step.env]) for one in step.token_advantages]
        return normalised([step for row in rows for step in row if step.ended != FAILED])
    whole = [row for row in rows if row[-1].ended != FAILED]
    for row in whole:
        scale = SCALES[row[0].env]
        group = [other for other in whole if other[0].task == row[0].task]
        returns = [to_go(other, 0) for other in group]
        others = [to_go(other, 0) for other in group if other is not row]
        for turn, step in enumerate(row):
            if name == "reward_to_go":
                step.advantage = to_go(row, turn)
            elif name in ("loop", "rloo"):
                step.advantage = (to_go(row, 0) - math.fsum(others) / len(others)) / scale
            else:
                step.advantage = relative(to_go(row, 0), returns, scale)
            if name == "gigpo":
                alike = [to_go(other, at) for other in group for at, one in enumerate(other) if one.state == step.state]
                step.advantage += relative(to_go(row, turn), alike, scale)
    steps = [step for row in whole for step in row]
    return normalised(steps) if name == "reward_to_go" else steps


def normalised(steps: list[Played]) -> list[Played]:
    raw = {env: [step.advantage for step in steps if step.env == env] for env in range(2)}
    for step in steps:
        step.advantage = relative(step.advantage, raw[step.env], SCALES[step.env])
    return steps


def loss_of(name: AlgorithmName, step: Played) -> float:
    differences = [now - old for now, old in zip(step.now, step.old, strict=True)]
    if name in ("rl4vlm", "rloo"):
        weight = THOUGHT_WEIGHT if name == "rl4vlm" else 1.0
        whole = weight * math.fsum(differences[: step.thinking]) + math.fsum(differences[step.thinking :])
        differences = [whole] * len(differences)
    terms = []
    advantages = step.token_advantages if name == "bilevel_gae" else [step.advantage] * len(differences)
    for difference, now, ref, advantage in zip(differences, step.now, step.ref, advantages, strict=True):
        ratio = math.exp(difference)
        kept = min(ratio * advantage, min(max(ratio, 1 - CLIP), 1 + CLIP) * advantage)
        terms.append(-kept + BETA * (math.exp(ref - now) - (ref - now) - 1))
    return WEIGHTS[step.env] * math.fsum(terms) / len(terms)


def configured(name: AlgorithmName) -> TrainerConfig:
    return settings(
        algorithm=name, gamma=GAMMA, lam=LAMBDA, kl={"beta": BETA},
        policy={"clip": CLIP, "thought_weight": THOUGHT_WEIGHT},
        envs=[{"id": f"toy/{env}", "weight": weight} for env, weight in enumerate(WEIGHTS)],
    )  # fmt: skip


@pytest.mark.parametrize("name", get_args(AlgorithmName))
def test_the_loss_is_that_of_a_plain_implementation(vlm: VLM, name: AlgorithmName) -> None:
    config = configured(name)
    made = rollout(vlm, whole=not ALGORITHMS[name].critic)
    random = torch.Generator().manual_seed(4)
    olds = [step.logps for step in made.flat]
    refs = [old + 0.2 * torch.randn(len(old), generator=random) for old in olds]
    samples = assemble(made, estimate_values(made, vlm, value, config), olds, refs, config)
    samples = with_token_samples(samples, vlm, value, config, made.reward_scales)
    expected = learnt_from(name, as_played(vlm, made, refs))
    assert len(expected) == len(samples) < len(made)
    assert samples.advantages.tolist() == pytest.approx([step.advantage for step in expected], abs=1e-6)
    _, policy, total = make_learner(vlm, config)._loss(samples)
    assert 0 < policy.clipped.mean() < 1
    assert total.item() / len(samples) == pytest.approx(
        math.fsum(loss_of(name, step) for step in expected) / len(expected), abs=1e-6
    )
    if ALGORITHMS[name].critic:
        targets = [step.value for step in expected]
        assert samples.old_values.tolist() == pytest.approx(targets, abs=1e-6)
    else:
        assert not samples.features.numel()


def test_a_critic_of_tokens_learns_the_returns_of_each_of_them(vlm: VLM) -> None:
    config = configured("bilevel_gae")
    made = rollout(vlm, whole=False)
    logps = [step.logps for step in made.flat]
    samples = assemble(made, estimate_values(made, vlm, value, config), logps, logps, config)
    samples = with_token_samples(samples, vlm, value, config, made.reward_scales)
    learner = make_learner(vlm, config)
    data = learner._critic_data(samples)
    tokens = [one.tokens for one in samples.decisions.values() if one.tokens is not None]
    assert len(data.targets) == sum(len(step.reply) for step in samples.steps) > len(samples)
    assert data.old_values.tolist() == pytest.approx(value(data.features).tolist(), abs=1e-6)
    for one, prompt_value, target in zip(tokens, samples.old_values, samples.targets, strict=True):
        assert float(one.values[0]) == pytest.approx(float(prompt_value), abs=1e-5), "the first is the prompt's"
        # The last token's target is what the step returned; the others mix it with the values on the way.
        assert float(one.targets[-1]) == pytest.approx(float(target), abs=1e-5)
    metrics = learner.update(samples, 5)
    assert metrics["losses/value_grad_norm"] > 0


def test_the_gradient_of_a_steps_ratio_is_that_of_its_weighted_log_prob(vlm: VLM) -> None:
    """At ratio 1: A times the sum of w_t d log p_t, not its mean over tokens."""
    now = torch.tensor([[-1.0, -2.0, -0.5], [-3.0, -1.0, 0.0]]).requires_grad_()
    mask = torch.tensor([[True, True, True], [True, True, False]])
    weights = torch.tensor([[0.5, 0.5, 1.0], [0.5, 1.0, 1.0]])
    loss = policy_loss(
        now, now.detach(), now.detach(), mask, torch.tensor([2.0, -1.0]), clip=0.2, kl="none", beta=0.0,
        token_weights=weights,
    )  # fmt: skip
    loss.loss.sum().backward()
    assert now.grad is not None
    assert now.grad.tolist() == [[-1.0, -1.0, -2.0], [0.5, 1.0, 0.0]]
