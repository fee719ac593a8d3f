"""Frames, rewards and ends are those of stock MiniWorld, which plays the same episodes in a process of its own."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from overworld import Runner, make

from tests.unit.envs.miniworld.stock import Episode, played

PAPER = ("Hallway", "OneRoom", "FourRooms", "WallGap")
OTHERS = {
    "TMaze": 4, "YMaze": 4, "MazeS3": 4, "MazeS3Fast": 4, "Maze": 4, "Sidewalk": 4, "ThreeRooms": 4, "PickupObjects": 5,
    "PutNext": 6, "CollectHealth": 5, "RoomObjects": 6,
}  # fmt: skip
SIZES = ((80, 60), (224, 224), (97, 131))
TURNS = 30


def episode(task: str, seed: int, size: tuple[int, int], domain_rand: bool, actions: int = 4) -> Episode:
    choices = random.Random(f"{task} {seed}")
    return Episode(task, seed, *size, domain_rand, tuple(choices.choices(range(actions), k=TURNS)))


EPISODES = [
    episode(task, seed, SIZES[seed % 3], domain_rand)
    for task in PAPER
    for seed, domain_rand in enumerate((False, True, False, True, False))
] + [
    episode(task, seed, SIZES[seed], bool(seed), actions) for task, actions in OTHERS.items() for seed in range(2)
]  # fmt: skip
SIGN = Episode("Sign", 3, 80, 60, False, (0, 0, 1, 2, 2, 1, 2, 3))


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> dict[Episode, dict[str, np.ndarray]]:
    episodes = [*EPISODES, SIGN]
    return dict(zip(episodes, played(episodes, tmp_path_factory.mktemp("stock")), strict=True))


def runner_of(one: Episode, render: str) -> Runner:
    return make(f"miniworld/{one.task}", width=one.width, height=one.height, render=render, **one.arguments)


def together(episodes: list[Episode], render: str) -> list[dict[str, Any]]:
    """Plays all of them turn by turn, side by side in this process."""
    runners = [runner_of(one, render) for one in episodes]
    outcomes: list[dict[str, Any]] = []
    for one, runner in zip(episodes, runners, strict=True):
        first = runner.reset(one.seed)
        outcomes.append({"frames": [first.observation.images[0].pixels.copy()], "results": [first]})
    for turn in range(TURNS):
        for one, runner, outcome in zip(episodes, runners, outcomes, strict=True):
            if turn < len(one.actions) and outcome["results"][-1].end is None:
                result = runner.step(one.actions[turn])
                outcome["frames"].append(result.observation.images[0].pixels.copy())
                outcome["results"].append(result)
    for runner in runners:
        runner.close()
    return outcomes


@pytest.fixture(scope="module")
def exact() -> dict[Episode, dict[str, Any]]:
    episodes = [*EPISODES, SIGN]
    return dict(zip(episodes, together(episodes, "exact"), strict=True))


@pytest.mark.parametrize("one", [*EPISODES, SIGN], ids=lambda one: f"{one.task}-{one.seed}")
def test_exact_frames_rewards_and_ends_are_stocks(one: Episode, stock: Any, exact: Any) -> None:
    theirs, ours = stock[one], exact[one]
    np.testing.assert_array_equal(np.array(ours["frames"]), theirs["frames"])
    steps = ours["results"][1:]
    assert [result.reward for result in steps] == theirs["rewards"].tolist()
    assert [result.terminated for result in steps] == theirs["terminated"].tolist()
    assert [result.truncated for result in steps] == (theirs["truncated"] & ~theirs["terminated"]).tolist()


def test_msaa_is_within_one_level_of_stock(stock: Any) -> None:
    episodes = [one for one in EPISODES if one.task in PAPER]
    for one, ours in zip(episodes, together(episodes, "msaa"), strict=True):
        difference = np.abs(stock[one]["frames"].astype(int) - np.array(ours["frames"]))
        assert difference.max() <= 1, one


def test_fast_differs_at_edges_only(stock: Any) -> None:
    episodes = [one for one in EPISODES if one.task in PAPER and one.width == 224]
    for one, ours in zip(episodes, together(episodes, "fast"), strict=True):
        difference = np.abs(stock[one]["frames"].astype(int) - np.array(ours["frames"])).max(axis=-1)
        assert 0 < (difference > 1).mean() < 0.04, one


def test_a_frame_that_nothing_changed_is_the_same(stock: Any) -> None:
    """Frames are not drawn again when the agent is blocked: walk into a wall, then turn away."""
    runner = make("miniworld/OneRoomS6", width=64, height=64)
    runner.reset(1)
    frames = [runner.step(action).observation.images[0].pixels.copy() for action in ["move back"] * 45]
    np.testing.assert_array_equal(frames[-1], frames[-2])
    assert (runner.step("turn left").observation.images[0].pixels != frames[-1]).any()
    runner.close()
