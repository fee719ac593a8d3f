"""Settings: files, arguments and environment, and what is refused."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from overworld.errors import SettingsError
from overworld_trainer.config import TrainerConfig
from pydantic import ValidationError

GOOD: dict[str, Any] = {"run": "runs/one", "envs": [{"id": "toy/Count"}], "clone": {"updates": 3}}


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OVERWORLD_TOKEN", "OVERWORLD_SEED"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(GOOD))
    return str(path)


def test_a_diagnosis_of_an_agent_that_sees_nothing_is_refused(file: str) -> None:
    with pytest.raises(SettingsError, match="blank_frames"):
        TrainerConfig.load([file, "blank_frames=true", "evaluation.diagnose=true"])
    assert TrainerConfig.load([file, "blank_frames=true"]).blank_frames


def test_later_sources_override_earlier_ones(file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "more.yaml"
    other.write_text("seed: 2\npolicy: {lr: 0.5, epochs: 7}\n")
    config = TrainerConfig.load([file, str(other), "policy.lr=0.25", "envs.0.slots=8", "envs.0.options={size: 56}"])
    assert (config.seed, config.policy.lr, config.policy.epochs, config.policy.minibatch) == (2, 0.25, 7, 128)
    assert (config.envs[0].slots, config.envs[0].options) == (8, {"size": 56})
    monkeypatch.setenv("OVERWORLD_POLICY__LR", "0.125")
    monkeypatch.setenv("OVERWORLD_SEED", "3")
    config = TrainerConfig.load([file, str(other)])
    assert (config.seed, config.policy.lr, config.policy.epochs) == (3, 0.125, 7)
    config = TrainerConfig.load([file, "--policy.lr", "0.0625", str(other)])
    assert (config.seed, config.policy.lr, config.policy.epochs) == (3, 0.0625, 7)


def test_defaults_are_those_of_the_specification(file: str) -> None:
    config = TrainerConfig.load([file])
    assert (config.temperature, config.time_limit, config.kl.kind, config.kl.beta) == (
        1.0,
        "bootstrap",
        "k3_loss",
        0.05,
    )
    assert (config.critic.input, config.critic.clip, config.critic.epochs) == ("last_prompt_token", None, 4)
    assert (config.critic.stop_gradient, config.critic.warmup_updates) == (True, 2)
    assert (config.critic.coefficient, config.critic.warmup_epochs) == (1.0, 40)
    assert config.critic.layers == (3072, 2048)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"gamma": 1.0}, "gamma = 1"),
        ({"gamma": 1.01}, "gamma"),
        ({"gamma": 0}, "gamma"),
        ({"lam": 1.1}, "lam"),
        ({"time_limit": "penalty"}, "turns_left"),
        ({"time_limit": "never"}, "time_limit"),
        ({"clone": {"updates": 0}}, "clone.updates"),
        ({"clone": {"updates": 3, "random_actions": 1.5}}, "random_actions"),
        ({"envs": []}, "envs"),
        ({"envs": [{"id": "toy/Count", "slots": 1}]}, "slots"),
        ({"envs": [{"id": "toy/Count", "weight": 0}]}, "weight"),
        ({"envs": [{}]}, "envs.0.id"),
        ({"seed": -1}, "seed"),
        ({"updates": 0}, "updates"),
        ({"rollout_steps": 0}, "rollout_steps"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"temperature": 0}, "temperature"),
        ({"keep_checkpoints": 0}, "keep_checkpoints"),
        ({"keep_checkpoints": 3, "keep_weights": 2}, "keep_weights = 2 is less than keep_checkpoints = 3"),
        ({"checkpoint_minutes": 0}, "checkpoint_minutes"),
        ({"policy": {"lr": 0}}, "policy.lr"),
        ({"policy": {"clip": 1.0}}, "policy.clip"),
        ({"policy": {"epochs": 0}}, "policy.epochs"),
        ({"kl": {"kind": "k4"}}, "kl.kind"),
        ({"kl": {"beta": -0.1}}, "kl.beta"),
        ({"critic": {"clip": 0}}, "critic.clip"),
        ({"critic": {"warmup_updates": -1}}, "warmup_updates"),
        ({"critic": {"warmup_epochs": 0}}, "warmup_epochs"),
        ({"critic": {"coefficient": 0}}, "critic.coefficient"),
        ({"algorithm": "bilevel_gae", "critic": {"stop_gradient": False}}, "a value for each token"),
        ({"max_env_steps": 0}, "max_env_steps"),
        ({"policy": {"lr_updates": 0}}, "lr_updates"),
        ({"policy": {"dual_clip": 1.0}}, "dual_clip"),
        ({"critic": {"input": "last_token"}}, "critic.input"),
        ({"model": {"dtype": "float16"}}, "model.dtype"),
        ({"model": {"lora": {"r": 0}}}, "lora.r"),
        ({"model": {"lora": {"dropout": 0.1}}}, "lora.dropout"),
        ({"model": {"tiny": {"vocab_size": 100}}}, "vocab_size"),
        ({"recipe": {"history": 0}}, "recipe.history"),
        ({"polcy": {"lr": 1}}, "polcy"),
        ({"policy": {"learning_rate": 1}}, "policy.learning_rate"),
        ({"envs": [{"id": "toy/Count", "slot": 4}]}, "envs.0.slot"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(changes: dict[str, Any], word: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(GOOD | changes))
    with pytest.raises(SettingsError, match=word.replace(".", r"\.")):
        TrainerConfig.load([str(path)])


@pytest.mark.parametrize(
    "changes",
    [
        {"gamma": 1.0, "time_limit": "penalty", "recipe": {"turns_left": True}},
        {"clone": {"updates": 0}, "model": {"path": "models/mine"}},
        {"kl": {"kind": "none", "beta": 0}},
    ],
)
def test_their_remedies_are_taken(changes: dict[str, Any]) -> None:
    TrainerConfig(**(GOOD | changes))


@pytest.mark.parametrize("key", ["run", "envs"])
def test_what_has_no_default_must_be_given(key: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({name: value for name, value in GOOD.items() if name != key}))
    with pytest.raises(SettingsError, match=key):
        TrainerConfig.load([str(path)])


@pytest.mark.parametrize("argument", ["envs.1.slots=8", "envs.first.slots=8", "envs.-1.slots=8"])
def test_an_index_that_is_none_is_refused(file: str, argument: str) -> None:
    with pytest.raises(SettingsError, match="the list has the entries 0 to 0"):
        TrainerConfig.load([file, argument])


@pytest.mark.parametrize("argument", ["nothing.yaml", "seed=[", "seed.x.y=1=2", "--unknown"])
def test_arguments_that_are_none_are_refused(file: str, argument: str) -> None:
    with pytest.raises(SettingsError):
        TrainerConfig.load([file, "seed=1", argument])


def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("- 1\n")
    with pytest.raises(SettingsError, match="must hold settings by name"):
        TrainerConfig.load([str(tmp_path / "run.yaml")])


def test_several_mistakes_are_all_named(file: str) -> None:
    with pytest.raises(SettingsError, match=r"gamma: .*; policy\.lr: "):
        TrainerConfig.load([file, "gamma=2", "policy.lr=-1"])


def test_settings_cannot_change_afterwards() -> None:
    config = TrainerConfig(**GOOD)
    with pytest.raises(ValidationError):
        config.seed = 1
    with pytest.raises(ValidationError):
        config.policy.lr = 1.0


def test_the_token_is_in_no_print_and_no_dump(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVERWORLD_TOKEN", "very-secret")
    config = TrainerConfig(**GOOD)
    assert config.token == "very-secret"
    assert "very-secret" not in repr(config) + str(config.model_dump()) + config.model_dump_json()


def test_print_config_prints_what_comes_out_and_trains_nothing(file: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "overworld_trainer", file, "seed=5", f"run={tmp_path / 'r'}", "--print-config"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True)
    content = yaml.safe_load(printed.stdout)
    assert (content["seed"], content["policy"]["lr"], content["envs"][0]["slots"]) == (5, 5e-5, 16)
    assert not (tmp_path / "r").exists()
    (tmp_path / "again.yaml").write_text(printed.stdout)
    assert TrainerConfig.load([str(tmp_path / "again.yaml")]).model_dump(mode="json") == content


def test_groups_take_slots_that_can_be_shared_out_evenly() -> None:
    envs = [{"id": "toy/A", "slots": 8}, {"id": "toy/B", "slots": 6}]

    def configured(**changes: Any) -> TrainerConfig:
        return TrainerConfig(**GOOD | {"group_size": 4, "envs": envs} | changes)

    with pytest.raises(ValidationError, match=r"toy/B has 6: give it a multiple"):
        configured(algorithm="grpo")
    config = configured(algorithm="reward_to_go", gamma=1)
    assert (config.slots_per_task, config.steps_per_slot, config.warmup_updates) == (1, None, 0)
    config = configured(algorithm="grpo", envs=envs[:1])
    assert (config.slots_per_task, config.steps_per_slot, config.warmup_updates) == (4, None, 0)
    config = configured()
    assert (config.algorithm, config.slots_per_task, config.steps_per_slot) == ("vl_dac", 1, 8)
    with pytest.raises(ValidationError, match="algorithm"):
        configured(algorithm="ppo")
