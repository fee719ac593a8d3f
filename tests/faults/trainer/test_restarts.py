"""Runs that are killed and started again, checkpoints that are damaged, env servers that go away: the same numbers."""

import logging
import os
import pkgutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from overworld import ServerLostError
from overworld.host.process import ServerProcess
from overworld_trainer.config import TrainerConfig
from overworld_trainer.train import train

from tests.support.scripted_env import CHOICE, PUPPET
from tests.support.scripted_model import (
    copy_run,
    ledger,
    lines,
    numbers,
    obedient_folder,
    progress,
    run_fields,
    run_settings,
    tensors,
)
from tests.support.warm import WarmProcess

ARGUMENTS = ("--workers", "2", "--slots", "64", "--allow-expert")
UPDATES = 5
ADAPTER = {
    "envs": [{"id": "puppet/Choice", "slots": 4}],
    "clone": {"updates": 30, "lr": 5e-3},
    "recipe": {"reply": "action"},
    "temperature": 1.0,
}
"""A run that clones, then trains an adapter."""


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess(PUPPET, CHOICE, arguments=ARGUMENTS) as server:
        yield server


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return obedient_folder(tmp_path_factory)


@pytest.fixture(autouse=True)
def sigterm() -> Iterator[None]:
    """Training takes over SIGTERM; it is given back."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture(scope="module")
def kinds(model: Path) -> dict[str, dict[str, Any]]:
    """What is trained: a whole model, or an adapter to a cloned one."""
    lora = {"tiny": {"hidden_size": 32, "intermediate_size": 64, "vision_layers": 1, "vocab_size": 340}}
    return {"model": {}, "adapter": ADAPTER | {"model": lora | {"lora": {"r": 4, "alpha": 8}}}}


@pytest.fixture(scope="module")
def undisturbed(
    server: ServerProcess, model: Path, kinds: dict[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Folders of runs that nothing happened to."""
    folders = {}
    for name, changes in kinds.items():
        folders[name] = tmp_path_factory.mktemp("runs") / name
        train(run_settings(server, folders[name], model, updates=UPDATES, keep_checkpoints=3, **changes))
    return folders


def same(folder: Path, expected: Path) -> None:
    """Whether a run came to the same numbers, weights, optimizers and open episodes, and its ledger balances."""
    assert numbers(folder) == numbers(expected)
    assert len(numbers(folder)) == UPDATES
    assert tensors(folder, UPDATES) == tensors(expected, UPDATES)
    assert len(tensors(folder, UPDATES)) == 3
    assert progress(folder, UPDATES) == progress(expected, UPDATES)
    assert {entry["update"] for entry in ledger(folder)} == set(range(UPDATES))
    assert all(entry["balanced"] and entry["samples"] and not entry["fabricated"] for entry in ledger(folder))


class Command:
    """`python -m overworld_trainer` on a run, in a process of its own."""

    def __init__(self, tmp_path: Path, fields: dict[str, Any]) -> None:
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(fields))
        self.folder = tmp_path / "run"
        self.process = WarmProcess("overworld_trainer", str(path), log=tmp_path / "log")

    def wait_for(self, updates: int) -> None:
        deadline = time.monotonic() + 60
        while len(lines(self.folder)) < updates:
            assert self.process.poll() is None, "it ended too early"
            assert time.monotonic() < deadline
            time.sleep(0.002)

    def end_by(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)


@pytest.mark.parametrize(("kind", "after"), [("model", 1), ("model", 3), ("adapter", 3)])
def test_a_run_that_is_killed_goes_on_to_the_same_numbers(
    server: ServerProcess,
    model: Path,
    kinds: dict[str, dict[str, Any]],
    undisturbed: dict[str, Path],
    tmp_path: Path,
    kind: str,
    after: int,
) -> None:
    """After one update there is no checkpoint yet; after three the third one's metrics are written again."""
    fields = run_fields(server, tmp_path / "run", model, updates=UPDATES, **kinds[kind])
    command = Command(tmp_path, fields)
    command.wait_for(after)
    assert command.end_by(signal.SIGKILL) == -signal.SIGKILL
    assert after <= len(lines(tmp_path / "run")) < UPDATES
    assert (tmp_path / "run" / "checkpoints" / "000002").exists() == (after == 3)
    if kind == "adapter":
        command = Command(tmp_path, fields)
        assert command.process.wait(60) == 0
        assert "resuming from" in (tmp_path / "log").read_text()
    else:
        train(run_settings(server, tmp_path / "run", model, updates=UPDATES))
    same(tmp_path / "run", undisturbed[kind])


def test_sigterm_ends_a_run_so_that_it_can_go_on(
    server: ServerProcess, model: Path, undisturbed: dict[str, Path], tmp_path: Path
) -> None:
    command = Command(tmp_path, run_fields(server, tmp_path / "run", model, updates=UPDATES, checkpoint_every=100))
    command.wait_for(1)
    assert command.end_by(signal.SIGTERM) == 143
    done = len(lines(tmp_path / "run"))
    assert 1 <= done < UPDATES
    assert progress(tmp_path / "run", done)["update"] == done
    train(run_settings(server, tmp_path / "run", model, updates=UPDATES))
    same(tmp_path / "run", undisturbed["model"])


PLACES = {
    "decoding": ("overworld_vlm.engine.Engine.step", 2),
    "scoring": ("overworld_trainer.reference.score", 1),
    "fitting the critic": ("overworld_trainer.learner.value_loss", 2),
    "improving the policy": ("overworld_trainer.learner.policy_loss", 2),
}
"""What is called, and which of its calls gets the signal."""


@pytest.mark.parametrize("kind", ["model", "adapter"])
@pytest.mark.parametrize("place", PLACES)
def test_an_update_is_thrown_away_wherever_sigterm_finds_it(
    server: ServerProcess,
    model: Path,
    kinds: dict[str, dict[str, Any]],
    undisturbed: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    kind: str,
) -> None:
    """In the fourth update, in which optimizers have made steps by then; the newest checkpoint is the second's."""
    folder = tmp_path / "run"
    settings = run_settings(server, folder, model, updates=UPDATES, **kinds[kind])
    copy_run(undisturbed[kind], folder, 2)
    path, number = PLACES[place]
    module, _, name = path.rpartition(".")
    holder = pkgutil.resolve_name(module)
    original, calls = getattr(holder, name), 0

    def noted(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        if len(lines(folder)) == 3:
            calls += 1
            if calls == number:
                os.kill(os.getpid(), signal.SIGTERM)
        assert calls <= number, "it went on"
        return original(*arguments, **named)

    monkeypatch.setattr(holder, name, noted)
    assert not train(settings)
    monkeypatch.undo()
    assert calls == number
    assert len(lines(folder)) == progress(folder, 3)["update"] == 3
    assert train(settings)
    same(folder, undisturbed[kind])


def test_sigterm_does_not_wait_for_an_update_that_takes_long(
    server: ServerProcess, model: Path, tmp_path: Path
) -> None:
    policy = {"epochs": 100_000, "minibatch": 8, "lr": 1e-9}
    command = Command(tmp_path, run_fields(server, tmp_path / "run", model, policy=policy, checkpoint_every=100))
    command.wait_for(1)  # the warm-up; the next update would take hours
    time.sleep(2)
    began = time.monotonic()
    assert command.end_by(signal.SIGTERM) == 143
    assert time.monotonic() - began < 60
    assert progress(tmp_path / "run", 1)["update"] == 1
    assert "update 1 is thrown away" in (tmp_path / "log").read_text()


@pytest.mark.parametrize("file", ["weights/model.safetensors", "trainer/optimizers.safetensors", "manifest.json"])
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(
    server: ServerProcess,
    model: Path,
    undisturbed: dict[str, Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    file: str,
) -> None:
    copy_run(undisturbed["model"], tmp_path / "run", 4)
    path = tmp_path / "run" / "checkpoints" / "000004" / file
    os.truncate(path, path.stat().st_size - 10)
    with caplog.at_level(logging.INFO):
        train(run_settings(server, tmp_path / "run", model, updates=UPDATES))
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert any("000004" in message and file in message for message in said)
    assert any("resuming from" in record.getMessage() and "000002" in record.getMessage() for record in caplog.records)
    same(tmp_path / "run", undisturbed["model"])


def in_thread(settings: TrainerConfig) -> tuple[threading.Thread, list[BaseException]]:
    """Trains in a thread; the thread and what it raises."""
    failures = []

    def run() -> None:
        try:
            train(settings)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, failures


def wait_for(folder: Path, updates: int, thread: threading.Thread) -> None:
    deadline = time.monotonic() + 60
    while len(lines(folder)) < updates and thread.is_alive():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_an_env_server_that_is_killed_and_comes_back_changes_no_number(
    model: Path, undisturbed: dict[str, Path], tmp_path: Path
) -> None:
    """It is killed twice, at moments that nobody chose."""
    server = ServerProcess(PUPPET, arguments=ARGUMENTS)
    port = int(server.address.rpartition(":")[2])
    thread, failures = in_thread(run_settings(server, tmp_path / "run", model, updates=UPDATES))
    for updates in (1, 3):
        wait_for(tmp_path / "run", updates, thread)
        server.kill()
        assert len(lines(tmp_path / "run")) < UPDATES
        server = ServerProcess(PUPPET, arguments=ARGUMENTS, port=port)
    thread.join(120)
    server.stop()
    assert not failures
    assert not thread.is_alive()
    same(tmp_path / "run", undisturbed["model"])


def test_a_run_whose_env_server_stays_away_ends_and_can_go_on_with_another(
    server: ServerProcess, model: Path, undisturbed: dict[str, Path], tmp_path: Path
) -> None:
    lost = ServerProcess(PUPPET, arguments=ARGUMENTS)
    settings = run_settings(lost, tmp_path / "run", model, updates=UPDATES, checkpoint_every=1, retry_budget=0.5)
    thread, failures = in_thread(settings)
    wait_for(tmp_path / "run", 2, thread)
    lost.kill()
    thread.join(60)
    assert not thread.is_alive()
    (failure,) = failures
    assert isinstance(failure, ServerLostError)
    assert lost.address in str(failure)
    assert 2 <= len(lines(tmp_path / "run")) < UPDATES
    train(run_settings(server, tmp_path / "run", model, updates=UPDATES))
    same(tmp_path / "run", undisturbed["model"])


def test_a_full_volume_ends_a_run_in_one_line_and_it_goes_on_when_there_is_room(
    server: ServerProcess, model: Path, undisturbed: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "volume").mkdir()
    fields = run_fields(server, tmp_path / "volume" / "run", model, updates=UPDATES)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(fields))
    checkpoint = undisturbed["model"] / "checkpoints" / f"{UPDATES:06}"
    size = sum(path.stat().st_size for path in checkpoint.rglob("*")) / 1024
    process = WarmProcess("tests.support.small_volume", str(tmp_path), f"{1.6 * size:.0f}", log=tmp_path / "log")
    status, log = process.wait(250), (tmp_path / "log").read_text()
    assert status == 0, log
    seen = [line.removeprefix("volume: ") for line in log.splitlines() if line.startswith("volume: ")]
    assert seen == ["status 75", "000002", "status 75", "status 0"], log
    said = [line for line in log.splitlines() if line.startswith("overworld_trainer: ")]
    assert len(said) == 2
    assert f"the checkpoint {tmp_path}/volume/run/checkpoints/000004 cannot be written" in said[0]
    assert all("No space left on device" in line and "make room there" in line for line in said)
    assert "Traceback" not in log
    same(tmp_path / "copy", undisturbed["model"])
