"""Ranks that are killed, asked to stop, or hang: all end, nothing is lost, and the run goes on to the same numbers."""

import functools
import itertools
import os
import pkgutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from overworld.host.process import ServerProcess

from tests.support.ranks import run_ranks, start_ranks
from tests.support.scripted_env import CHOICE, PUPPET
from tests.support.scripted_model import copy_run, lines, numbers, obedient_folder, progress, run_fields, tensors
from tests.support.warm import WarmProcess

UPDATES = 4


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    server = ServerProcess(PUPPET, CHOICE, arguments=("--workers", "2", "--slots", "64"))
    yield server
    server.kill()  # it would wait for the sessions of ranks that were killed


@pytest.fixture(scope="module")
def fields(server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    model = obedient_folder(tmp_path_factory)
    return run_fields(server, "", model, updates=UPDATES, checkpoint_every=2, parallel="replicate")


@pytest.fixture(scope="module")
def undisturbed(fields: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    run_ranks(folder, fields | {"run": str(folder / "run")}, 2)
    return folder / "run"


def same(folder: Path, expected: Path) -> None:
    """Whether a run came to the same numbers, weights, optimizers and open episodes, to the last bit."""
    assert numbers(folder) == numbers(expected)
    assert tensors(folder, UPDATES) == tensors(expected, UPDATES)
    assert progress(folder, UPDATES) == progress(expected, UPDATES)


def wait_for(folder: Path, updates: int, processes: list[WarmProcess]) -> None:
    deadline = time.monotonic() + 60
    while len(lines(folder)) < updates:
        assert all(process.poll() is None for process in processes), "it ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.002)


def ends(processes: list[WarmProcess]) -> list[int]:
    """The exit statuses of ranks that end by themselves."""
    return [process.wait(60) for process in processes]


def in_the_rollout() -> None:
    """The moment at which an update has been logged."""


def in_the_update() -> None:
    """A moment later."""
    time.sleep(0.3)


@pytest.mark.parametrize("moment", [in_the_rollout, in_the_update])
def test_a_rank_that_is_killed_ends_the_others_and_the_run_goes_on(
    fields: dict[str, Any], undisturbed: Path, tmp_path: Path, moment: Callable[[], None]
) -> None:
    settings = fields | {"run": str(tmp_path / "run")}
    copy_run(undisturbed, tmp_path / "run", 2)
    processes = start_ranks(tmp_path, settings, 2)
    wait_for(tmp_path / "run", 3, processes)
    moment()
    processes[1].kill()
    assert ends(processes) == [os.EX_TEMPFAIL, -signal.SIGKILL]
    said = (tmp_path / "rank-0.log").read_text()
    assert "overworld_trainer: rank 0 of 2 has lost another one" in said
    assert "Traceback" not in said
    run_ranks(tmp_path, settings, 2)
    same(tmp_path / "run", undisturbed)


def test_sigterm_to_one_rank_ends_all_after_a_checkpoint(
    fields: dict[str, Any], undisturbed: Path, tmp_path: Path
) -> None:
    settings = fields | {"run": str(tmp_path / "run"), "checkpoint_every": 100}
    processes = start_ranks(tmp_path, settings, 2)
    wait_for(tmp_path / "run", 1, processes)
    processes[1].send_signal(signal.SIGTERM)
    assert ends(processes) == [143, 143]
    done = len(lines(tmp_path / "run"))
    assert 1 <= done < UPDATES
    assert progress(tmp_path / "run", done)["update"] == done
    run_ranks(tmp_path, settings | {"checkpoint_every": 2}, 2)
    same(tmp_path / "run", undisturbed)


PLACES = {
    "decoding": ("overworld_vlm.engine.Engine.step", 20),
    "scoring": ("overworld_trainer.reference.score", 2),
    "warming the critic up": ("overworld_trainer.learner.value_loss", 2),
    "fitting the critic": ("overworld_trainer.learner.value_loss", 40),
    "improving the policy": ("overworld_trainer.learner.policy_loss", 2),
}
"""What is called, and which of its calls gets the signal."""


def signal_at(path: str, number: int) -> None:
    """Has a call of a function end the process that calls it, politely."""
    module, _, name = path.rpartition(".")
    holder = pkgutil.resolve_name(module)
    original, calls = getattr(holder, name), itertools.count(1)

    def noted(*arguments: Any, **named: Any) -> Any:
        if next(calls) == number:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments, **named)

    setattr(holder, name, noted)


@pytest.mark.parametrize("place", PLACES)
def test_all_ranks_leave_an_update_wherever_sigterm_finds_one_of_them(
    fields: dict[str, Any], tmp_path: Path, place: str
) -> None:
    settings = fields | {"run": str(tmp_path / "run"), "parallel": "shard", "checkpoint_every": 100}
    processes = start_ranks(tmp_path, settings, 2, first=functools.partial(signal_at, *PLACES[place]))
    assert ends(processes) == [143, 143]
    done = len(lines(tmp_path / "run"))
    assert done < UPDATES
    assert f"update {done} is thrown away" in (tmp_path / "rank-0.log").read_text()
    assert not done or progress(tmp_path / "run", done)["update"] == done


def test_a_rank_that_hangs_is_given_up_after_a_while(fields: dict[str, Any], tmp_path: Path) -> None:
    settings = fields | {"run": str(tmp_path / "run"), "rank_timeout": 3.0, "updates": 1000}
    processes = start_ranks(tmp_path, settings, 2)
    wait_for(tmp_path / "run", 1, processes)
    processes[1].send_signal(signal.SIGSTOP)
    assert processes[0].wait(60) == os.EX_TEMPFAIL
    assert "has not been heard of for 3 s (rank_timeout)" in (tmp_path / "rank-0.log").read_text()
    processes[1].kill()


def test_ranks_with_other_settings_are_refused(fields: dict[str, Any], tmp_path: Path) -> None:
    settings = fields | {"run": str(tmp_path / "run")}
    processes = start_ranks(tmp_path, settings, 2, of_rank={1: {"gamma": 0.5}})
    assert ends(processes) == [1, 1]
    assert "rank 1 has other settings than rank 0: start all ranks" in (tmp_path / "rank-0.log").read_text()


@pytest.mark.soak  # in CI the ranks in containers do the same
def test_torchrun_starts_all_ranks_again_when_one_has_died(
    fields: dict[str, Any], undisturbed: Path, tmp_path: Path
) -> None:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(fields | {"run": str(tmp_path / "run")}))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    with (tmp_path / "log").open("w") as log:
        command = [*torchrun, "-m", "overworld_trainer", str(tmp_path / "run.yaml")]
        process = subprocess.Popen(command, stderr=log)
    deadline = time.monotonic() + 120
    while len(lines(tmp_path / "run")) < 3:
        assert process.poll() is None, (tmp_path / "log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    ranks = [child for child in psutil.Process(process.pid).children() if "overworld_trainer" in child.cmdline()]
    assert len(ranks) == 2
    ranks[1].kill()
    assert process.wait(120) == 0
    assert "resuming from" in (tmp_path / "log").read_text()
    same(tmp_path / "run", undisturbed)
