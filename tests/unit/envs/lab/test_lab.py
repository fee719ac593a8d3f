"""The rules of the lab's tasks, what their pictures show, and what they do not."""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import overworld
import pytest
from overworld import End, Outcome, Result, Runner
from overworld_envs.lab.memory import Memory

SMALL: dict[str, Any] = {"size": 32}


def picture(result: Result) -> bytes:
    """What is shown, read before the next turn is drawn over it."""
    (image,) = result.observation.images
    assert not result.observation.text, "nothing but the picture"
    return image.pixels.tobytes()


def advised(runner: Runner, seed: int) -> tuple[list[Result], list[bytes]]:
    """An episode by the expert, and its pictures."""
    results = [runner.reset(seed)]
    pictures = [picture(results[0])]
    while results[-1].end is None:
        assert results[-1].expert is not None
        results.append(runner.step(runner.spec.action.read(results[-1].expert.action)))
        pictures.append(picture(results[-1]))
    return results, pictures


@pytest.mark.parametrize("env_id", ["lab/Chain", "lab/Memory", "lab/Reach"])
def test_the_expert_succeeds_and_a_seed_is_an_episode(env_id: str) -> None:
    runners = [overworld.make(env_id, expert=True, **SMALL) for _ in range(2)]
    starts = set()
    for seed in range(12):
        (results, pictures), (_, again) = (advised(runner, seed) for runner in runners)
        assert (results[-1].end, results[-1].success) == (End.TASK, True)
        assert pictures == again
        starts.add(pictures[0])
        advised(runners[0], seed + 100)  # whatever was played before
    assert len(starts) > 3


def test_a_right_key_leads_on_and_a_wrong_one_back() -> None:
    runner = overworld.make("lab/Chain", expert=True, length=3, reward_scale=5.0, **SMALL)
    assert (runner.spec.reward_max, runner.spec.silence_reward) == (5.0, -0.5)
    result, position = runner.reset(4), 0
    for right in (True, True, False, True, False, False, False, True, True, True):
        assert result.expert is not None
        assert result.expert.thoughts.endswith(f"the position is {position}.")
        key = result.expert.action
        other = "right" if key == "left" else "left"
        result = runner.step(key if right else other)
        position = max(position + (1 if right else -1), 0)
        assert result.reward == (5.0 if position == 3 else 0.0)
    assert (result.end, result.success) == (End.TASK, True)


@pytest.mark.parametrize("keys", [("left",), ("left", "right"), ()])
def test_no_sequence_of_keys_does_better_than_chance(keys: Sequence[str]) -> None:
    """Within 8 turns to the end of 4: by the exact chances of a walk that goes on or back with 1/2 each."""
    chances = np.zeros(5)
    chances[0] = 1
    for _ in range(8):
        chances = np.array([
            (chances[0] + chances[1]) / 2, (chances[0] + chances[2]) / 2, (chances[1] + chances[3]) / 2,
            chances[2] / 2, chances[3] / 2 + chances[4],
        ])  # fmt: skip
    runner = overworld.make("lab/Chain", length=4, max_turns=8, **SMALL)
    draw, won = random.Random(1), 0
    for seed in range(250):
        result = runner.reset(seed)
        while result.end is None:
            result = runner.step(keys[result.turn % len(keys)] if keys else draw.choice(("left", "right")))
        won += bool(result.success)
    assert abs(won / 250 - chances[4]) < 4 * (chances[4] * (1 - chances[4]) / 250) ** 0.5


def test_the_corridor_and_the_doors_do_not_show_the_light() -> None:
    runner = overworld.make("lab/Memory", colours=2, delay=2, **SMALL)
    episodes = []
    for seed in range(12):
        frames = [picture(runner.reset(seed))] + [picture(runner.step("forward")) for _ in range(5)]
        assert isinstance(runner.env, Memory)
        episodes.append((runner.env._light, runner.env._doors, frames))
    corridors = {frames[turn] for *_, frames in episodes for turn in (1, 2)}
    assert len(corridors) == 1
    assert all(frames[3] == frames[5] for *_, frames in episodes), "nothing comes after the doors"
    assert {light: frames[0] for light, _, frames in episodes}.keys() == {"red", "blue"}
    seen: dict[tuple[str, str], set[tuple[str, bytes]]] = {}
    for light, doors, frames in episodes:
        seen.setdefault(doors, set()).add((light, frames[3]))
    assert all(len({frame for _, frame in shown}) == 1 for shown in seen.values())
    assert any(len({light for light, _ in shown}) == 2 for shown in seen.values()), "the same doors, either light"


def test_the_wrong_door_ends_the_episode_without_a_reward() -> None:
    runner = overworld.make("lab/Memory", expert=True, delay=0, **SMALL)
    for seed in range(6):
        result = runner.reset(seed)
        assert runner.step("left").end is None, "there is no door yet"
        result = runner.step("forward")
        assert result.expert is not None
        wrong = "left" if result.expert.action == "right" else "right"
        result = runner.step(wrong)
        assert (result.end, result.success, result.reward) == (End.TASK, False, 0.0)


def test_rewards_of_a_way_are_the_share_that_it_came_closer() -> None:
    runner = overworld.make("lab/Reach", expert=True, **SMALL)
    returns = []
    for seed in range(60):
        episode, _ = advised(runner, seed)
        assert all(-1 <= result.reward <= 1 for result in episode)
        returns.append(sum(result.reward for result in episode))
        assert len(episode) <= 6
    assert 0.8 < min(returns) <= max(returns) <= 1.0


@pytest.mark.parametrize(
    "text", ["1.01 0", "0", "0 0 0", "nan 0", "inf 0", "one two", "0x1 0", "", "1e400 0", "__import__ 0", "0 0; 0"]
)
def test_what_is_no_two_numbers_within_bounds_is_not_admissible(text: str) -> None:
    runner = overworld.make("lab/Reach", **SMALL)
    start = runner.reset(3)
    action = runner.spec.action.read(text)
    result = runner.step(action)
    assert result.outcome is (Outcome.NO_ACTION if action is None else Outcome.NOT_ADMISSIBLE)
    assert (result.executed, result.reward, action is not None) == (None, 0.0, text == "1.01 0")
    assert picture(result) == picture(start)


@pytest.mark.parametrize("text", ["0.5 -1", "[0.5, -1]", "(.5,-1.0)", "5e-1; -1"])
def test_numbers_are_executed_as_a_tensor(text: str) -> None:
    runner = overworld.make("lab/Reach", **SMALL)
    runner.reset(3)
    result = runner.step(runner.spec.action.read(text))
    assert result.outcome is Outcome.EXECUTED
    assert isinstance(result.executed, np.ndarray)
    assert (result.executed.dtype.name, result.executed.tolist()) == ("float32", [0.5, -1.0])
