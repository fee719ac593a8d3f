"""One training run of `curves.py`, in a process of its own: `python curve_run.py TRAINER ARM SEED STEPS ADDRESS FILE`.

TRAINER  "cleanrl" (FILE is CleanRL's ppo.py, run as it is but for the statement that makes the envs) or "sb3".
ARM      "stock": Gymnasium's env; "seeded": the same, reset with a seed each time as Overworld's is; "overworld": the
         env on the server at ADDRESS.

Prints a line `STEP RETURN` per episode.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from overworld import Session
from overworld.bridges.gymnasium import OverworldEnv, OverworldVectorEnv, SeededResets

ENV = "CartPole-v1"
SERVED = f"gymnasium/{ENV}"
MAKES_ENVS = re.compile(r"envs = gym\.vector\.SyncVectorEnv\(\n.*\n    \)\n")
ENVS = 4


def stock(arm: str) -> gymnasium.Env[Any, Any]:
    """Gymnasium's env."""
    env = gymnasium.make(ENV)
    return SeededResets(env) if arm == "seeded" else env


class InfosOf029(VectorWrapper):
    """Reports ended episodes as Gymnasium 0.29 did, for which ppo.py is written."""

    def step(self, actions: Any) -> Any:
        """With `final_info`, a list of dicts."""
        *rest, infos = super().step(actions)
        if "episode" in infos:
            ended = infos["_episode"]
            returns, lengths = infos["episode"]["r"], infos["episode"]["l"]
            infos["final_info"] = [
                {"episode": {"r": returns[slot], "l": lengths[slot]}} if ended[slot] else None
                for slot in range(self.num_envs)
            ]
        return *rest, infos


def cleanrl_envs(arm: str, address: str, count: int) -> InfosOf029:
    """What ppo.py trains in. It was written for a Gymnasium that resets in the step that ends an episode."""
    mode = AutoresetMode.SAME_STEP
    envs: VectorEnv[Any, Any, Any] = (
        OverworldVectorEnv(Session(address, SERVED, count), "observation", autoreset_mode=mode)
        if arm == "overworld"
        else SyncVectorEnv([lambda: stock(arm)] * count, autoreset_mode=mode)
    )
    return InfosOf029(RecordEpisodeStatistics(envs))


def cleanrl(arm: str, seed: int, steps: int, address: str, file: Path) -> None:
    """Runs ppo.py."""
    source, replaced = MAKES_ENVS.subn("envs = cleanrl_envs(ARM, ADDRESS, args.num_envs)\n", file.read_text())
    if replaced != 1:
        raise SystemExit(f"{file}: {replaced} statements make envs; expected one, as in CleanRL's cleanrl/ppo.py")
    sys.argv = [
        str(file), f"--seed={seed}", f"--total-timesteps={steps}", f"--num-envs={ENVS}", "--no-cuda",
    ]  # fmt: skip
    scope = {
        "__name__": "__main__", "__file__": str(file), "cleanrl_envs": cleanrl_envs, "ARM": arm, "ADDRESS": address,
    }  # fmt: skip
    exec(compile(source, str(file), "exec"), scope)  # noqa: S102 - the trainer that the user names


def sb3(arm: str, seed: int, steps: int, address: str) -> None:
    """Runs Stable-Baselines3's PPO."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.monitor import Monitor
    from stable_baselines3.common.vec_env import DummyVecEnv

    class Episodes(BaseCallback):
        def _on_step(self) -> bool:
            for info in self.locals["infos"]:
                if "episode" in info:
                    print(f"global_step={self.num_timesteps}, episodic_return={info['episode']['r']}")
            return True

    def make() -> Monitor[Any, Any]:
        if arm == "overworld":
            return Monitor(OverworldEnv(Session(address, SERVED, 1), "observation"))
        return Monitor(stock(arm))

    envs = DummyVecEnv([make] * ENVS)
    PPO("MlpPolicy", envs, n_steps=256, seed=seed, device="cpu").learn(steps, callback=Episodes())
    envs.close()


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)  # the same sums in each arm
    np.seterr(all="raise", under="ignore")
    trainer, arm, seed, steps, address, *file = sys.argv[1:]
    if trainer == "cleanrl":
        cleanrl(arm, int(seed), int(steps), address, Path(file[0]))
    else:
        sb3(arm, int(seed), int(steps), address)
