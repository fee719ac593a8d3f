"""A model cloned to do what `Puppet` asks for, and runs that train it further."""

import dataclasses
import fcntl
import hashlib
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from overworld import Runner
from overworld.evaluation.conversation import Conversation, Recipe
from overworld.host.process import ServerProcess
from overworld_trainer.clone import clone
from overworld_trainer.config import CloneConfig, TrainerConfig
from overworld_trainer.demonstrations import Demonstration
from overworld_vlm.load import VLM, save
from overworld_vlm.tiny import make_tiny

from tests.support.scripted_env import REPLIES, WORDS, Puppet, PuppetOptions
from tests.support.shared_folder import shared_folder
from tests.support.tiny_vlm import SIZES

CHANGING = ("time/", "throughput/", "memory/", "charts/SPS", "ledger/")
"""Prefixes of metrics that differ between any two runs."""


def obedient_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the model; the first test process that needs it makes it for all."""
    folder = shared_folder(tmp_path_factory) / "obedient"
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            save(_make_obedient(), folder)
    return folder


def _make_obedient() -> VLM:
    """At temperature 0.1 it always does what it is told; at 1 it errs now and then."""
    numbers = itertools.count()

    def demonstrations() -> list[Demonstration]:
        batch = []
        for word in WORDS:
            number = next(numbers)
            turns = number % 4
            runner = Runner(Puppet(PuppetOptions(script=["go"] * turns + [word], max_turns=5)))
            spec = dataclasses.replace(runner.spec, max_turns=5)
            conversation = Conversation(spec, Recipe(history=1 + number % 3, turns_left=number % 2 == 0))
            conversation.observe(runner.reset(number))
            for _ in range(turns):
                conversation.observe(runner.step("go"))
            batch.append(Demonstration(messages=conversation.messages(), reply=REPLIES[word]))
        return batch

    texts = [text for one in demonstrations() for text in (one.messages[0]["content"][-1]["text"], one.reply)]
    vlm = make_tiny(texts, SIZES)
    losses = []
    clone(vlm, demonstrations, CloneConfig(updates=200, lr=5e-3), lambda _, loss: losses.append(loss))
    assert losses[-1] < 0.03 < 1 < losses[0]
    return vlm


def run_fields(server: ServerProcess, folder: str | Path, model: str | Path, /, **changes: Any) -> dict[str, Any]:
    """Settings of a small run in which everything occurs that a resumed run has to remember."""
    fields = {
        "run": str(folder),
        "updates": 5,
        "rollout_steps": 3,
        "checkpoint_every": 2,
        "servers": server.address,
        "envs": [
            {
                "id": "puppet/Puppet",
                "slots": 4,
                "options": {"script": ["go", "fly", "go", "win"], "max_turns": 5},
                "fallback_reward": -0.25,
            },
            {"id": "puppet/Puppet", "slots": 2, "options": {"script": ["go", "raise", "lose"]}, "weight": 0.5},
        ],
        "model": {"path": str(model)},
        "recipe": {"history": 2},
        "max_new_tokens": 20,
        "temperature": 0.7,
        "policy": {"epochs": 2, "minibatch": 8, "lr": 1e-3},
        "critic": {"layers": [16], "epochs": 2, "minibatch": 8, "warmup_updates": 1},
        "threads": 1,
        "retry_budget": 30.0,
    }
    return fields | changes


def run_settings(server: ServerProcess, folder: str | Path, model: str | Path, /, **changes: Any) -> TrainerConfig:
    return TrainerConfig(**run_fields(server, folder, model, **changes))


def lines(folder: Path) -> list[str]:
    """The lines of metrics.jsonl, one per update."""
    path = folder / "metrics.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def numbers(folder: Path) -> list[str]:
    """The metrics of each update as text, without those that differ between any two runs."""
    return [
        json.dumps({name: value for name, value in json.loads(line).items() if not name.startswith(CHANGING)})
        for line in lines(folder)
    ]


def ledger(folder: Path) -> list[dict[str, Any]]:
    """The entries of ledger.jsonl: one per update, and more for updates that were made again."""
    return [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]


def tensors(folder: Path, update: int) -> dict[str, str]:
    """SHA-256 of each file of tensors in a checkpoint: weights, critic and optimizers."""
    path = folder / "checkpoints" / f"{update:06}"
    files = sorted(path.rglob("*.safetensors"))
    return {str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def progress(folder: Path, update: int) -> dict[str, Any]:
    """The trainer's state in a checkpoint: open episodes, guard, counters."""
    return json.loads((folder / "checkpoints" / f"{update:06}" / "trainer" / "state.json").read_text())


def copy_run(run: Path, folder: Path, updates: int) -> None:
    """Copies a run as it was after that many updates, of which it has a checkpoint."""
    shutil.copytree(run, folder)
    for checkpoint in (folder / "checkpoints").iterdir():
        if int(checkpoint.name) > updates:
            shutil.rmtree(checkpoint)
    for name in ("metrics.jsonl", "ledger.jsonl"):
        kept = [line for line in (folder / name).read_text().splitlines() if json.loads(line)["update"] < updates]
        (folder / name).write_text("".join(f"{line}\n" for line in kept))
