"""A run's folder: what is written, what is found again, what is refused."""

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Never

import pytest
import torch
import yaml
from overworld.errors import SettingsError
from overworld_trainer.config import TrainerConfig
from overworld_trainer.episodes import PlayerState
from overworld_trainer.learner import Learner
from overworld_trainer.policy import _with_new_adapter, load_policy
from overworld_trainer.reference import Reference, score_all
from overworld_trainer.run import Run, TrainerState, read_state, restore_learner
from overworld_trainer.train import _spent
from overworld_vlm import checkpoint
from overworld_vlm.load import VLM, ModelError, save
from torch import Tensor

from tests.support.learning import make_learner, make_samples, moved, settings, weights
from tests.support.optional import present
from tests.support.tiny_vlm import make_vlm

SLOTS: list[PlayerState] = [{"episode": 2, "actions": ["up", None], "reward": 0.1 + 0.2}]
GUARD = {"clipped": 1, "invalid": 0, "valid_at_start": 1 / 3, "warned": ["critic"]}


def state_after(update: int) -> TrainerState:
    return TrainerState(update=update, env_steps=update * 32, max_logprob_error=1e-6, slots=SLOTS, guard=GUARD)


def trained(vlm: VLM, config: TrainerConfig, updates: int = 2) -> Learner:
    """A learner that has learnt something."""
    learner = make_learner(vlm, config)
    samples = make_samples(vlm, noise=0.3)
    for update in range(updates):
        learner.update(samples, update)
    return learner


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run with the checkpoints 0, 2, 4 and 6 of a whole model; the last two can be resumed."""
    run = Run.open(settings(run=tmp_path / "run"))
    run.save(make_vlm(), TrainerState(), {"toy/Count": {"rules": "toy 1"}}, used_expert=True)
    vlm = make_vlm()
    learner = trained(vlm, run.config)
    for update in (2, 4, 6):
        run.save(vlm, state_after(update), {"toy/Count": {"rules": "toy 1"}}, learner)
    return run


def test_progress_comes_back_to_the_digit(run: Run) -> None:
    assert read_state(present(run.latest())) == state_after(6)


def test_the_learner_comes_back_to_the_bit_and_goes_on_alike(run: Run) -> None:
    ours, theirs = make_vlm(), make_vlm(5)
    before = trained(ours, run.config)
    theirs.model.load_state_dict(ours.model.state_dict())
    after = make_learner(theirs, run.config, seed=9)
    restore_learner(run.checkpoint(6), after)
    samples = make_samples(make_vlm(), noise=0.3)
    assert before.update(samples, 2) == after.update(samples, 2)
    assert moved(weights(ours.model), theirs.model) == set()
    assert moved(weights(before.critic), after.critic) == set()


def test_in_bf16_the_masters_come_back_and_the_run_goes_on_alike(tmp_path: Path) -> None:
    """The weights alone would have lost what the masters hold between two of their values."""
    config = settings(run=tmp_path / "run", model={"dtype": "bfloat16"}, policy={"lr": 1e-5})
    run = Run.open(config)
    run.save(make_vlm(), TrainerState(), {})
    ours, _ = load_policy(run, None)
    before = trained(ours, run.config)
    run.save(ours, state_after(2), {}, before)
    theirs, reference = load_policy(run, run.latest())
    after = make_learner(theirs, run.config, seed=9)
    restore_learner(run.checkpoint(2), after)
    assert all(map(torch.equal, before.policy_optimizer.masters, after.policy_optimizer.masters))
    samples = make_samples(make_vlm(), noise=0.3)
    assert before.update(samples, 2) == after.update(samples, 2)
    assert moved(weights(ours.model), theirs.model) == set()
    assert all(map(torch.equal, before.policy_optimizer.masters, after.policy_optimizer.masters))
    assert equal(reference.score(samples.steps, run.config), logps(load_policy(run, None)[0], run.config))


def test_a_checkpoint_says_where_it_comes_from(run: Run) -> None:
    manifest = checkpoint.read(run.checkpoint(4))
    assert (manifest.run, manifest.update, manifest.env_steps) == ("run", 4, 128)
    assert (manifest.kind, manifest.base, manifest.used_expert) == ("model", None, True)
    assert manifest.recipe == {"history": 1, "reply": "thoughts+action", "turns_left": False, "chat": None}
    assert manifest.config == run.config.model_dump(mode="json")
    assert manifest.provenance == {"toy/Count": {"rules": "toy 1"}}


def test_only_the_last_checkpoints_keep_what_resuming_needs(run: Run) -> None:
    assert [path.name for path in checkpoint.find(run.checkpoints)] == ["000000", "000002", "000004", "000006"]
    kept = [(path / "trainer").exists() for path in checkpoint.find(run.checkpoints)]
    assert kept == [False, False, True, True]
    for path in checkpoint.find(run.checkpoints):
        checkpoint.load_checkpoint(path)
        assert not list(path.glob(".*"))


def saved_again(folder: Path, updates: range, **changes: Any) -> Run:
    """A run with a start and checkpoints after `updates`."""
    run = Run.open(settings(run=folder, **changes))
    vlm = make_vlm()
    if not run.has_start:
        run.save(vlm, TrainerState(), {})
    learner = trained(vlm, run.config, 1)
    for update in updates:
        run.save(vlm, state_after(update), {}, learner)
    return run


def names(run: Run) -> list[str]:
    return sorted(path.name for path in run.checkpoints.iterdir() if path.is_dir())


def test_keep_weights_removes_old_checkpoints_but_the_start_and_the_best(tmp_path: Path) -> None:
    run = saved_again(tmp_path / "run", range(2, 10, 2), keep_weights=3)
    assert names(run) == ["000000", "000004", "000006", "000008"]
    checkpoint.mark_best(run.checkpoints, "000006")
    again = saved_again(tmp_path / "run", range(10, 16, 2), keep_weights=3)  # as after a restart
    assert names(again) == ["000000", "000006", "000010", "000012", "000014"]
    assert [path.name for path in checkpoint.find(run.checkpoints) if (path / "trainer").exists()] == [
        "000012",
        "000014",
    ]
    checkpoint.mark_best(run.checkpoints, "000014")
    again = saved_again(tmp_path / "run", range(16, 18), keep_weights=3)
    assert names(again) == ["000000", "000014", "000016", "000017"]
    for path in checkpoint.find(run.checkpoints):
        checkpoint.load_checkpoint(path)


def test_a_crash_while_removing_a_checkpoint_leaves_no_damaged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = saved_again(tmp_path / "run", range(1, 4), keep_weights=3)

    def killed(path: Path, **_: Any) -> None:
        if path.exists() and "pruned" in path.name and "trainer" not in path.name:
            (path / "manifest.json").unlink()
            raise KeyboardInterrupt
        shutil_rmtree(path, ignore_errors=True)

    shutil_rmtree = shutil.rmtree
    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        saved_again(tmp_path / "run", range(4, 5), keep_weights=3)
    monkeypatch.undo()
    assert run.latest() == run.checkpoint(4)
    assert ".000001.pruned" in names(run)
    saved_again(tmp_path / "run", range(5, 6), keep_weights=3)
    assert names(run) == ["000000", "000003", "000004", "000005"]


def test_saving_does_not_search_the_folder_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long run has thousands of checkpoints."""
    find, searches = checkpoint.find, []

    def noted(root: Path) -> Iterator[Path]:
        searches.append(root)
        return find(root)

    monkeypatch.setattr(checkpoint, "find", noted)
    for changes in ({}, {"keep_weights": 2}):
        searches.clear()
        saved_again(tmp_path / str(changes), range(1, 6), **changes)
        assert len(searches) == 1


def test_a_crash_while_pruning_damages_no_checkpoint(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    rmtree = shutil.rmtree

    def killed_halfway(path: Path, **arguments: Any) -> None:
        if "trainer" not in path.name:
            return rmtree(path, **arguments)
        (path / "state.json").unlink()
        raise KeyboardInterrupt

    vlm = make_vlm()
    learner = make_learner(vlm, run.config)
    monkeypatch.setattr(shutil, "rmtree", killed_halfway)
    with pytest.raises(KeyboardInterrupt):
        run.save(vlm, TrainerState(update=8), {}, learner)
    for path in checkpoint.find(run.checkpoints):
        checkpoint.load_checkpoint(path)
    assert run.latest() == run.checkpoint(8)


@pytest.mark.parametrize("damage", ["weights/model.safetensors", "trainer/state.json", "critic.safetensors"])
def test_a_damaged_newest_checkpoint_is_passed_over_with_a_warning(
    run: Run, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    path = run.checkpoint(6) / damage
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert run.latest() == run.checkpoint(4)
    assert damage in caplog.text
    assert "000006" in caplog.text


def test_without_a_checkpoint_to_resume_from_a_run_begins_anew(run: Run) -> None:
    for path in checkpoint.find(run.checkpoints):
        shutil.rmtree(path / "trainer", ignore_errors=True)
    assert run.latest() is None
    assert run.has_start


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": 1}, "seed was 0, is 1"),
        ({"gamma": 0.5}, "gamma was 0.99, is 0.5"),
        ({"policy": {"lr": 0.5}}, "policy was"),
        ({"envs": [{"id": "toy/Count", "slots": 4}]}, "envs was"),
        ({"model": {"lora": {"r": 4}}}, r"model\.lora was None, is {"),
    ],
)
def test_other_settings_are_refused_by_name(run: Run, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words) as caught:
        Run.open(settings(run=run.folder, **changes))
    assert "another folder" in str(caught.value)
    assert yaml.safe_load((run.folder / "config.yaml").read_text())["seed"] == 0


def test_a_run_that_came_to_nothing_may_begin_anew_with_other_settings(tmp_path: Path) -> None:
    """As after a typo in an env's name."""
    Run.open(settings(run=tmp_path / "run", seed=1))
    Run.open(settings(run=tmp_path / "run", seed=2))
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["seed"] == 2


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match=r"cannot be written by user \d+ \(Not a directory\); mount"):
        Run.open(settings(run=tmp_path / "file" / "run"))


def test_what_does_not_change_the_numbers_may_be_changed(run: Run) -> None:
    changes = {
        "updates": 50, "checkpoint_every": 3, "checkpoint_minutes": 1, "keep_checkpoints": 1, "keep_weights": 1,
        "servers": "10.0.0.1:5", "token": "secret", "tls": "/tls", "threads": 2, "retry_budget": 5.0,
        "metrics_host": "0.0.0.0", "metrics_port": 9464, "max_batch": 7,
        "model": {"batch_tokens": 99, "gradient_checkpointing": True, "vision_memory": 0, "cuda_graphs": True},
    }  # fmt: skip
    assert Run.open(settings(run=run.folder, **changes)).latest() == run.checkpoint(6)
    assert "secret" not in (run.folder / "config.yaml").read_text()


def test_more_updates_leave_the_learning_rate_where_the_schedule_ended(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    """The run began with 5 updates."""
    with caplog.at_level(logging.INFO):
        again = Run.open(settings(run=run.folder, updates=5))
    assert not caplog.records
    before = [make_learner(make_vlm(), run.config).learning_rate(update) for update in range(5)]
    for updates in (50, 60):  # the second time too, when the folder holds the changed settings
        with caplog.at_level(logging.INFO):
            again = Run.open(settings(run=run.folder, updates=updates))
        rates = [make_learner(make_vlm(), again.config).learning_rate(update) for update in range(50)]
        assert rates[:5] == before
        assert rates[5:] == [pytest.approx(1e-7)] * 45
        assert (again.config.updates, again.config.policy.lr_updates) == (updates, 5)
        assert "schedule of 5 updates" in caplog.text
        assert "from update 5 on it is 1e-07" in caplog.text


def test_another_schedule_is_another_run(run: Run) -> None:
    Run.open(settings(run=run.folder, policy={"lr_updates": 5}))
    with pytest.raises(SettingsError, match=r"policy was .*'lr_updates': 5.*'lr_updates': 50"):
        Run.open(settings(run=run.folder, updates=50, policy={"lr_updates": 50}))


def test_a_run_goes_on_where_its_folder_was_moved_to(run: Run, tmp_path: Path) -> None:
    run.folder.rename(tmp_path / "elsewhere")
    assert present(Run.open(settings(run=tmp_path / "elsewhere")).latest()).name == "000006"


def test_settings_are_written_whole_or_not_at_all(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a crash at that moment would leave a run that cannot be resumed."""
    before = (run.folder / "config.yaml").read_text()

    def killed(*_: object, **__: object) -> Never:
        raise KeyboardInterrupt

    monkeypatch.setattr("pathlib.Path.rename", killed)
    with pytest.raises(KeyboardInterrupt):
        Run.open(settings(run=run.folder, updates=50))
    assert (run.folder / "config.yaml").read_text() == before


def logps(vlm: VLM, config: TrainerConfig) -> list[Tensor]:
    return score_all(vlm, make_samples(make_vlm()).steps, config)


def equal(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return all(torch.allclose(one, other, atol=1e-6) for one, other in zip(ours, theirs, strict=True))


def test_a_whole_model_is_trained_from_the_start_and_compared_with_it(run: Run) -> None:
    config = run.config
    vlm, reference = load_policy(run, None)
    steps = make_samples(make_vlm()).steps
    assert equal(logps(vlm, config), logps(make_vlm(), config))
    assert equal(reference.score(steps, config), logps(make_vlm(), config))
    make_learner(vlm, config).update(make_samples(vlm, noise=0.3), 0)
    assert not equal(logps(vlm, config), logps(make_vlm(), config))
    assert equal(reference.score(steps, config), logps(make_vlm(), config))
    assert all(parameter.requires_grad for parameter in vlm.model.parameters())


def test_a_resumed_model_is_the_checkpoints_and_its_reference_still_the_start(run: Run) -> None:
    config = run.config
    vlm, reference = load_policy(run, run.checkpoint(6))
    saved, _ = checkpoint.load_checkpoint(run.checkpoint(6))
    assert moved(weights(saved.model), vlm.model) == set()
    assert not equal(logps(vlm, config), logps(make_vlm(), config))
    assert equal(reference.score(make_samples(make_vlm()).steps, config), logps(make_vlm(), config))


@pytest.fixture
def adapted(tmp_path: Path) -> Run:
    """A run that trains an adapter to a cloned start, with the checkpoints 0 and 2."""
    run = Run.open(settings(run=tmp_path / "adapted", model={"lora": {"r": 2, "alpha": 4}}))
    run.save(make_vlm(), TrainerState(), {})
    vlm, _ = load_policy(run, None)
    run.save(vlm, state_after(2), {}, trained(vlm, run.config))
    return run


def test_an_adapters_reference_is_the_model_with_the_adapter_off(adapted: Run) -> None:
    config = adapted.config
    vlm, reference = load_policy(adapted, adapted.checkpoint(2))
    steps = make_samples(make_vlm()).steps
    assert not equal(logps(vlm, config), logps(make_vlm(), config))
    assert equal(reference.score(steps, config), logps(make_vlm(), config))
    assert not equal(logps(vlm, config), logps(make_vlm(), config))  # it is on again afterwards
    assert {name for name, parameter in vlm.model.named_parameters() if parameter.requires_grad} == {
        name for name, _ in vlm.model.named_parameters() if "lora_" in name
    }


def test_a_resumed_adapter_learns_on_alike(adapted: Run) -> None:
    config = adapted.config
    ours, _ = load_policy(adapted, None)
    before = trained(ours, config)
    theirs, _ = load_policy(adapted, adapted.checkpoint(2))
    assert moved(weights(ours.model), theirs.model) == set()
    after = make_learner(theirs, config)
    restore_learner(adapted.checkpoint(2), after)
    samples = make_samples(make_vlm(), noise=0.3)
    assert before.update(samples, 2) == after.update(samples, 2)
    assert moved(weights(ours.model), theirs.model) == set()


def test_a_changed_start_is_refused(adapted: Run, run: Run) -> None:
    for one in (adapted, run):
        path = one.start / "weights" / "model.safetensors"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        with pytest.raises(ModelError, match=r"000000 is damaged: weights/model\.safetensors"):
            load_policy(one, one.latest())


def test_an_adapter_of_another_base_is_refused(adapted: Run, tmp_path: Path) -> None:
    save(make_vlm(), tmp_path / "same weights, other place")
    path = adapted.checkpoint(2) / "manifest.json"
    content = json.loads(path.read_text())
    content["base"]["path"] = str(tmp_path / "same weights, other place")
    path.write_text(json.dumps(content))
    with pytest.raises(ModelError, match="another base model"):
        load_policy(adapted, adapted.checkpoint(2))


def test_a_model_without_an_adapter_needs_a_frozen_reference() -> None:
    vlm = make_vlm()
    with pytest.raises(ValueError, match="frozen"):
        Reference(vlm)
    Reference(_with_new_adapter(vlm, present(settings(model={"lora": {}}).model.lora), 0))


@pytest.mark.parametrize("batch_tokens", [1, 300, 16_384])
def test_scores_come_in_the_order_of_the_steps(vlm: VLM, batch_tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vlm, "batch_tokens", batch_tokens)
    """They are computed in batches of similar length."""
    samples = make_samples(vlm, temperature=0.7)
    config = settings(temperature=0.7)
    assert equal(score_all(vlm, samples.steps, config), [step.logps for step in samples.steps])


def test_a_run_that_begins_at_anothers_clone_knows_that_expert_advice_went_into_it(run: Run, tmp_path: Path) -> None:
    model = {"path": str(run.start / "weights")}
    other = Run.open(settings(run=tmp_path / "other", model=model, clone={"updates": 0}))
    vlm = make_vlm()
    folder = other.save(vlm, state_after(2), {"toy/Count": {"rules": "toy 1"}}, trained(vlm, other.config))
    assert checkpoint.read(folder).used_expert


def test_a_run_is_over_after_its_updates_or_its_env_steps() -> None:
    config = settings(updates=5, max_env_steps=100)
    assert not _spent(config, TrainerState(update=4, env_steps=99))
    assert _spent(config, TrainerState(update=4, env_steps=100))
    assert _spent(config, TrainerState(update=5, env_steps=3))
    assert not _spent(settings(updates=5), TrainerState(update=4, env_steps=10**9))
