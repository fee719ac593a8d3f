"""Several ranks of the trainer on one machine: weak scaling, and what exchanging and sharding cost.

An env takes 50 ms a step, as a real simulator may, and leaves the CPU idle meanwhile. Each rank has one thread for
PyTorch; with twice the ranks there are twice the slots and twice the workers of the env server. All runs are made as
users make them, by torchrun, and take turns.

scaling    env steps per second of 2 ranks beside 1: 2 would be perfect. It takes two idle cores: on a busy machine two
           ranks get twice the time of one, so that this says nothing
exchange   env steps per CPU-second of 2 ranks beside 1
sharding   the same of one rank with parallel = shard beside parallel = none
"""

from __future__ import annotations

import itertools
import json
import operator
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import frames_env
import psutil
import trainer_runs
import yaml
from overworld.host.process import ServerProcess
from report import Row, finish, parser

SLOTS, STEPS = 4, 16
FIRST, LAST, UPDATES = 1, 4, 5
"""Updates that are finished when measuring begins and ends; and all, since ranks may be gone when the last one is."""
DELAY_MS, SIZE = 50, 56
ROUNDS, TARGET, POLL_SECONDS = 3, 1.7, 0.01

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
    """How many env steps a run made per second, and per CPU-second of its ranks."""

    per_second: float
    per_cpu_second: float


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
    finish(list(_rows(paces)), arguments.json)


def _rows(paces: Mapping[Case, list[Pace]]) -> Iterator[Row]:
    setting = f"{SLOTS} slots and workers a rank, {DELAY_MS} ms a step"

    def row(case: Case, name: str, peer: str, unit: str, rate: Callable[[Pace], float], target: float | None) -> Row:
        ours, theirs = ([rate(pace) for pace in paces[one]] for one in (case, ONE))
        ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
        return Row(name, setting, statistics.median(ours), unit, peer, statistics.median(theirs), ratio, target)

    per_second, per_cpu_second = operator.attrgetter("per_second"), operator.attrgetter("per_cpu_second")
    yield row(TWO, "2 ranks", "1 rank", "env steps/s", per_second, TARGET)
    yield row(TWO, "2 ranks", "1 rank", "env steps/CPU-s", per_cpu_second, None)
    yield row(SHARDED, "parallel = shard", "parallel = none", "env steps/CPU-s", per_cpu_second, None)


def _run(folder: Path, case: Case, settings: Mapping[str, Any]) -> Pace:
    env = {"id": "bench/Frames", "slots": case.slots, "options": {"size": SIZE, "delay_ms": DELAY_MS}}
    file = folder / "settings.yaml"
    file.write_text(yaml.safe_dump({**settings, "envs": [env], "parallel": case.parallel, "run": str(folder / "run")}))
    with ServerProcess(frames_env.ENVS[0], arguments=("--workers", str(case.slots), "--allow-expert")) as server:
        torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={case.ranks}")
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(
                [*torchrun, "-m", "overworld_trainer", str(file), f"servers={server.address}"],
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdout=log,
                stderr=log,
            )
        spent = _cpu_seconds(process, folder / "run" / "metrics.jsonl")
    if process.wait() or not spent:
        sys.exit(f"{case} failed:\n{(folder / 'log').read_text()[-4000:]}")
    updates = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    for metrics in updates:
        if metrics["replies/unparseable"] > trainer_runs.MAX_INVALID:  # the env would stand still
            sys.exit(f"{case}: too many replies cannot be read: {metrics}")
    steps = updates[LAST - 1]["env_steps"] - updates[FIRST - 1]["env_steps"]
    seconds = sum(
        value for metrics in updates[FIRST:LAST] for name, value in metrics.items() if name.startswith("time/")
    )
    return Pace(steps / seconds, steps / spent)


def _cpu_seconds(torchrun: subprocess.Popen[bytes], metrics: Path) -> float:
    """Of all its ranks, while the run makes the updates that are measured; 0 if it failed. Waits for its end."""
    spent: dict[int, float] = {}
    while torchrun.poll() is None:
        finished = metrics.read_bytes().count(b"\n") if metrics.exists() else 0
        if finished in (FIRST, LAST) and finished not in spent:
            times = [rank.cpu_times() for rank in psutil.Process(torchrun.pid).children()]
            spent[finished] = sum(each.user + each.system for each in times)
        time.sleep(POLL_SECONDS)
    return spent[LAST] - spent[FIRST] if len(spent) == 2 else 0.0


if __name__ == "__main__":
    main()
