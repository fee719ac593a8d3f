"""Several ranks of the trainer on one machine: weak scaling, and what sharding costs one rank.

An env takes 50 ms a step, as a real simulator may, and leaves the CPU idle meanwhile. Each rank has one thread for
PyTorch; with twice the ranks there are twice the slots and twice the workers of the env server. All runs are made as
users make them, by torchrun, and timed by the trainer itself; they take turns.

scaling   env steps per second of 2 ranks beside 1: 2 would be perfect. It needs two idle cores.
sharding  one rank: seconds that it is busy in an update, with parallel = shard beside parallel = none
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import frames_env
import trainer_runs
import yaml
from overworld.host.process import ServerProcess
from report import Row, finish, parser

SLOTS, STEPS, UPDATES, DROPPED = 8, 16, 4, 1
DELAY_MS, SIZE = 50, 56
ROUNDS, TARGET = 3, 1.7

SETTINGS: dict[str, Any] = {
    **trainer_runs.SETTINGS,
    "updates": UPDATES,
    "rollout_steps": STEPS,
    "recipe": {"reply": "action"},
    "policy": {"epochs": 1, "minibatch": SLOTS * STEPS, "lr": 1e-5},
}


@dataclass(frozen=True)
class Case:
    """How a run is started."""

    ranks: int
    parallel: str

    @property
    def slots(self) -> int:
        """Of the run, and workers of its env server."""
        return self.ranks * SLOTS


@dataclass(frozen=True)
class Pace:
    """What the updates of a run took: env steps per second, and seconds of an update in which the rank was busy."""

    steps_per_second: float
    busy_seconds: float


ONE, TWO, SHARDED = Case(1, "none"), Case(2, "replicate"), Case(1, "shard")


def main() -> None:
    """Runs and reports."""
    options = parser(__doc__ or "")
    options.add_argument("--rounds", type=int, default=ROUNDS, help=f"runs of each kind; default: {ROUNDS}")
    arguments = options.parse_args()
    # For the env server and its workers, which import the env.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(trainer_runs.HERE), os.environ.get("PYTHONPATH"))))
    paces: dict[Case, list[Pace]] = {ONE: [], TWO: [], SHARDED: []}
    with tempfile.TemporaryDirectory() as made:
        model = {**SETTINGS["model"], "path": str(trainer_runs.clone(Path(made), SETTINGS))}
        for number, case in itertools.product(range(arguments.rounds), paces):
            with tempfile.TemporaryDirectory() as folder:
                paces[case].append(_run(Path(folder), case, {**SETTINGS, "model": model, "seed": number}))
    finish([_scaling(paces), _sharding(paces)], arguments.json)


def _scaling(paces: Mapping[Case, list[Pace]]) -> Row:
    one, two = ([pace.steps_per_second for pace in paces[case]] for case in (ONE, TWO))
    ratio = statistics.median(b / a for a, b in zip(one, two, strict=True))
    setting = f"{SLOTS} slots and workers a rank, {DELAY_MS} ms a step"
    return Row(
        "2 ranks", setting, statistics.median(two), "env steps/s", "1 rank", statistics.median(one), ratio, TARGET
    )


def _sharding(paces: Mapping[Case, list[Pace]]) -> Row:
    none, shard = ([pace.busy_seconds for pace in paces[case]] for case in (ONE, SHARDED))
    ratio = statistics.median(a / b for a, b in zip(none, shard, strict=True))
    setting = f"1 rank, {SLOTS * STEPS} steps an update, waiting for envs left out"
    value, peer = statistics.median(shard), statistics.median(none)
    return Row("parallel = shard", setting, value, "s/update", "parallel = none", peer, ratio)


def _run(folder: Path, case: Case, settings: Mapping[str, Any]) -> Pace:
    env = {"id": "bench/Frames", "slots": case.slots, "options": {"size": SIZE, "delay_ms": DELAY_MS}}
    file = folder / "settings.yaml"
    file.write_text(yaml.safe_dump({**settings, "envs": [env], "parallel": case.parallel, "run": str(folder / "run")}))
    with ServerProcess(frames_env.ENVS[0], arguments=("--workers", str(case.slots), "--allow-expert")) as server:
        torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={case.ranks}")
        done = subprocess.run(
            [*torchrun, "-m", "overworld_trainer", str(file), f"servers={server.address}"],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
    if done.returncode:
        sys.exit(f"{case} failed:\n{done.stderr[-4000:]}")
    updates = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    for metrics in updates:
        if metrics["replies/unparseable"] > trainer_runs.MAX_INVALID:  # the env would stand still
            sys.exit(f"{case}: too many replies cannot be read: {metrics}")
    steps = updates[-1]["env_steps"] - updates[DROPPED - 1]["env_steps"]
    seconds = [
        {name: value for name, value in metrics.items() if name.startswith("time/")} for metrics in updates[DROPPED:]
    ]
    waiting = sum(update["time/waiting_for_envs"] for update in seconds)
    wall = sum(sum(update.values()) for update in seconds)
    return Pace(steps / wall, (wall - waiting) / len(seconds))


if __name__ == "__main__":
    main()
