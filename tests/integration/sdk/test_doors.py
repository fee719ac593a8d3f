"""The same episodes, frames equal by hash, through every door to an env of Gymnasium."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from overworld.authoring.gymnasium.presets import preset_for

from tests.support.doors import DOORS, Served, played_by_stock, serving

BABY = "BabyAI-GoToLocal-v0"
ENVS = ("CartPole-v1", "FrozenLake-v1", "MiniGrid-Empty-Random-5x5-v0", BABY, "Pendulum-v1", "MountainCarContinuous-v0")
CONTINUOUS = {"tensor_actions": True}
SEEDS = range(3)


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, int]]:
    with serving(*ENVS) as server:
        yield server


@pytest.mark.parametrize("name", ENVS)
def test_an_episode_is_the_same_through_every_door(name: str, server: tuple[str, int]) -> None:
    served = Served(*server, name, CONTINUOUS if name in ENVS[-2:] else {})
    DOORS["in process"](served, [])  # which registers MiniGrid's
    episodes = played_by_stock(name, SEEDS)
    wanted = [episode.turns for episode in episodes]
    assert len({turn.frame for turns in wanted for turn in turns}) > 3, "these frames do not show a difference"
    for door, play in DOORS.items():
        assert play(served, episodes) == wanted, door


@pytest.mark.parametrize("name", [*ENVS[:4], "Acrobot-v1", "MountainCar-v0"])
def test_a_preset_says_what_to_do(name: str) -> None:
    preset = preset_for(name)
    assert preset.task
    assert preset.actions
    assert preset.reward_max > preset.reward_min
