"""Whole runs: what they leave behind, that they learn, and how the command ends."""

import gzip
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from overworld.host.process import ServerProcess
from overworld.service.program import run
from overworld_trainer import command
from overworld_trainer.config import TrainerConfig
from overworld_trainer.guard import RunStoppedError
from overworld_trainer.train import train
from overworld_vlm import checkpoint
from safetensors.torch import load_file

from tests.support.scripted_env import CHOICE
from tests.support.scripted_model import lines, numbers, progress, run_fields, run_settings, tensors

SHIPPED = Path(__file__).parents[3] / "configs" / "tiny" / "gym_cards.yaml"

LOGGED_ALWAYS = {
    "update", "env_steps", "charts/SPS", "charts/learning_rate", "charts/episodes", "charts/failed_steps",
    "replies/unparseable", "replies/inadmissible", "replies/cut", "replies/tokens",
    "ends/task", "ends/rule", "ends/time_limit",
    "losses/explained_variance", "losses/advantage_std", "losses/relative_target_std",
    "losses/normalised_advantage_std", "losses/critic_epochs", "losses/value_loss", "losses/value_grad_norm",
    "time/encode", "time/prefill", "time/decode", "time/waiting_for_envs",
    "time/reference", "time/old_logps", "time/values", "time/critic", "time/other",
    "memory/host_peak", "throughput/prefill_tokens_per_second", "throughput/decode_tokens_per_second",
}  # fmt: skip
SECONDS = [
    "encode", "prefill", "decode", "waiting_for_envs", "reference", "old_logps", "values", "critic", "update", "other"
]  # fmt: skip
"""Parts of an update, without what is done after it."""
LOGGED_WITH_EPISODES = {"charts/success_rate", "charts/episodic_return", "charts/episodic_length"}
LOGGED_AFTER_WARM_UP = {
    "losses/policy_loss", "losses/policy_grad_norm", "losses/clipfrac", "losses/max_ratio",
    "losses/kl_k1", "losses/kl_k3", "losses/entropy_action", "losses/entropy_thoughts",
    "losses/max_logprob_error", "losses/mean_logprob_error", "losses/sampler_kl",
    "time/update", "throughput/update_tokens_per_second", "throughput/update_tflops",
}  # fmt: skip


TINY = {"hidden_size": 32, "intermediate_size": 64, "vision_layers": 1, "vocab_size": 340}


def read(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines(folder)]


@pytest.mark.parametrize("stop_gradient", [True, False])
def test_a_run_logs_and_keeps_all_that_it_should(
    server: ServerProcess, obedient_folder: Path, tmp_path: Path, stop_gradient: bool
) -> None:
    critic = {"layers": [16], "warmup_updates": 1, "stop_gradient": stop_gradient}
    config = run_settings(server, tmp_path / "run", obedient_folder, updates=4, critic=critic)
    train(config)
    updates = read(tmp_path / "run")
    assert [update["update"] for update in updates] == [0, 1, 2, 3]
    assert [update["env_steps"] for update in updates] == [18, 36, 54, 72]  # warm-up steps count
    for number, update in enumerate(updates):
        assert update.keys() >= LOGGED_ALWAYS
        assert (update.keys() >= LOGGED_AFTER_WARM_UP) == (number > 0)
        assert update["charts/failed_steps"] == 2 or number
        if update["charts/episodes"]:
            assert update.keys() >= LOGGED_WITH_EPISODES
            assert any(name.startswith("charts/success_rate/") for name in update)
    assert any(update["charts/episodes"] for update in updates)
    assert any("charts/value_at_start" in update for update in updates)
    assert updates[1]["losses/max_logprob_error"] < 1e-4
    assert [update["charts/learning_rate"] == 0 for update in updates] == [True, False, False, False]
    folders = list(checkpoint.find(tmp_path / "run" / "checkpoints"))
    assert [folder.name for folder in folders] == ["000002", "000004"]
    _, manifest = checkpoint.load_checkpoint(folders[-1])
    assert (manifest.update, manifest.env_steps, manifest.used_expert) == (4, 72, False)
    assert manifest.recipe["history"] == 2
    assert manifest.provenance == {"puppet/Puppet": {"rules": "puppet 1"}}
    assert manifest.config["policy"]["lr"] == 1e-3
    slots = progress(tmp_path / "run", 4)["slots"]
    assert len(slots) == 6
    assert any(slot["actions"] for slot in slots)
    assert list((tmp_path / "run" / "tensorboard").iterdir())


def test_an_update_is_profiled_if_asked_for(
    server: ServerProcess, obedient_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        train(run_settings(server, tmp_path / "run", obedient_folder, updates=3, profile_update=1))
    (trace,) = (tmp_path / "run" / "traces").iterdir()
    assert trace.name == "update-000001.json.gz"
    assert any(str(trace) in record.getMessage() for record in caplog.records)
    with gzip.open(trace) as file:
        events = json.load(file)["traceEvents"]
    parts = {event["name"] for event in events if event.get("cat") == "user_annotation"}
    assert parts >= set(SECONDS) - {"other"}
    plain = run_settings(server, tmp_path / "plain", obedient_folder, updates=3)
    train(plain)
    assert numbers(tmp_path / "run") == numbers(tmp_path / "plain")
    assert not (tmp_path / "plain" / "traces").exists()


def test_seconds_by_part_sum_to_the_updates_wall_time(
    server: ServerProcess, obedient_folder: Path, tmp_path: Path
) -> None:
    train(run_settings(server, tmp_path / "run", obedient_folder, updates=4, checkpoint_every=1))
    for update in read(tmp_path / "run")[1:]:
        parts = {name: value for name, value in update.items() if name.startswith("time/")}
        # An update's steps per second leave out the time of recording and of the checkpoint before it.
        inside = sum(parts[f"time/{name}"] for name in SECONDS if f"time/{name}" in parts)
        assert inside == pytest.approx(18 / update["charts/SPS"], rel=0.05, abs=2e-3)
        assert parts["time/checkpoint"] > 0 < parts["time/record"]


def test_one_seed_decides_everything(server: ServerProcess, obedient_folder: Path, tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        train(run_settings(server, tmp_path / name, obedient_folder, updates=2, seed=seed))
    assert numbers(tmp_path / "one") == numbers(tmp_path / "same")
    assert tensors(tmp_path / "one", 2) == tensors(tmp_path / "same", 2)
    assert numbers(tmp_path / "one")[0] != numbers(tmp_path / "other")[0]


def test_a_finished_run_has_nothing_left_to_do_and_more_updates_go_on(
    server: ServerProcess, obedient_folder: Path, tmp_path: Path
) -> None:
    fields = run_fields(server, tmp_path / "run", obedient_folder, updates=1)
    train(run_settings(server, tmp_path / "run", obedient_folder, updates=1))
    before = lines(tmp_path / "run")
    train(run_settings(server, tmp_path / "run", obedient_folder, updates=1))
    assert lines(tmp_path / "run") == before
    train(run_settings(server, tmp_path / "run", obedient_folder, updates=2))
    assert lines(tmp_path / "run")[:1] == before
    assert len(lines(tmp_path / "run")) == 2
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["updates"] == 2 > fields["updates"]


def test_bf16_trains_within_its_bounds(server: ServerProcess, obedient_folder: Path, tmp_path: Path) -> None:
    model = {"path": str(obedient_folder), "dtype": "bfloat16"}
    critic = {"layers": [16], "warmup_updates": 0}
    train(run_settings(server, tmp_path / "run", "", model=model, updates=1, critic=critic))
    (update,) = read(tmp_path / "run")
    assert 0 < update["losses/mean_logprob_error"] < 0.05
    weights = load_file(tmp_path / "run" / "checkpoints" / "000001" / "weights" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}


def test_the_tiny_model_trains_in_all_card_games_at_once(server: ServerProcess, tmp_path: Path) -> None:
    games = ("NumberLine", "EZPoints", "Points24", "Blackjack")
    envs = [{"id": f"gym_cards/{game}", "slots": 4, "options": {"size": 56, "colours": True}} for game in games]
    changes = [f"envs={json.dumps(envs)}", "updates=2", "clone.updates=2", "rollout_steps=2", "critic.warmup_updates=1"]
    train(
        TrainerConfig.load([str(SHIPPED), f"run={tmp_path}", f"servers={server.address}", *changes], "overworld train")
    )
    assert len(lines(tmp_path)) == 2
    assert (tmp_path / "checkpoints" / "000002" / "manifest.json").exists()


def test_a_policy_learns_what_is_rewarded(server: ServerProcess, tmp_path: Path) -> None:
    """From cloning with random actions, where half of the choices are right."""
    config = run_settings(
        server,
        tmp_path / "run",
        "tiny",
        envs=[{"id": "puppet/Choice", "slots": 16}],
        model={
            "path": "tiny",
            "tiny": {"hidden_size": 32, "intermediate_size": 64, "vision_layers": 1, "vocab_size": 340},
        },
        recipe={"reply": "action"},
        clone={"updates": 80, "lr": 5e-3},
        updates=8,
        rollout_steps=4,
        checkpoint_every=100,
        temperature=1.0,
        gamma=0.9,
        policy={"epochs": 2, "minibatch": 32, "lr": 1e-3, "lr_end": 1e-3},
        critic={"layers": [32], "minibatch": 32, "warmup_updates": 1, "lr": 1e-2},
    )
    train(config)
    returns = [update["charts/episodic_return"] for update in read(tmp_path / "run")]
    assert sum(returns[:3]) / 3 < 2.8
    assert sum(returns[-2:]) / 2 > 3.3


def test_a_run_that_goes_wrong_stops_and_keeps_no_checkpoint_of_it(
    server: ServerProcess, obedient_folder: Path, tmp_path: Path
) -> None:
    policy = {"epochs": 4, "minibatch": 4, "lr": 0.5}
    config = run_settings(server, tmp_path / "run", obedient_folder, policy=policy, checkpoint_every=1)
    with pytest.raises(RunStoppedError, match=r"KL to the reference|is not a number"):
        train(config)
    done = len(lines(tmp_path / "run"))
    assert 1 < done < 5
    assert [folder.name for folder in checkpoint.find(tmp_path / "run" / "checkpoints")] == [
        f"{update:06}" for update in range(1, done)
    ]


@pytest.fixture
def strict() -> Iterator[ServerProcess]:
    """A server that gives no expert advice."""
    with ServerProcess(CHOICE, arguments=("--workers", "1", "--slots", "8")) as server:
        yield server


def ends_with(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], tmp_path: Path
) -> str:
    """What the command says in the one line with which it ends."""
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(fields))
    monkeypatch.setattr("overworld.service.log.configure", lambda: None)
    with pytest.raises(SystemExit) as caught:
        run(command.main, [str(path)], "overworld_trainer")
    assert caught.value.code == 1
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("overworld_trainer: ")]
    assert len(said) == 1
    return said[0]


def one_env(**fields: Any) -> dict[str, Any]:
    return {"envs": [{"id": "puppet/Puppet", "slots": 2} | fields], "temperature": 0.1, "retry_budget": 0.1}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"servers": "127.0.0.1:1", "retry_budget": 0.1}, "puppet/Puppet"),
        ({"envs": [{"id": "puppet/Nobody", "slots": 2}], "retry_budget": 0.1}, "puppet/Nobody"),
        ({"envs": [{"id": "puppet/Puppet", "slots": 2, "options": {"colour": 1}}]}, "OPTIONS_INVALID"),
        ({"envs": [{"id": "puppet/Puppet", "slots": 2, "split": "test"}]}, "'test'"),
        ({"envs": [{"id": "puppet/Puppet", "slots": 500}], "retry_budget": 0.1}, "NO_FREE_SLOTS"),
        (
            {"envs": [{"id": "puppet/Puppet", "slots": 2, "options": {"script": ["raise"]}}], "temperature": 0.1},
            "every step",
        ),
        ({"gamma": 1.0}, "gamma = 1"),
        ({"polcy": {}}, "polcy"),
        ({"max_new_tokens": 5000}, "exceed the model's 4096"),
    ],
)
def test_what_a_user_can_mend_ends_in_one_line(
    server: ServerProcess,
    obedient_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    words: str,
) -> None:
    fields = run_fields(server, tmp_path / "run", obedient_folder, **changes)
    assert words in ends_with(capsys, monkeypatch, fields, tmp_path)


def test_an_expert_that_is_not_allowed_ends_in_one_line(
    strict: ServerProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = run_fields(
        strict, tmp_path / "run", "tiny",
        envs=[{"id": "puppet/Choice", "slots": 2}], model={"tiny": TINY}, clone={"updates": 2},
    )  # fmt: skip
    assert "EXPERT_NOT_ALLOWED" in ends_with(capsys, monkeypatch, fields, tmp_path)


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_model_folder_that_is_none_ends_in_one_line(
    server: ServerProcess,
    obedient_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    file: str,
) -> None:
    (tmp_path / "model").mkdir()
    for path in obedient_folder.iterdir():
        if path.name != file:
            os.link(path, tmp_path / "model" / path.name)
    fields = run_fields(server, tmp_path / "run", tmp_path / "model")
    assert str(tmp_path / "model") in ends_with(capsys, monkeypatch, fields, tmp_path)


def test_changed_settings_end_in_one_line(
    server: ServerProcess,
    obedient_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train(run_settings(server, tmp_path / "run", obedient_folder, updates=1))
    fields = run_fields(server, tmp_path / "run", obedient_folder, updates=1, gamma=0.5)
    assert "gamma was 0.99, is 0.5" in ends_with(capsys, monkeypatch, fields, tmp_path)


def test_the_command_itself_says_one_line_and_exits_with_1(tmp_path: Path) -> None:
    arguments = [f"run={tmp_path / 'run'}", "envs=[{id: toy/Count}]", "clone.updates=1", "gamma=1"]
    process = subprocess.run(
        [sys.executable, "-m", "overworld_trainer", *arguments], capture_output=True, text=True, check=False
    )
    assert process.returncode == 1
    assert process.stdout == ""
    assert len(process.stderr.splitlines()) == 1
    assert process.stderr.startswith("overworld_trainer: gamma = 1 with time_limit = bootstrap")
