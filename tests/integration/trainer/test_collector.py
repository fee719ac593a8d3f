"""Rollouts from a real server: what is recorded, how episodes end, fail and go on."""

import contextlib
import functools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
import torch
from overworld import End, Outcome, Reset, Result, Session
from overworld.evaluation.conversation import Conversation, Recipe
from overworld.host.process import ServerProcess
from overworld_trainer.advantages import Valuation
from overworld_trainer.codec import as_arrays, encode_reply
from overworld_trainer.config import TrainerConfig
from overworld_trainer.critic import Critic
from overworld_trainer.episodes import EnvError, Episodes, PlayerState
from overworld_trainer.learner import Learner
from overworld_trainer.reference import Reference
from overworld_trainer.rollout import Collector, Rollout, Step
from overworld_trainer.samples import assemble, estimate_values, make_samples
from overworld_trainer.seeds import episode_seed
from overworld_vlm.batch import Prompt, encode
from overworld_vlm.engine import Engine
from overworld_vlm.load import VLM
from overworld_vlm.score import prefill_features
from overworld_vlm.writer import Request, Writer

from tests.support.learning import ref_logps
from tests.support.optional import present
from tests.support.scripted_env import REPLIES
from tests.support.tiny_vlm import make_vlm

Played = dict[str, Any] | list[str]
"""An env's settings, or the puppet's options, or its script alone."""


def settings(server: ServerProcess, *envs: Played, **changes: Any) -> TrainerConfig:
    """Settings to play the given envs, or the puppet with a script, four slots of it."""
    played = [
        {"id": "puppet/Puppet", "slots": 4, "options": env} if "id" not in env else env
        for env in ({"script": env} if isinstance(env, list) else env for env in envs)
    ]
    fields: dict[str, Any] = {
        "run": "unused", "servers": server.address, "clone": {"updates": 1}, "temperature": 0.1, "max_new_tokens": 24,
        "gamma": 0.9, "retry_budget": 20.0, "critic": {"input": "prompt_mean"},
    }  # fmt: skip
    return TrainerConfig(**(fields | {"envs": played} | changes))


CRITIC = Critic(32, (16,), seed=4)


def value(features: torch.Tensor) -> torch.Tensor:
    return 100 * CRITIC(features)


@contextlib.contextmanager
def collecting(
    config: TrainerConfig, vlm: VLM, state: list[PlayerState] | None = None
) -> Iterator[tuple[Collector, Episodes]]:
    """A collector that writes with the model, and its episodes."""
    writer = Engine(vlm, max_batch=config.max_batch, value_input=config.critic.input)
    with Episodes.open(config, functools.partial(episode_seed, config.seed), state) as episodes:
        yield Collector(config, vlm, writer, episodes), episodes


class ScriptedWriter(Writer):
    """Replies as the puppet asks, as a server would that sees nothing but the messages: one reply at a time, the latest
    request's first, without features.
    """

    def __init__(self, vlm: VLM, replies: Mapping[str, str] = REPLIES) -> None:
        self._vlm = vlm
        self._replies = replies
        self._waiting: list[Request] = []
        self.seen: list[Request] = []

    def add(self, request: Request) -> None:
        self._waiting.append(request)
        self.seen.append(request)

    def step(self) -> list[Request]:
        request = self._waiting.pop()
        (text,) = [part["text"] for part in request.messages[-1]["content"] if part["type"] == "text"]
        words = re.findall(r"^Do: (\w+)$", text, re.MULTILINE)
        request.tokens = encode_reply(self._vlm, self._replies[words[0]]).tolist()
        request.logps = [-0.5] * len(request.tokens)
        request.finish = "stop"
        return [request]


def play(server: ServerProcess, vlm: VLM, *envs: Played, steps: int = 4, **changes: Any) -> tuple[Rollout, Valuation]:
    """A rollout and its valuation."""
    config = settings(server, *envs, **changes)
    with collecting(config, vlm) as (collector, _):
        rollout = collector.collect(steps)
    return rollout, estimate_values(rollout, vlm, value, config)


def column(rollout: Rollout, field: str) -> list[list[Any]]:
    return [[getattr(step, field) for step in row] for row in rollout.steps]


def same_prompt(one: Prompt, other: Prompt) -> bool:
    return (
        torch.equal(one.ids, other.ids)
        and [picture.digest for picture in one.pictures] == [picture.digest for picture in other.pictures]
        and torch.equal(one.positions, other.positions)
        and one.next == other.next
    )


def same_steps(ours: Sequence[Step], theirs: Sequence[Step]) -> bool:
    """Whether two rows of steps hold the same decisions."""
    fields = ("turn", "reward", "end", "outcome", "failed", "cut", "thinking")
    return len(ours) == len(theirs) and all(
        same_prompt(one.prompt, other.prompt)
        and torch.equal(one.reply, other.reply)
        and torch.equal(one.logps, other.logps)
        and [getattr(one, field) for field in fields] == [getattr(other, field) for field in fields]
        for one, other in zip(ours, theirs, strict=True)
    )


def replay(
    server: ServerProcess,
    vlm: VLM,
    options: dict[str, Any],
    slot: int,
    episode: int,
    actions: Sequence[str | None],
    recipe: Recipe | None = None,
) -> tuple[Result, Prompt]:
    """What an own session shows after these actions in an episode of the run: its result and the prompt to it."""
    with Session(server.address, "puppet/Puppet", 1, options=options) as session:
        conversation = Conversation(session.spec, recipe or Recipe())
        result = session.step([Reset(episode_seed(0, 0, slot, episode))])[0]
        conversation.observe(result)
        for action in actions:
            result = session.step([action])[0]
            conversation.observe(result)
    return result, encode(vlm, as_arrays(conversation.messages()))


def value_of(vlm: VLM, prompt: Prompt) -> float:
    with torch.no_grad():
        return float(value(prefill_features(vlm, [prompt], "prompt_mean")))


def test_a_rollout_holds_what_was_seen_said_and_earned(server: ServerProcess, obedient: VLM) -> None:
    rollout, valuation = play(server, obedient, ["go", "go", "win"], steps=4)
    assert column(rollout, "turn") == [[0, 1, 2, 0]] * 4
    assert valuation.rewards.tolist() == [[1.125, 1.25, 2.0, 1.125]] * 4
    assert column(rollout, "end") == [[None, None, End.TASK, None]] * 4
    assert column(rollout, "outcome") == [[Outcome.EXECUTED] * 4] * 4
    assert column(rollout, "cut") == [[False] * 4] * 4
    assert [(one.reward, one.length, one.success, one.end) for one in rollout.episodes] == [
        (4.375, 3, True, End.TASK)
    ] * 4
    for slot, row in enumerate(rollout.steps):
        for step, (episode, turn) in zip(row, ((0, 0), (0, 1), (0, 2), (1, 0)), strict=True):
            prompt = replay(server, obedient, {"script": ["go", "go", "win"]}, slot, episode, ["go"] * turn)[1]
            assert same_prompt(step.prompt, prompt)
            reply = obedient.tokenizer.decode(step.reply, skip_special_tokens=True)
            assert reply == REPLIES["win" if turn == 2 else "go"]
            assert step.reply[-1] == obedient.tokenizer.eos_token_id
            assert '"action"' in obedient.tokenizer.decode(step.reply[step.thinking :])
            assert len(step.logps) == len(step.reply)


def test_values_are_the_critics_of_the_prompts(server: ServerProcess, obedient: VLM) -> None:
    rollout, valuation = play(server, obedient, ["go", "go", "win"], steps=4)
    for n, row in enumerate(rollout.steps):
        for t, step in enumerate(row):
            assert float(valuation.values[n, t]) == pytest.approx(value_of(obedient, step.prompt), abs=1e-3)
    assert torch.equal(valuation.next_values[:, :2], valuation.values[:, 1:3])


def test_an_end_by_the_task_or_a_rule_is_not_bootstrapped(server: ServerProcess, obedient: VLM) -> None:
    for word, end in (("win", End.TASK), ("lose", End.RULE)):
        rollout, valuation = play(server, obedient, ["go", word], steps=3)
        assert column(rollout, "end") == [[None, end, None]] * 4
        assert valuation.bootstraps.tolist() == [[True, False, True]] * 4
        assert valuation.continues.tolist() == [[True, False, False]] * 4
        assert [one.success for one in rollout.episodes] == [end is End.TASK] * 4


def test_a_time_limit_is_bootstrapped_with_the_true_final_observation(server: ServerProcess, obedient: VLM) -> None:
    options = {"script": ["go"], "max_turns": 3}
    rollout, valuation = play(server, obedient, options, steps=5)
    assert column(rollout, "end") == [[None, None, End.TIME_LIMIT, None, None]] * 4
    assert valuation.bootstraps.all()
    assert valuation.continues.tolist() == [[True, True, False, True, False]] * 4
    for slot in range(4):
        final, prompt = replay(server, obedient, options, slot, 0, ["go"] * 3)
        assert final.end is End.TIME_LIMIT
        expected = value_of(obedient, prompt)
        assert float(valuation.next_values[slot, 2]) == pytest.approx(expected, abs=1e-3)
        assert abs(float(valuation.values[slot, 3]) - expected) > 1e-2  # the next episode's first state is another


def test_a_time_limit_may_be_a_penalty_instead(server: ServerProcess, obedient: VLM) -> None:
    options = {"script": ["go"], "max_turns": 2}
    rollout, valuation = play(server, obedient, options, steps=3, time_limit="penalty", recipe=Recipe(turns_left=True))
    assert valuation.bootstraps.tolist() == [[True, False, True]] * 4
    assert valuation.rewards.tolist() == [[1.125, 0.25, 1.125]] * 4
    assert [one.reward for one in rollout.episodes] == [2.375] * 4  # the env's own
    texts = [[obedient.tokenizer.decode(step.prompt.ids) for step in row] for row in rollout.steps]
    assert ["Turns left: 2" in row[0] and "Turns left: 1" in row[1] for row in texts] == [True] * 4


def test_an_end_in_a_rollouts_last_step_is_the_end_that_it_is(server: ServerProcess, obedient: VLM) -> None:
    options = {"script": ["go"], "max_turns": 2}
    _, limit = play(server, obedient, options, steps=2)
    assert limit.bootstraps.all()
    for slot in range(4):
        expected = value_of(obedient, replay(server, obedient, options, slot, 0, ["go"] * 2)[1])
        assert float(limit.next_values[slot, 1]) == pytest.approx(expected, abs=1e-3)
    _, task = play(server, obedient, ["go", "win"], steps=2)
    assert task.bootstraps.tolist() == [[True, False]] * 4


def test_episodes_go_on_over_the_border_between_rollouts(server: ServerProcess, obedient: VLM) -> None:
    script = ["go", "go", "go", "win"]
    whole, _ = play(server, obedient, script, steps=6)
    config = settings(server, script)
    with collecting(config, obedient) as (collector, _):
        parts = [collector.collect(steps) for steps in (3, 2, 1)]
    for slot in range(4):
        assert same_steps([step for part in parts for step in part.steps[slot]], whole.steps[slot])
    first, second, _ = (estimate_values(part, obedient, value, config) for part in parts)
    assert first.bootstraps.all()
    assert not first.continues[:, -1].any()
    assert torch.allclose(first.next_values[:, -1], second.values[:, 0], atol=1e-3)
    assert [len(part.episodes) for part in parts] == [0, 4, 0]
    assert parts[1].episodes == whole.episodes
    assert parts[1].episodes[0].length == 4


@pytest.mark.parametrize("word", ["raise", "crash"])
def test_a_failed_step_is_invalid_and_the_slot_goes_on_with_a_new_episode(
    server: ServerProcess, obedient: VLM, word: str
) -> None:
    rollout, valuation = play(server, obedient, ["go", word], steps=5)
    assert valuation.valid.tolist() == [[True, False, True, False, True]] * 4
    assert column(rollout, "turn") == [[0, 1, 0, 1, 0]] * 4
    assert valuation.continues.tolist() == [[False] * 5] * 4
    assert valuation.bootstraps[:, [0, 2, 4]].all()
    assert torch.equal(valuation.next_values[:, 0], valuation.values[:, 1])
    assert valuation.rewards.tolist() == [[1.125, 0.0] * 2 + [1.125]] * 4
    assert rollout.episodes == []
    for slot, row in enumerate(rollout.steps):
        assert same_prompt(row[4].prompt, replay(server, obedient, {"script": ["go", word]}, slot, 2, [])[1])
    logps = [step.logps for step in rollout.flat]
    samples = assemble(rollout, valuation, logps, logps, settings(server, ["go"]))
    assert [step.turn for step in samples.steps] == [0] * 12


def test_a_rollout_in_which_everything_fails_is_an_error(server: ServerProcess, obedient: VLM) -> None:
    with pytest.raises(EnvError, match="every step of the rollout failed"):
        play(server, obedient, ["raise"], steps=3)


def test_an_episode_that_cannot_be_started_is_passed_over(server: ServerProcess, obedient: VLM) -> None:
    cursed = [episode_seed(0, 0, 0, 1), episode_seed(0, 0, 0, 2), episode_seed(0, 0, 3, 2)]
    options = {"script": ["win"], "failing_seeds": cursed}
    rollout, valuation = play(server, obedient, options, steps=3)
    assert valuation.valid.all()
    assert valuation.rewards.tolist() == [[2.0] * 3] * 4
    for slot, episodes in enumerate([(0, 3, 4), (0, 1, 2), (0, 1, 2), (0, 1, 3)]):
        for step, episode in zip(rollout.steps[slot], episodes, strict=True):
            assert same_prompt(step.prompt, replay(server, obedient, options, slot, episode, [])[1])


def test_a_slot_in_which_no_episode_can_be_started_is_an_error(server: ServerProcess, obedient: VLM) -> None:
    cursed = [episode_seed(0, 0, 1, episode) for episode in (1, 2, 3)]
    with pytest.raises(EnvError, match=r"puppet/Puppet: 3 episodes in a row could not be started: .*cursed"):
        play(server, obedient, {"script": ["win"], "failing_seeds": cursed}, steps=2)
    play(server, obedient, {"script": ["win"], "failing_seeds": cursed[:2]}, steps=2)


def test_a_first_episode_that_cannot_be_started_is_an_error(server: ServerProcess, obedient: VLM) -> None:
    with pytest.raises(EnvError, match=r"puppet/Puppet: an episode could not be started: .*cursed"):
        play(server, obedient, {"failing_seeds": [episode_seed(0, 0, 2, 0)]}, steps=1)


@pytest.mark.parametrize(("word", "outcome"), [("mumble", Outcome.NO_ACTION), ("fly", Outcome.NOT_ADMISSIBLE)])
@pytest.mark.parametrize(("settings", "skipped"), [({"fallback_reward": -0.5}, -0.5), ({}, -4.4)])
def test_replies_without_an_admissible_action_stay_in_the_batch(
    server: ServerProcess, obedient: VLM, word: str, outcome: Outcome, settings: dict[str, float], skipped: float
) -> None:
    """By default they earn less than any action, whose rewards are -4 to 2 here: silence does not pay."""
    env = {"id": "puppet/Puppet", "slots": 4, "options": {"script": ["go", word]}} | settings
    rollout, valuation = play(server, obedient, env, steps=3)
    assert column(rollout, "outcome") == [[Outcome.EXECUTED, outcome, outcome]] * 4
    assert valuation.rewards.tolist() == [[1.125, skipped, skipped]] * 4
    assert valuation.valid.all()
    assert column(rollout, "turn") == [[0, 1, 2]] * 4
    assert [obedient.tokenizer.decode(row[1].reply, skip_special_tokens=True) for row in rollout.steps] == [
        REPLIES[word]
    ] * 4
    if word == "mumble":
        assert [row[1].thinking for row in rollout.steps] == [len(row[1].reply) for row in rollout.steps]


def test_replies_that_are_cut_stay_in_the_batch(server: ServerProcess, obedient: VLM) -> None:
    rollout, valuation = play(server, obedient, ["go"], steps=2, max_new_tokens=5)
    assert column(rollout, "cut") == [[True, True]] * 4
    assert [[len(step.reply) for step in row] for row in rollout.steps] == [[5, 5]] * 4
    assert valuation.valid.all()


def test_what_cannot_be_read_is_played_as_well(server: ServerProcess, clueless: VLM) -> None:
    rollout, valuation = play(
        server, clueless, ["go"], {"id": "gym_cards/NumberLine", "slots": 3}, steps=3, temperature=1.0
    )
    assert {step.outcome for row in rollout.steps for step in row} == {Outcome.NO_ACTION}
    assert valuation.valid.all()


def test_several_envs_are_played_at_once(server: ServerProcess, obedient: VLM) -> None:
    envs = (
        {"id": "puppet/Puppet", "slots": 3, "options": {"script": ["go", "win"]}},
        {"id": "gym_cards/NumberLine", "slots": 2, "options": {"max_turns": 2}, "fallback_reward": -0.25},
        {"id": "puppet/Puppet", "slots": 2, "options": {"script": ["lose"], "size": 56}},
    )
    config = settings(server, *envs)
    with collecting(config, obedient) as (collector, episodes):
        rollout = collector.collect(4)
        assert rollout.reward_scales == episodes.reward_scales == [4.0, 1.0, 4.0]
        assert set(episodes.provenance) == {"puppet/Puppet", "gym_cards/NumberLine"}
    valuation = estimate_values(rollout, obedient, value, config)
    assert column(rollout, "env") == [[0] * 4] * 3 + [[1] * 4] * 2 + [[2] * 4] * 2
    assert valuation.rewards[:3].tolist() == [[1.125, 2.0] * 2] * 3
    assert valuation.rewards[5:].tolist() == [[-4.0] * 4] * 2
    ends = [{one.end for one in rollout.episodes if one.env == env} for env in range(3)]
    assert ends[0] == {End.TASK}
    assert End.TIME_LIMIT in ends[1]
    assert ends[2] == {End.RULE}
    assert [one.env for one in rollout.episodes].count(0) == 6
    assert {picture.pixels.shape for row in rollout.steps[5:] for step in row for picture in step.prompt.pictures} == {
        (56, 56, 3)
    }


def test_a_slots_replies_depend_on_nothing_but_its_own_episode(server: ServerProcess, clueless: VLM) -> None:
    """Sampling is keyed by run, slot, episode and turn: neither the others nor the batch matter."""

    def steps(slots: int, **changes: Any) -> list[list[Step]]:
        env = {"id": "gym_cards/NumberLine", "slots": slots}
        return play(server, clueless, env, steps=2, temperature=1.0, **changes)[0].steps

    expected = steps(5)
    for others in (steps(5), steps(5, max_batch=1), steps(3), steps(8, max_batch=3)):
        for ours, theirs in zip(others, expected, strict=False):
            assert same_steps(ours, theirs)
    replies = [tuple(step.reply.tolist()) for row in expected for step in row]
    assert len(set(replies)) == len(replies)
    assert not any(same_steps(ours, theirs) for ours, theirs in zip(steps(5, seed=1), expected, strict=True))


def test_history_shows_the_last_turns_oldest_first_and_none_twice(server: ServerProcess, obedient: VLM) -> None:
    recipe = Recipe(history=3)
    options = {"script": ["go", "go", "go", "win"]}
    rollout, _ = play(server, obedient, options, steps=5, recipe=recipe)
    assert [[len(step.prompt.pictures) for step in row] for row in rollout.steps] == [[1, 2, 3, 3, 1]] * 4
    final, prompt = replay(server, obedient, options, 2, 0, ["go"] * 3, recipe)
    assert same_prompt(rollout.steps[2][3].prompt, prompt)
    assert final.turn == 3


def test_a_chat_is_played_in_bare_actions(server: ServerProcess, obedient: VLM) -> None:
    chat = {"opening": "$task", "turn": "Do: $Do"}
    config = settings(server, ["go", "go", "win"], recipe={"reply": "bare", "chat": chat})
    writer = ScriptedWriter(obedient, {word: word for word in REPLIES})
    with Episodes.open(config, functools.partial(episode_seed, 0)) as episodes:
        rollout = Collector(config, obedient, writer, episodes).collect(4)
    assert column(rollout, "outcome") == [[Outcome.EXECUTED] * 4] * 4
    assert column(rollout, "end") == [[None, None, End.TASK, None]] * 4
    assert column(rollout, "thinking") == [[0] * 4] * 4
    spoken = [
        [(message["role"], message["content"][0]["text"]) for message in request.messages] for request in writer.seen
    ]
    assert [("user", "Obey."), ("user", "Do: go")] in spoken
    assert [("user", "Obey."), ("assistant", "go"), ("user", "Do: win")] in spoken


@pytest.mark.parametrize(
    ("script", "recipe"),
    [
        (["go", "go", "mumble", "win"], Recipe(history=3, turns_left=True)),
        (["go", "fly"], Recipe(history=2)),
        (["go", "go", "raise"], Recipe()),
    ],
)
def test_a_collector_goes_on_from_its_state_as_if_nothing_had_happened(
    server: ServerProcess, obedient: VLM, script: list[str], recipe: Recipe
) -> None:
    env = {"script": script, "max_turns": 5}
    config = settings(server, env, {"id": "gym_cards/NumberLine", "slots": 3}, recipe=recipe)
    with collecting(config, obedient) as (collector, episodes):
        collector.collect(4)
        state = json.loads(json.dumps(episodes.state()))
        expected = collector.collect(4)
    with collecting(config, obedient, state) as (collector, episodes):
        assert episodes.state() == state
        rollout = collector.collect(4)
    assert all(same_steps(ours, theirs) for ours, theirs in zip(rollout.steps, expected.steps, strict=True))
    assert rollout.episodes == expected.episodes
    ours, theirs = (estimate_values(one, obedient, value, config) for one in (rollout, expected))
    for field in ("valid", "rewards", "bootstraps", "continues"):
        assert torch.equal(getattr(ours, field), getattr(theirs, field)), field
    for field in ("values", "next_values"):
        assert torch.allclose(getattr(ours, field), getattr(theirs, field), atol=1e-3), field


def test_a_state_of_other_slots_or_another_env_is_refused(server: ServerProcess, obedient: VLM) -> None:
    with collecting(settings(server, ["go", "go", "win"]), obedient) as (collector, episodes):
        collector.collect(2)
        state = episodes.state()
        assert [entry["actions"] for entry in state] == [["go", "go"]] * 4
    with pytest.raises(EnvError, match="knows 4 slots, the settings ask for 5"):
        with collecting(settings(server, {"id": "puppet/Puppet", "slots": 5}), obedient, state):
            pass
    for options in ({"max_turns": 2}, {"failing_seeds": [episode_seed(0, 0, 3, 0)]}):
        with pytest.raises(EnvError, match="puppet/Puppet: an episode could not be replayed"):
            with collecting(settings(server, options), obedient, state):
                pass


@pytest.mark.parametrize("value_input", ["last_prompt_token", "prompt_mean"])
def test_in_the_first_minibatch_after_a_rollout_every_ratio_is_one(server: ServerProcess, value_input: str) -> None:
    """Over gRPC, with several envs, picture sizes and a history, more slots than the engine takes at once."""
    vlm = make_vlm()
    config = settings(
        server,
        {"id": "gym_cards/NumberLine", "slots": 5, "options": {"size": 70}},
        {"id": "puppet/Puppet", "slots": 4},
        temperature=0.8,
        max_batch=3,
        recipe=Recipe(history=2),
        critic={"layers": [8], "input": value_input, "warmup_updates": 0},
        policy={"epochs": 1, "minibatch": 1000},
    )
    learner = Learner(config, vlm, Critic(vlm.hidden_size, (8,)))
    with collecting(config, vlm) as (collector, _):
        rollout = collector.collect(3)
    steps = rollout.flat
    samples = make_samples(rollout, vlm, Reference(vlm, vlm), learner.critic, config)
    assert torch.allclose(
        torch.stack([present(step.features) for step in steps]),
        prefill_features(vlm, [step.prompt for step in steps], value_input),
        atol=1e-5,
    )
    metrics = learner.update(samples, 0)
    assert 0 < metrics["losses/max_logprob_error"] < 1e-4
    assert abs(metrics["losses/max_ratio"] - 1) < 1e-4
    assert metrics["losses/clipfrac"] == 0
    assert abs(metrics["losses/kl_k1"]) < 1e-5
    assert Reference(vlm, vlm).score(steps[:3], config)[2].shape == steps[2].reply.shape


def test_whatever_writes_the_replies_a_rollout_is_the_same(server: ServerProcess, obedient: VLM, clueless: VLM) -> None:
    """A writer needs the messages and nothing else: no model, no features, no order."""
    script = ["go", "mumble", "win"]
    config = settings(server, script, recipe=Recipe(history=2), critic={"layers": [8], "input": "prompt_mean"})
    expected, _ = play(server, obedient, script, steps=4, recipe=Recipe(history=2))
    writer = ScriptedWriter(clueless)
    with Episodes.open(config, functools.partial(episode_seed, config.seed)) as episodes:
        rollout = Collector(config, clueless, writer, episodes).collect(4)
    assert column(rollout, "reward") == column(expected, "reward")
    assert column(rollout, "outcome") == column(expected, "outcome")
    assert rollout.episodes == expected.episodes
    for ours, theirs in zip(rollout.flat, expected.flat, strict=True):
        said = [vlm.tokenizer.decode(step.reply) for vlm, step in ((clueless, ours), (obedient, theirs))]
        assert said[0] == said[1]
        assert ours.logps.tolist() == [-0.5] * len(ours.reply)
        assert ours.features is None
    for request in writer.seen:
        *pictures, text = request.messages[-1]["content"]
        assert encode(clueless, request.messages).ids.tolist() == request.prompt.ids.tolist()
        assert {picture["image"].shape for picture in pictures} == {(28, 28, 3)}
        assert text["text"].startswith("Obey.")
    assert len({request.key for request in writer.seen}) == 16


def test_features_that_a_writer_does_not_give_are_computed(server: ServerProcess, clueless: VLM) -> None:
    config = settings(server, ["go", "win"], critic={"layers": [8], "input": "prompt_mean"})
    with Episodes.open(config, functools.partial(episode_seed, config.seed)) as episodes:
        rollout = Collector(config, clueless, ScriptedWriter(clueless), episodes).collect(3)
    samples = make_samples(rollout, clueless, Reference(clueless, clueless), value, config)
    for n, step in enumerate(samples.steps):
        expected = prefill_features(clueless, [step.prompt], "prompt_mean")
        assert torch.allclose(samples.features[n], expected[0], atol=1e-5)
        assert float(samples.old_values[n]) == pytest.approx(value_of(clueless, step.prompt), abs=1e-3)
    assert [tuple(logps.shape) for logps in ref_logps(samples)] == [tuple(step.reply.shape) for step in samples.steps]


def test_a_rollout_and_its_steps_say_what_they_are(server: ServerProcess, obedient: VLM) -> None:
    rollout, _ = play(server, obedient, ["go", "win"], steps=2)
    assert repr(rollout) == "Rollout(8 steps in 4 slots, 4 episodes ended, 0 failed)"
    assert len(rollout) == len(rollout.flat) == 8
    step = rollout.steps[1][1]
    size = f"Prompt({len(step.prompt)} tokens, 1 images), {len(step.reply)} tokens"
    assert repr(step) == f"Step(env 0, turn 1: {size}, EXECUTED, reward 2, end TASK)"
