"""Stock MiniWorld, in a process of its own: `python stock.py` plays what it reads and writes what it sees.

In one process several stock envs would share a display list, and ours must not have changed anything beforehand.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Episode:
    task: str
    seed: int
    width: int
    height: int
    domain_rand: bool
    actions: Sequence[int]

    @property
    def arguments(self) -> dict[str, Any]:
        return {"domain_rand": True} if self.domain_rand else {}


def played(episodes: list[Episode], folder: Path) -> list[dict[str, np.ndarray]]:
    """frames [turns + 1, height, width, 3], rewards, terminated and truncated [turns] of each episode."""
    file = folder / "stock.npz"
    environment = os.environ | {"LP_NUM_THREADS": "0"}
    wanted = json.dumps([asdict(one) for one in episodes])
    subprocess.run([sys.executable, __file__, str(file), wanted], check=True, env=environment, timeout=240)
    with np.load(file) as data:
        names = ("frames", "rewards", "terminated", "truncated")
        return [{name: data[f"{name}{number}"] for name in names} for number in range(len(episodes))]


def play(episode: Episode) -> dict[str, np.ndarray]:
    import miniworld.envs

    with contextlib.redirect_stdout(io.StringIO()):
        env = getattr(miniworld.envs, episode.task)(
            obs_width=episode.width, obs_height=episode.height, window_width=8, window_height=8, **episode.arguments
        )
    observation, _ = env.reset(seed=episode.seed)
    frames, rest = [pixels_of(observation)], []
    for action in episode.actions:
        observation, reward, terminated, truncated, _ = env.step(action)
        frames.append(pixels_of(observation))
        rest.append((float(reward), terminated, truncated))
        if terminated or truncated:
            break
    rewards, terminated, truncated = zip(*rest, strict=True)
    return {
        "frames": np.array(frames),
        "rewards": np.array(rewards),
        "terminated": np.array(terminated),
        "truncated": np.array(truncated),
    }


def pixels_of(observation: Any) -> np.ndarray:
    return (observation["obs"] if isinstance(observation, dict) else observation).copy()


if __name__ == "__main__":
    import pyglet

    pyglet.options["headless"] = True
    outcomes = [play(Episode(**fields)) for fields in json.loads(sys.argv[2])]
    np.savez(
        sys.argv[1],
        allow_pickle=False,
        **{f"{name}{n}": value for n, one in enumerate(outcomes) for name, value in one.items()},
    )
