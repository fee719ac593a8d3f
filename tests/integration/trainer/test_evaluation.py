"""Held-out evaluation: the figures of `overworld eval`, training as it was without, the best checkpoint, early stop."""

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from overworld import Fleet
from overworld.client.channel import server_info
from overworld.commands import eval as eval_command
from overworld.errors import SettingsError
from overworld.evaluation.comparison import compare
from overworld.evaluation.folder import VARYING, EpisodeFolder
from overworld.host.process import ServerProcess
from overworld_trainer.train import train
from overworld_vlm import checkpoint
from overworld_vlm.load import VLM, save

from tests.support.scripted_env import CHOICE, PUPPET
from tests.support.scripted_model import lines, numbers, progress, run_fields, run_settings, tensors
from tests.support.warm import WarmProcess, WarmService

GAMES = ("NumberLine", "EZPoints")
PLAYED = {"id": "puppet/Puppet", "slots": 4, "options": {"script": ["go", "fly", "go", "win"], "max_turns": 6}}
"""At a temperature of .7 the model errs now and then, and no two episodes look alike."""


def evaluation(**changes: Any) -> dict[str, Any]:
    return {"every": 2, "episodes": 9, "slots": 4} | changes


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in VARYING)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def evaluated(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl that an evaluation wrote."""
    return [entry for entry in map(json.loads, lines(folder)) if "eval/success_rate" in entry]


@pytest.mark.parametrize(
    ("greedy", "model"), [(True, {}), (False, {}), (False, {"lora": {"r": 4, "alpha": 64}})], ids=str
)
def test_the_figures_are_those_of_overworld_eval(
    server: ServerProcess, obedient_folder: Path, tmp_path: Path, greedy: bool, model: dict[str, Any]
) -> None:
    """Episode for episode, byte for byte, against the policy server that serves the evaluated checkpoint."""
    config = run_settings(
        server, tmp_path / "runs" / "mine", "", model={"path": str(obedient_folder)} | model, envs=[PLAYED],
        policy={"minibatch": 8, "lr": 3e-3}, updates=2, temperature=1.5, evaluation=evaluation(greedy=greedy, seed=7),
    )  # fmt: skip
    train(config)
    own = tmp_path / "runs" / "mine" / "evaluations" / "update-000002"
    policy = WarmService("overworld_policy", f"runs={tmp_path / 'runs'}", "port=0", "threads=1")
    try:
        status = eval_command.main([
            "puppet/Puppet", "model=mine@2", f"url={policy.address}", f"servers={server.address}", "seeds=7-15",
            f"temperature={0 if greedy else 1.5}", "max_tokens=20", "slots=3", f"keep={tmp_path / 'eval'}",
        ])  # fmt: skip
    finally:
        policy.stop()
    assert status == 0
    assert contents(own) == contents(tmp_path / "eval")
    assert compare(EpisodeFolder(own), EpisodeFolder(tmp_path / "eval")).returns.value == 0
    replies = {turn.reply for episode in EpisodeFolder(own) for turn in episode.turns}
    assert len(replies) > (1 if greedy else 5), "there is something to tell apart"
    report = json.loads((own / "report.json").read_text())
    (line,) = evaluated(config.run)
    assert (line["update"], line["env_steps"]) == (1, 2 * 4 * 3)
    assert line["eval/success_rate"] == report["success"]["value"]
    assert (line["eval/success_rate_low"], line["eval/success_rate_high"]) == (
        report["success"]["low"], report["success"]["high"],
    )  # fmt: skip
    assert line["eval/return"] == pytest.approx(report["mean_return"], rel=1e-12)
    assert line["eval/invalid_replies"] == pytest.approx(report["invalid_replies"], rel=1e-12)
    assert (line["eval/episodes"], report["model"]) == (9, "mine@2")
    manifest = checkpoint.read(config.run / "checkpoints" / "000002")
    assert report["fingerprint"] == manifest.digest


def test_training_is_not_disturbed(server: ServerProcess, obedient_folder: Path, tmp_path: Path) -> None:
    """Two envs, the same numbers, weights, optimizers and open episodes; and the slots are free again."""
    free = server_info(server.address).slots_free
    changes = {"updates": 4, "keep_checkpoints": 4}
    train(run_settings(server, tmp_path / "without", obedient_folder, **changes))
    train(
        run_settings(server, tmp_path / "with", obedient_folder, **changes, evaluation=evaluation(every=1, episodes=4))
    )
    training = [line for line in numbers(tmp_path / "with") if "eval/success_rate" not in line]
    assert training == numbers(tmp_path / "without")
    assert len(training) == 4
    for update in (2, 4):
        assert tensors(tmp_path / "with", update) == tensors(tmp_path / "without", update)
    assert progress(tmp_path / "with", 4) == progress(tmp_path / "without", 4)
    assert server_info(server.address).slots_free == free
    assert [entry["update"] for entry in evaluated(tmp_path / "with")] == [0, 1, 2, 3]
    folder = tmp_path / "with" / "evaluations" / "update-000003"
    assert sorted(path.name for path in folder.iterdir()) == ["0-puppet-Puppet", "1-puppet-Puppet"]
    reports = [
        json.loads((folder / name / "report.json").read_text()) for name in ("0-puppet-Puppet", "1-puppet-Puppet")
    ]
    entry = evaluated(tmp_path / "with")[2]
    assert entry["eval/episodes"] == entry["eval/episodes/puppet/Puppet"] == 8
    share = sum(report["success"]["value"] for report in reports) / 2
    assert entry["eval/success_rate"] == entry["eval/success_rate/puppet/Puppet"] == pytest.approx(share)
    seeds = {
        episode.seed for name in ("0-puppet-Puppet", "1-puppet-Puppet") for episode in EpisodeFolder(folder / name)
    }
    assert seeds == set(range(4)), "training's seeds are 2^32 and above"


def test_why_the_policy_fails_is_logged_as_curves(server: ServerProcess, clueless: VLM, tmp_path: Path) -> None:
    """A model of random weights writes no replies: its failures are due to form, and nothing else can be told."""
    save(clueless, tmp_path / "clueless")
    games = [{"id": f"gym_cards/{game}", "slots": 2, "options": {"size": 32, "max_turns": 4}} for game in GAMES]
    changes = {"envs": games, "updates": 1, "max_new_tokens": 2, "recipe": {"history": 2}}
    played = evaluation(every=1, episodes=4, slots=16, diagnose=True)
    config = run_settings(server, tmp_path / "run", tmp_path / "clueless", **changes, evaluation=played)
    train(config)
    (line,) = evaluated(config.run)
    for env in ("", *(f"/gym_cards/{game}" for game in GAMES)):
        shares = [line[f"eval/lost_{name}{env}"] for name in ("to_sight", "to_memory", "to_planning", "unexplained")]
        assert shares[:3] == [0, 0, 0]
        assert line[f"eval/lost_to_form{env}"] > 0
        assert line[f"eval/lost_to_form{env}"] + shares[3] == pytest.approx(1 - line[f"eval/success_rate{env}"])
    folder = config.run / "diagnoses" / "update-000001" / "0-gym_cards-NumberLine"
    assert json.loads((folder / "diagnosis.json").read_text())["model"] == "run@1"
    assert (folder / "diagnosis.html").exists()


def test_a_diagnosis_that_cannot_be_made_is_refused_before_the_run(
    server: ServerProcess, obedient_folder: Path, tmp_path: Path
) -> None:
    with ServerProcess(PUPPET, arguments=("--workers", "1", "--slots", "16")) as strict:
        settings = run_settings(strict, tmp_path / "run", obedient_folder, evaluation=evaluation(diagnose=True))
        with pytest.raises(SettingsError, match=r"evaluation\.diagnose needs the expert.*--allow-expert"):
            train(settings)
    assert not lines(tmp_path / "run")
    with pytest.raises(ValueError, match=r"evaluation\.diagnose goes with evaluations"):
        run_settings(server, tmp_path / "run", obedient_folder, evaluation={"diagnose": True})


def settled(server: ServerProcess, folder: Path, model: Path, **changes: Any) -> Any:
    """A run whose policy does not change, so that no evaluation is better than the first."""
    fields = {"envs": [PLAYED], "temperature": 0.1, "policy": {"minibatch": 8, "lr": 1e-12, "lr_end": 0}, "updates": 9}
    return run_settings(server, folder, model, **fields | {"checkpoint_every": 100} | changes)


def test_the_run_ends_when_its_patience_does(
    server: ServerProcess, obedient_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def patience(evaluations: int) -> dict[str, Any]:
        return evaluation(every=1, episodes=4, patience=evaluations)

    caplog.set_level("INFO")
    assert train(settled(server, tmp_path / "run", obedient_folder, evaluation=patience(2)))
    assert [entry["update"] for entry in evaluated(tmp_path / "run")] == [0, 1, 2]
    assert "no better (evaluation.patience)" in caplog.text
    found = [folder.name for folder in checkpoint.find(tmp_path / "run" / "checkpoints")]
    assert found == ["000001", "000002", "000003"], "each evaluated policy has a checkpoint"
    assert checkpoint.find_best(tmp_path / "run" / "checkpoints") == tmp_path / "run" / "checkpoints" / "000001"
    before = lines(tmp_path / "run")
    caplog.clear()
    assert train(settled(server, tmp_path / "run", obedient_folder, evaluation=patience(2)))
    assert "the run is finished" in caplog.text
    assert lines(tmp_path / "run") == before
    assert train(settled(server, tmp_path / "run", obedient_folder, evaluation=patience(3)))
    assert [entry["update"] for entry in evaluated(tmp_path / "run")] == [0, 1, 2, 3]


def test_which_episodes_are_played_stays(server: ServerProcess, obedient_folder: Path, tmp_path: Path) -> None:
    train(settled(server, tmp_path / "run", obedient_folder, updates=1))
    train(settled(server, tmp_path / "run", obedient_folder, updates=2, evaluation=evaluation(every=1, episodes=4)))
    with pytest.raises(SettingsError, match=r"evaluation\.episodes was 4, is 9"):
        train(settled(server, tmp_path / "run", obedient_folder, updates=3, evaluation=evaluation(every=1)))


def test_the_best_checkpoint_is_the_one_with_most_successes(server: ServerProcess, tmp_path: Path) -> None:
    """A policy that learns to choose right: its first evaluation is worse than its best."""
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
        evaluation=evaluation(episodes=60, slots=16),
    )
    train(config)
    scores = {
        entry["update"] + 1: (entry["eval/success_rate"], entry["eval/return"]) for entry in evaluated(config.run)
    }
    assert list(scores) == [2, 4, 6, 8]
    assert len(set(scores.values())) > 1
    best = checkpoint.find_best(config.run / "checkpoints")
    assert best is not None
    assert int(best.name) == max(scores, key=lambda update: scores[update]) > 2


def test_an_evaluation_that_sigterm_broke_off_is_made_by_the_resumed_run(
    server: ServerProcess, obedient_folder: Path, tmp_path: Path
) -> None:
    changes: dict[str, Any] = {
        "envs": [PLAYED], "updates": 3, "checkpoint_every": 100, "evaluation": evaluation(episodes=16, slots=2),
    }  # fmt: skip
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(run_fields(server, tmp_path / "run", obedient_folder, **changes)))
    process = WarmProcess("overworld_trainer", str(path))
    folder = tmp_path / "run" / "evaluations" / "update-000002"
    deadline = time.monotonic() + 60
    while not ((folder / "episodes.jsonl").exists() and EpisodeFolder(folder).count()):
        assert process.poll() is None, "it ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143
    assert not (folder / "report.json").exists()
    assert evaluated(tmp_path / "run") == []
    assert checkpoint.find_best(tmp_path / "run" / "checkpoints") is None
    train(run_settings(server, tmp_path / "run", obedient_folder, **changes))
    train(run_settings(server, tmp_path / "other" / "run", obedient_folder, **changes))
    assert contents(folder) == contents(tmp_path / "other" / "run" / "evaluations" / "update-000002")
    assert numbers(tmp_path / "run") == numbers(tmp_path / "other" / "run")
    assert len(evaluated(tmp_path / "run")) == 1


@pytest.fixture
def small() -> Iterator[ServerProcess]:
    with ServerProcess(PUPPET, CHOICE, arguments=("--workers", "1", "--slots", "6")) as server:
        yield server


def test_no_room_for_an_evaluation_is_said_at_the_start(
    small: ServerProcess, obedient_folder: Path, tmp_path: Path
) -> None:
    fields = {"evaluation": evaluation(every=100), "retry_budget": 0.1}
    with pytest.raises(SettingsError, match=r"4 slots of puppet/Puppet .* lower evaluation\.slots"):
        train(settled(small, tmp_path / "run", obedient_folder, **fields))
    with Fleet([small.address], "puppet/Puppet", 6):
        pass  # and all slots are free again
    assert lines(tmp_path / "run") == []
