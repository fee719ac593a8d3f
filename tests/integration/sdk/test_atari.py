"""What needs packages that are not in constraints.txt: an Atari game through every door, and a video of an episode."""

from __future__ import annotations

from pathlib import Path

import gymnasium
import overworld
import pytest
from gymnasium.wrappers import RecordEpisodeStatistics, RecordVideo
from overworld.bridges.gymnasium import OverworldEnv

from tests.support.doors import DOORS, Served, played_by_stock, serving

pytestmark = pytest.mark.peer
PONG = "ALE/Pong-v5"


def test_an_atari_game_is_the_same_through_every_door() -> None:
    pytest.importorskip("ale_py", reason="ale-py is not installed here; make test-atari installs it")
    with serving(PONG) as server:
        runner = overworld.make(f"gymnasium:{PONG}")
        assert runner.spec.action.vocabulary == ("noop", "fire", "right", "left", "rightfire", "leftfire")
        assert "green paddle" in runner.spec.task
        episodes = played_by_stock(PONG, range(2))
        wanted = [episode.turns for episode in episodes]
        assert len({turn.frame for turns in wanted for turn in turns}) > 10
        for door, play in DOORS.items():
            assert play(Served(*server, PONG, {}), episodes) == wanted, door


def test_a_video_of_an_episode(tmp_path: Path) -> None:
    moviepy = pytest.importorskip("moviepy", reason="moviepy is not installed here; make test-atari installs it")
    with serving("CartPole-v1") as (address, _):
        session = overworld.Session(address, "gymnasium/CartPole-v1", 1)
        env: gymnasium.Env[object, int] = RecordEpisodeStatistics(OverworldEnv(session, "observation"))
        env = RecordVideo(env, str(tmp_path / "videos"), episode_trigger=lambda _: True)
        env.reset(seed=0)
        ended, turns = False, 0
        while not ended:
            *_, terminated, truncated, info = env.step(0)
            ended, turns = terminated or truncated, turns + 1
        env.close()
    assert info["episode"]["l"] == turns
    (file,) = tmp_path.glob("videos/*.mp4")
    with moviepy.VideoFileClip(str(file)) as clip:
        assert clip.size == [600, 400]
        assert clip.n_frames == turns + 1
