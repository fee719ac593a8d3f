"""The parts `end_to_end` and `mixed` of trainer.py, and how often a frame passes the vision tower.

The model is the tiny one that `make train` uses, cloned so that it replies in the right form. Frames have 112 px: eight
of them are 512 patches for the tower and 128 of a prompt's 210 tokens for the language model, so that most of a forward
pass is the tower's, as in Qwen2-VL-2B (63 % there). Replies have 35 tokens or so.

All run in processes of their own with one thread for PyTorch, one after the other, in rounds.
"""

from __future__ import annotations

import functools
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import yaml
from report import Row

HERE = Path(__file__).parent
ROOT = HERE.parent
BEFORE = "f8116b0"
"""The last commit whose trainer encoded every frame in every step and let slots wait for one another."""
PACKAGES = ("sdk", "vlm", "services/envserver", "services/trainer")
ROUNDS, DROPPED = 2, 1
HISTORY, SLOTS, STEPS = 8, 16, 8
MODEL_PARTS = {f"time/{part}" for part in ("prefill", "decode", "reference", "old_logps", "values", "critic", "update")}
MAX_INVALID = 0.2
TARGETS = {"before": 2.0, "transformers": 1.3}
MIXED_TARGET, MODEL_SHARE = 1.7, 0.8

SETTINGS: dict[str, Any] = {
    "updates": 3,
    "rollout_steps": STEPS,
    "checkpoint_every": 1000,
    "envs": [{"id": "bench/Frames", "slots": SLOTS, "options": {"size": 112}}],
    "model": {"lora": {"r": 16, "alpha": 32}},
    "recipe": {"history": HISTORY},
    "max_new_tokens": 48,
    "temperature": 1.0,
    "policy": {"epochs": 2, "minibatch": 64, "lr": 1e-5},
    "critic": {"layers": [128], "lr": 1e-3, "warmup_updates": 0},
    "threads": 1,
}


@dataclass(frozen=True)
class Cost:
    """What the measured updates of one run took."""

    steps_per_second: float
    steps_per_cpu_second: float
    frames: float
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Alternative:
    """A script that takes settings and prints updates, and the folder of the packages that it imports."""

    tree: Path
    script: str = "training_run.py"
    python: str = sys.executable

    def run(self, folder: Path, settings: Mapping[str, Any]) -> Cost:
        """Runs it in `folder`, which it may fill. The first update does not count: its histories are short."""
        updates = self.updates(folder, settings)
        first, last = updates[DROPPED - 1], updates[-1]
        steps = last["metrics"]["env_steps"] - first["metrics"]["env_steps"]
        measured = [update["metrics"] for update in updates[DROPPED:]]
        for metrics in measured:
            if metrics["replies/unparseable"] > MAX_INVALID:  # the env would stand still
                sys.exit(f"{self.script} with {self.tree}: too many replies cannot be read: {metrics}")
        names = set.intersection(*map(set, measured))
        return Cost(
            steps / (last["seconds"] - first["seconds"]),
            steps / (last["cpu_seconds"] - first["cpu_seconds"]),
            (last["frames"] - first["frames"]) / len(measured),
            {name: statistics.mean(metrics[name] for metrics in measured) for name in names}
            | {"seconds": (last["seconds"] - first["seconds"]) / len(measured)},
        )

    def updates(self, folder: Path, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The lines that the script prints."""
        file = folder / "settings.yaml"
        file.write_text(yaml.safe_dump({**settings, "run": str(folder / "run")}))
        path = os.pathsep.join([*(str(self.tree / package) for package in PACKAGES), str(HERE), str(ROOT)])
        done = subprocess.run(
            [self.python, str(HERE / self.script), str(file)],
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            sys.exit(f"{self.script} with {self.tree} failed:\n{done.stderr[-4000:]}")
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def end_to_end() -> Iterator[Row]:
    """Env steps per second, beside the peers that can be had."""
    alternatives = {"ours": Alternative(ROOT), **_before(), "transformers": Alternative(ROOT, "transformers_peer.py")}
    costs = _rounds(alternatives, _settings())
    setting = f"{SLOTS} slots, {HISTORY} frames of 112 px, {_mean(costs['ours'], 'replies/tokens'):.0f} tokens a reply"
    ours = statistics.median(cost.steps_per_second for cost in costs["ours"])
    ours_cpu = statistics.median(cost.steps_per_cpu_second for cost in costs["ours"])
    for name in list(costs)[1:]:
        peer = statistics.median(cost.steps_per_second for cost in costs[name])
        peer_cpu = statistics.median(cost.steps_per_cpu_second for cost in costs[name])
        tokens = f"{name} ({_mean(costs[name], 'replies/tokens'):.0f} tokens)"
        # Nothing waits for these envs, so that on an idle machine both rows say the same; CPU-seconds bear a busy one.
        yield Row("whole updates", setting, ours, "env steps/s", tokens, peer, ours / peer)
        ratio = ours_cpu / peer_cpu
        yield Row("whole updates", setting, ours_cpu, "env steps/CPU-s", tokens, peer_cpu, ratio, TARGETS[name])
    yield from _shares(costs["ours"], setting)


def mixed() -> Iterator[Row]:
    """Two envs; a step of the second takes 200 ms."""
    settings = _settings()
    options = {"size": 112}
    settings["envs"] = [
        {"id": "bench/Frames", "slots": 8, "options": options},
        {"id": "bench/SlowFrames", "slots": 8, "options": {**options, "delay_ms": 200}},
    ]
    costs = _rounds({"ours": Alternative(ROOT), **_before()}, settings)
    setting = f"8 slots of 0 ms and 8 of 200 ms a step, {HISTORY} frames of 112 px"
    ours = statistics.median(cost.steps_per_second for cost in costs["ours"])
    for name in list(costs)[1:]:
        peer = statistics.median(cost.steps_per_second for cost in costs[name])
        yield Row("a slow env beside a fast one", setting, ours, "env steps/s", name, peer, ours / peer, MIXED_TARGET)


def passes(allowed: float) -> Iterator[Row]:
    """How often a frame goes through the vision tower in a rollout and its update, with an adapter."""
    settings = {**_settings(), "updates": 2, "envs": [{"id": "bench/Frames", "slots": 4, "options": {"size": 112}}]}
    costs = _rounds({"ours": Alternative(ROOT), **_before()}, settings, rounds=1)
    frames = 4 * STEPS  # new ones, one for each step; a few less, since a reply that cannot be read moves nothing
    setting = f"history {HISTORY}, {STEPS} steps of 4 slots, 2 epochs, adapter"
    value = costs["ours"][0].frames / frames
    name = "passes through the tower"
    yield Row(name, setting, value, "per new frame", "at most", allowed, allowed / value, 1)
    for peer in list(costs)[1:]:
        their_value = costs[peer][0].frames / frames
        yield Row(name, setting, value, "per new frame", peer, their_value, their_value / value)


def _rounds(
    alternatives: Mapping[str, Alternative], settings: Mapping[str, Any], rounds: int = ROUNDS
) -> dict[str, list[Cost]]:
    costs: dict[str, list[Cost]] = {name: [] for name in alternatives}
    for _ in range(rounds):
        for name, alternative in alternatives.items():
            with tempfile.TemporaryDirectory() as folder:
                costs[name].append(alternative.run(Path(folder), settings))
    return costs


def _shares(costs: list[Cost], setting: str) -> Iterator[Row]:
    """Where the wall time goes, by the trainer's own timers."""
    seconds = _mean(costs, "seconds")
    shares = {name: _mean(costs, name) / seconds for name in costs[0].metrics if name.startswith("time/")}
    model = sum(share for name, share in shares.items() if name in MODEL_PARTS)
    yield Row("wall time in the model", setting, model, "share", "at least", MODEL_SHARE, model / MODEL_SHARE, 1)
    for name, share in sorted(shares.items(), key=lambda item: -item[1]):
        yield Row(f"wall time: {name.removeprefix('time/')}", setting, share, "share", "all", 1.0, share)


def _mean(costs: list[Cost], metric: str) -> float:
    return statistics.mean(cost.metrics[metric] for cost in costs)


def _settings() -> dict[str, Any]:
    return {**SETTINGS, "model": {**SETTINGS["model"], "path": str(_start())}}


def clone(folder: Path, settings: Mapping[str, Any]) -> Path:
    """Makes a tiny model that replies as these settings ask for, somewhere in an empty folder, and says where."""
    # Short episodes, so that it sees prompts with fewer frames, too.
    envs = [{"id": "bench/Frames", "slots": 4, "options": {"size": 112, "max_turns": 12}}]
    cloning = {"updates": 1, "envs": envs, "model": {"path": "tiny"}, "clone": {"updates": 150, "lr": 4e-3}}
    (update,) = Alternative(ROOT).updates(folder, {**settings, **cloning})
    metrics = update["metrics"]
    if metrics["replies/unparseable"] + metrics["replies/inadmissible"] > 0.2:
        sys.exit(f"the cloned model does not reply in the right form: {metrics}")
    return folder / "run" / "checkpoints" / "000000" / "weights"


@functools.cache
def _start() -> Path:
    """A tiny model that replies in the right form, made once."""
    return clone(Path(_temporary("overworld-start-").name), SETTINGS)


@functools.cache
def _before() -> dict[str, Alternative]:
    """The trainer at `BEFORE`, out of this clone's history."""
    archive = subprocess.run(["git", "archive", BEFORE, *PACKAGES], cwd=ROOT, capture_output=True)
    if archive.returncode:
        print(f"not compared with {BEFORE}: this clone does not have it ({archive.stderr.decode().strip()})")
        return {}
    tree = Path(_temporary("overworld-before-").name)
    with tarfile.open(fileobj=BytesIO(archive.stdout)) as tar:
        tar.extractall(tree, filter="data")
    return {"before": Alternative(tree)}


@functools.cache
def _temporary(prefix: str) -> tempfile.TemporaryDirectory[str]:
    """A folder that is there until this process ends."""
    return tempfile.TemporaryDirectory(prefix=prefix)
