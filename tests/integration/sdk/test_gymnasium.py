"""The bridges from and to Gymnasium: spaces, vectors, and Gymnasium's own checker and wrappers."""

from __future__ import annotations

from collections.abc import Iterator

import gymnasium
import numpy as np
import overworld
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.utils.env_match import check_environments_match
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import RecordEpisodeStatistics, TransformObservation
from gymnasium.wrappers.vector import RecordEpisodeStatistics as RecordVectorStatistics
from overworld.authoring.gymnasium.env import from_gymnasium
from overworld.authoring.runner import Runner
from overworld.bridges.gymnasium import OverworldEnv, OverworldVectorEnv, SeededResets
from overworld.host.process import ServerProcess

IDS = ("CartPole-v1", "FrozenLake-v1", "MiniGrid-Empty-Random-5x5-v0")


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    names = [f"gymnasium:{name}" for name in IDS]
    with ServerProcess(*names, arguments=("--workers", "1", "--slots", "8")) as server:
        yield server


def _served(name: str) -> str:
    return f"gymnasium/{name}"


def test_a_time_limit_is_the_hosts_and_ends_the_episode_where_the_stock_env_does() -> None:
    stock = gymnasium.make("FrozenLake-v1", is_slippery=False)
    env = OverworldEnv(Runner(from_gymnasium("FrozenLake-v1", is_slippery=False)()))
    stock.reset(seed=0)
    env.reset(seed=0)
    for turn in range(1, 101):  # against the wall
        assert stock.step(0)[2:4] == (False, turn == 100)
        _, _, terminated, truncated, info = env.step(0)
        assert (terminated, truncated) == (False, turn == 100)
    assert info["end"] == "TIME_LIMIT"
    assert not info["success"]


def test_gymnasium_finds_no_difference_between_the_bridge_and_the_stock_env() -> None:
    stock = SeededResets(gymnasium.make("CartPole-v1"))
    bridged = OverworldEnv(overworld.make("gymnasium:CartPole-v1"), "observation")
    ours = TransformObservation(bridged, lambda seen: seen, stock.observation_space)  # a tensor's bounds are not known
    check_environments_match(ours, stock, num_steps=200, seed=3, skip_render=True, info_comparison="skip")


@pytest.mark.filterwarnings("ignore:.*A Box observation space m:UserWarning")  # a tensor's bounds are not known
@pytest.mark.filterwarnings("ignore:.*Not able to test alternative render modes:UserWarning")
@pytest.mark.parametrize(
    "name", [*(f"gymnasium:{name}" for name in IDS), "gymnasium:Pendulum-v1", "gym_cards/EZPoints"]
)
def test_gymnasiums_own_checker_finds_nothing(name: str) -> None:
    check_env(OverworldEnv(overworld.make(name)))


@pytest.mark.filterwarnings("ignore:.*A Box observation space m:UserWarning")
@pytest.mark.filterwarnings("ignore:.*we recommend using a symmetric and normalized space:UserWarning")  # the env's own
@pytest.mark.filterwarnings("ignore:.*Not able to test alternative render modes:UserWarning")
def test_a_continuous_env_has_the_stock_envs_action_space() -> None:
    env = OverworldEnv(overworld.make("gymnasium:Pendulum-v1", tensor_actions=True))
    assert env.action_space == gymnasium.make("Pendulum-v1").action_space
    check_env(env)


def test_tensors_texts_and_actions_have_spaces() -> None:
    env = OverworldEnv(overworld.make("gymnasium:minigrid:MiniGrid-DoorKey-5x5-v0"))
    assert isinstance(env.observation_space, gymnasium.spaces.Dict)
    assert set(env.observation_space) == {"view", "text", "image", "direction"}
    observation, _ = env.reset(seed=1)
    assert observation["text"] == "mission: use the key to open the door and then get to the goal"
    env.close()
    state = OverworldEnv(overworld.make("gymnasium:CartPole-v1"), observe="observation")
    stock = gymnasium.make("CartPole-v1")
    np.testing.assert_array_equal(state.reset(seed=1)[0], stock.reset(seed=1)[0])
    np.testing.assert_array_equal(state.step(1)[0], stock.step(1)[0])
    with pytest.raises(ValueError, match=r"observe='pixels': an observation has .*'observation', 'view'"):
        OverworldEnv(overworld.make("gymnasium:CartPole-v1"), observe="pixels")


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_a_vector_of_slots_behaves_as_stock_gymnasiums(mode: AutoresetMode, server: ServerProcess) -> None:
    """The statistics, flags and final observations of SyncVectorEnv over the same envs."""
    env_id = _served("CartPole-v1")
    ours = OverworldVectorEnv(overworld.Fleet([server.address], env_id, 3), "observation", autoreset_mode=mode)
    peer = gymnasium.vector.SyncVectorEnv(
        [lambda: OverworldEnv(overworld.make("gymnasium:CartPole-v1"), "observation")] * 3, autoreset_mode=mode
    )
    one, other = RecordVectorStatistics(ours), RecordVectorStatistics(peer)
    np.testing.assert_array_equal(one.reset(seed=5)[0], other.reset(seed=5)[0])
    ends = 0
    chance = np.random.default_rng(0)
    for _ in range(80):
        actions = chance.integers(2, size=3)
        mine, theirs = one.step(actions), other.step(actions)
        for left, right in zip(mine[:4], theirs[:4], strict=True):
            np.testing.assert_array_equal(left, right)
        assert mine[4].keys() == theirs[4].keys()
        if "episode" in mine[4]:
            ends += int(mine[4]["_episode"].sum())
            np.testing.assert_array_equal(mine[4]["episode"]["r"], theirs[4]["episode"]["r"])
            np.testing.assert_array_equal(mine[4]["_episode"], theirs[4]["_episode"])
        if "final_obs" in mine[4]:
            np.testing.assert_array_equal(mine[4]["_final_obs"], theirs[4]["_final_obs"])
            for left, right in zip(mine[4]["final_obs"], theirs[4]["final_obs"], strict=True):
                np.testing.assert_array_equal(left, right)
    assert ends > 3
    one.close()
    other.close()


def test_statistics_of_one_env() -> None:
    env = RecordEpisodeStatistics(OverworldEnv(overworld.make("gymnasium:CartPole-v1")))
    env.reset(seed=0)
    ended, turns = False, 0
    while not ended:
        _, _, terminated, truncated, info = env.step(0)
        ended, turns = terminated or truncated, turns + 1
    assert (info["episode"]["r"], info["episode"]["l"], info["success"]) == (turns, turns, False)
    env.close()


def test_a_vector_of_frames_and_texts(server: ServerProcess) -> None:
    env = OverworldVectorEnv(overworld.Session(server.address, _served("MiniGrid-Empty-Random-5x5-v0"), 2))
    seen, infos = env.reset(seed=[3, 4])
    assert seen["view"].shape == (2, 160, 160, 3)
    assert seen["text"] == ("mission: get to the green goal square",) * 2
    assert infos["action_mask"].tolist() == [[1] * 7] * 2
    one = OverworldEnv(overworld.make("gymnasium:MiniGrid-Empty-Random-5x5-v0"))
    np.testing.assert_array_equal(seen["view"][1], one.reset(seed=4)[0]["view"])
    seen, rewards, *_ = env.step(np.array([0, 2]))
    np.testing.assert_array_equal(seen["view"][1], one.step(2)[0]["view"])
    assert rewards.dtype == np.float64
    drawn = env.render()
    assert drawn is not None
    np.testing.assert_array_equal(drawn[1], one.render())
    env.close()
    one.close()


@pytest.mark.parametrize("copy", [True, False])
def test_a_batch_is_the_callers_to_keep(copy: bool, server: ServerProcess) -> None:
    session = overworld.Session(server.address, _served("MiniGrid-Empty-Random-5x5-v0"), 2, copy=copy)
    assert session.shares_memory
    env = OverworldVectorEnv(session, "view")
    first, _ = env.reset(seed=[1, 2])
    kept = first.copy()
    assert not np.array_equal(env.step(np.array([0, 0]))[0], kept)
    np.testing.assert_array_equal(first, kept)
    env.close()
