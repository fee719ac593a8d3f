"""Stable-Baselines3 learns the same through the bridge as on the stock env."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import overworld
import pytest
import torch
from overworld.bridges.gymnasium import OverworldEnv, SeededResets
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from tests.support.doors import serving

ENV = "CartPole-v1"
STEPS = 256


class Returns(BaseCallback):
    """Notes when each episode ended, and its return."""

    def __init__(self) -> None:
        super().__init__()
        self.episodes: list[tuple[int, float]] = []

    def _on_step(self) -> bool:
        self.episodes += [
            (self.num_timesteps, info["episode"]["r"]) for info in self.locals["infos"] if "episode" in info
        ]
        return True


def learned(make: Callable[[], gymnasium.Env[Any, Any]]) -> tuple[list[tuple[int, float]], dict[str, Any]]:
    """The episodes of a short run with two envs, and the weights after it."""
    envs = DummyVecEnv([lambda: Monitor(make())] * 2)
    returns = Returns()
    model = PPO("MlpPolicy", envs, n_steps=32, batch_size=32, n_epochs=2, seed=3, device="cpu")
    model.learn(STEPS, callback=returns)
    envs.close()
    return returns.episodes, model.policy.state_dict()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """So small a model waits for its threads more than it computes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_a_run_through_the_bridge_is_the_same_to_the_bit() -> None:
    episodes, weights = learned(lambda: SeededResets(gymnasium.make(ENV)))
    assert len(episodes) > 5
    with serving(ENV) as (address, _):
        served = learned(lambda: OverworldEnv(overworld.Session(address, f"gymnasium/{ENV}", 1), "observation"))
    assert served[0] == episodes
    assert all(torch.equal(served[1][name], weight) for name, weight in weights.items())
    other, _ = learned(lambda: gymnasium.make(ENV))
    assert other[:2] == episodes[:2], "the first episode of each env is the stock env's, too"
    assert other != episodes, "later ones have no seed there, and would show a difference"
