"""A worker that dies or hangs costs nothing, unless its step does so again: then that slot, and nobody else."""

import os
import re
import signal
import subprocess
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from overworld import ContractError, Reset, Results, Session
from overworld.host.process import ServerProcess

from tests.support.optional import present
from tests.support.ports import free_port
from tests.support.toy_env import TOY


@pytest.fixture(scope="module")
def metrics_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def server(metrics_port: int) -> Iterator[ServerProcess]:
    arguments = ("--workers", "1", "--slots", "8", "--step-timeout", "1.5", "--metrics-port", str(metrics_port))
    with ServerProcess(TOY, arguments=arguments) as server:
        yield server


@pytest.fixture
def session(server: ServerProcess) -> Iterator[Session]:
    with Session(server.address, "toy/Count", 4) as session:
        session.reset([1, 2, 3, 4])
        yield session


def worker_pid(server: ServerProcess) -> int:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(server.process.pid)], capture_output=True, text=True)
    return int(found.stdout)


def counted(port: int) -> Counter[str]:
    """The server's ledger."""
    page = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
    entries = re.findall(r'^overworld_commands_total{entry="(\w+)",[^}]*} (\S+)$', page, re.MULTILINE)
    return Counter({entry: int(float(count)) for entry, count in entries})


def undisturbed(server: ServerProcess, moves: Sequence[Sequence[str | None]]) -> list[Results]:
    """What the moves give when nothing goes wrong."""
    with Session(server.address, "toy/Count", 4) as session:
        session.reset([1, 2, 3, 4])
        return [session.step(move) for move in moves]


@pytest.mark.parametrize(("action", "reason"), [("crash", "WORKER_DIED"), ("hang", "STEP_TIMEOUT")])
def test_the_guilty_slot_fails_and_the_others_go_on(
    server: ServerProcess, session: Session, action: str, reason: str
) -> None:
    expected = undisturbed(server, [["up", "up", "down", None], ["down", "up", "up", "up"], ["up"] * 4])
    session.step(["up", "up", "down", None])
    results = session.step(["down", action, "up", "up"])
    assert present(results[1].error).reason == reason
    assert present(results[1].error).reset_helps
    for slot in (0, 2, 3):
        assert (results[slot].error, results[slot].reward) == (None, expected[1][slot].reward)
        ours, theirs = (one[slot].observation.images[0].pixels for one in (results, expected[1]))
        assert np.array_equal(ours, theirs)
    with pytest.raises(ContractError, match=rf"NOT_RESET.*{reason}"):
        session.step({1: "up"})
    assert session.step({1: Reset(seed=2)})[0].turn == 0
    last = session.step(dict.fromkeys((0, 2, 3), "up"))
    for result in last:
        assert np.array_equal(
            result.observation.images[0].pixels, expected[2][result.slot].observation.images[0].pixels
        )


def test_a_crash_without_a_guilty_slot_costs_nothing(server: ServerProcess, session: Session) -> None:
    session.step(["up"] * 4)
    expected = undisturbed(server, [["up"] * 4, ["up"] * 4])[1]
    os.kill(worker_pid(server), signal.SIGKILL)
    results = session.step(["up"] * 4)
    assert [result.error for result in results] == [None] * 4
    assert np.array_equal(results.frames(), expected.frames())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_that_dies_in_mid_step_costs_nothing(
    server: ServerProcess, session: Session, metrics_port: int, number: int
) -> None:
    """The step was not what killed it, or not for good: it is executed again."""
    before = counted(metrics_port)
    expected = undisturbed(server, [["slow", "up", "up", "up"], ["up"] * 4])
    running = session.submit(["slow", "up", "up", "up"])
    time.sleep(0.2)
    assert not running.done()
    os.kill(worker_pid(server), number)
    for results, wanted in zip((running.result(), session.step(["up"] * 4)), expected, strict=True):
        assert [result.error for result in results] == [None] * 4
        assert [result.metrics for result in results] == [result.metrics for result in wanted]
        assert np.array_equal(results.frames(), wanted.frames())
    ledger = counted(metrics_port)
    assert ledger["accepted"] == ledger["executed"] + ledger["failed"] + ledger["dropped"]
    noted = ledger - before
    assert (noted["accepted"], noted["failed"]) == (20, 0)
    assert min(noted["interrupted"], noted["replayed"]) >= 4  # more where a loaded machine made the worker late


def test_cached_results_survive_a_crash(server: ServerProcess, session: Session) -> None:
    commands = session._ledger.number(["up"] * 4)
    before = session._connection.execute(commands).frames()
    os.kill(worker_pid(server), signal.SIGKILL)
    repeated = session._connection.execute(commands)
    assert np.array_equal(repeated.frames(), before)
    time.sleep(1.0)
    repeated = session._connection.execute(commands)
    assert np.array_equal(repeated.frames(), before)


def test_crashes_in_a_row(server: ServerProcess, session: Session) -> None:
    for _ in range(2):
        results = session.step(["crash", "up", "crash", "down"])
        assert [result.error is None for result in results] == [False, True, False, True]
        session.step({slot: Reset(seed=slot) for slot in range(4)})
    assert [result.turn for result in session.step(["up"] * 4)] == [1] * 4


def test_an_exception_of_the_env_costs_its_slot_only(session: Session) -> None:
    results = session.step(["raise", "up", "up", "up"])
    assert present(results[0].error).reason == "ENV_ERROR"
    assert present(results[0].error).message == "RuntimeError: boom"
    assert [result.turn for result in results[1:]] == [1, 1, 1]


def test_a_client_that_waits_with_a_deadline_collects_later(session: Session) -> None:
    results = session.step_some(["slow", "slow", "up", "up"], min_ready=1)
    assert results[1].pending
    session.collect([result for result in results if result.pending])
    assert [result.turn for result in session.step(["up"] * 4)] == [2] * 4


def test_a_replay_that_leads_elsewhere_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An env that isn't reproducible: after a crash its slot fails instead of going on somewhere else."""
    module = tmp_path / "fickle.py"
    module.write_text(
        "import os, numpy as np\n"
        "from overworld import *\n"
        "class Fickle(Env):\n"
        "    spec = EnvSpec(id='toy/Fickle', task='', success='never', action=ActionSpec(('go', 'crash')))\n"
        "    def reset(self, seed, split, task):\n"
        "        return Observation((Image('view', np.full((4, 4, 3), os.getpid() % 251, np.uint8)),))\n"
        "    def step(self, action):\n"
        "        if action == 'crash': os._exit(1)\n"
        "        return Transition(self.reset(0, '', None), 0.0)\n"
    )
    path = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(tmp_path), path))))
    with ServerProcess("fickle:Fickle", arguments=("--workers", "1")) as server:
        with Session(server.address, "toy/Fickle", 3) as session:
            session.reset([0, 0, 0])
            results = session.step({0: "crash", 1: "go"})
            assert [present(result.error).reason for result in results] == ["REBUILD_MISMATCH"] * 2
            (idle,) = session.step({2: "go"})
            assert present(idle.error).reason == "REBUILD_MISMATCH"
            assert [result.turn for result in session.reset([0, 0, 0])] == [0, 0, 0]
