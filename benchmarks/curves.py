"""Learning curves through the bridge to Gymnasium against those on the stock env: CartPole-v1, 50,000 steps, 3 seeds.

CleanRL's ppo.py is its own file but for the statement that makes the envs; it is not part of this repository: get it
from CleanRL and name it with --cleanrl. It needs the package tyro. Stable-Baselines3 is always run.

Stock Gymnasium continues the env's generator where a reset names no seed, so that its second episode has no seed. In
Overworld each has. So there are two comparisons: bit by bit with the stock env under `SeededResets`, episode for
episode, and by the mean return of the last fifth with the stock env as it is.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from curve_run import ENV
from overworld.host.process import ServerProcess
from report import CONSOLE, Row, finish, parser

HERE = Path(__file__).parent
ARMS = ("stock", "seeded", "overworld")
EPISODE = re.compile(r"global_step=(\d+), episodic_return=\[?([\d.]+)")
LAST = 0.2
LEAST = 0.8
"""Of the stock env's mean return: PPO's own spread between seeds is wider."""

Curve = list[tuple[int, float]]


def run(trainer: str, arm: str, seed: int, steps: int, address: str, file: Path | None) -> Curve:
    """The episodes of one run: the step at which each ended, and its return."""
    arguments = [trainer, arm, str(seed), str(steps), address, *([str(file.resolve())] if file else [])]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, str(HERE / "curve_run.py"), *arguments], cwd=folder, capture_output=True, text=True
        )
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    return [(int(step), float(reward)) for step, reward in EPISODE.findall(done.stdout)]


def final(curve: Curve, steps: int) -> float:
    """The mean return of the episodes that ended in the last part."""
    return float(np.mean([reward for step, reward in curve if step > (1 - LAST) * steps]))


def main() -> None:
    """Trains in turn."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--cleanrl", type=Path, metavar="PPO.PY", help="CleanRL's cleanrl/ppo.py")
    arguments.add_argument("--steps", type=int, default=50_000)
    arguments.add_argument("--seeds", type=int, default=3)
    asked = arguments.parse_args()
    trainers = (("cleanrl", asked.cleanrl), ("sb3", None)) if asked.cleanrl else (("sb3", None),)
    rows = []
    with ServerProcess(f"gymnasium:{ENV}", arguments=("--workers", "1", "--slots", "8")) as server:
        for trainer, file in trainers:
            finals: dict[str, list[float]] = {arm: [] for arm in ARMS}
            equal = episodes = 0
            for seed in range(1, asked.seeds + 1):
                curves = {}
                for arm in ARMS:
                    began = time.perf_counter()
                    curves[arm] = run(trainer, arm, seed, asked.steps, server.address, file)
                    finals[arm].append(final(curves[arm], asked.steps))
                    CONSOLE.print(
                        f"{trainer}, seed {seed}, {arm}: {len(curves[arm])} episodes, the last fifth earns "
                        f"{finals[arm][-1]:.1f}, {time.perf_counter() - began:.0f} s"
                    )
                pairs = list(zip(curves["seeded"], curves["overworld"], strict=False))
                episodes += max(len(curves["seeded"]), len(curves["overworld"]))
                equal += sum(one == other for one, other in pairs)
            setting = f"{ENV}, {asked.steps:,} steps, {asked.seeds} seeds"
            rows.append(
                Row(
                    f"{trainer}: episodes with the same step and return", setting, equal, "episodes",
                    "stock, seeded resets", episodes, equal / episodes, target=1.0,
                )
            )  # fmt: skip
            ours, theirs = float(np.mean(finals["overworld"])), float(np.mean(finals["stock"]))
            rows.append(
                Row(
                    f"{trainer}: mean return, last fifth", setting, ours, "", "stock", theirs, ours / theirs,
                    target=LEAST,
                )
            )  # fmt: skip
    finish(rows, asked.json)


if __name__ == "__main__":
    main()
