"""Simulators that wait: many run at once in one worker, with the guarantees of those that run one at a time."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from overworld import ContractError, Reset, Results, Session
from overworld.client.moves import Move
from overworld.host.process import ServerProcess
from overworld.service.process import ServiceProcess

from tests.support.optional import present
from tests.support.waiting_env import ENVS

SLOTS = 8
LIMIT = 1.0
Shown = tuple[object, ...]
BOTH = pytest.mark.parametrize("env", ["waiting/Threaded", "waiting/Async"])


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    arguments = ("--workers", "1", "--slots", "16", "--step-timeout", str(LIMIT), "--allow-expert")
    with ServerProcess(*ENVS, arguments=arguments) as server:
        yield server


def opened(server: ServiceProcess, env: str, **options: float) -> Session:
    session = Session(server.address, env, SLOTS, options=options, expert=True)
    session.reset(range(SLOTS))
    return session


def worker_pid(server: ServiceProcess) -> int:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(server.process.pid)], capture_output=True, text=True)
    return int(found.stdout)


def shown(results: Results) -> list[Shown]:
    return [
        (result.turn, result.reward, result.observation.text, result.end, result.success, result.expert, result.error)
        for result in results
    ]


def pictures(results: Results) -> list[bytes]:
    return [b"".join(image.pixels.tobytes() for image in result.observation.images) for result in results]


def played(server: ServerProcess, env: str, moves: Sequence[Sequence[Move]]) -> list[tuple[list[Shown], list[bytes]]]:
    """What the moves give, with the pictures."""
    with opened(server, env) as session:
        steps = [session.step(move) for move in moves]
        return [(shown(results), pictures(results)) for results in steps]


@BOTH
def test_slots_wait_at_the_same_time(server: ServerProcess, env: str) -> None:
    with opened(server, env, seconds=0.25) as session:
        started = time.monotonic()
        results = session.step(["up"] * SLOTS)
        assert time.monotonic() - started < 7 * 1.05  # one at a time they take 8 x 0.25 s
        assert [result.observation.text.split(",")[0] for result in results] == ["count 1"] * SLOTS
        assert all(result.micros >= 250_000 for result in results)


def test_so_many_steps_are_under_way_that_they_can_meet(server: ServerProcess) -> None:
    with opened(server, "waiting/Threaded", party=SLOTS) as session:
        assert [result.error for result in session.step(["meet"] * SLOTS)] == [None] * SLOTS


@BOTH
def test_the_episodes_are_those_of_the_serial_mode(server: ServerProcess, env: str) -> None:
    moves: list[list[Move]] = [
        ["up", "down", None, "up", "sideways", "up", "down", "raise"],
        ["up", "up", "up", "down", "up", None, "up", Reset(seed=70)],
        ["up", "up", "up", "up", Reset(3, prefix=["up", "up"]), "up", "up", "up"],
    ]
    results = played(server, env, moves)
    assert results == played(server, "waiting/Serial", moves)
    assert len({picture for _, turn in results for picture in turn}) > SLOTS


@BOTH
@pytest.mark.parametrize(
    ("action", "reason"), [("crash", "WORKER_DIED"), ("exit", "WORKER_DIED"), ("hang", "STEP_TIMEOUT")]
)
def test_the_guilty_slot_fails_and_its_neighbours_are_replayed(
    server: ServerProcess, env: str, action: str, reason: str
) -> None:
    first, third = ["up", "down"] * 4, ["up"] * SLOTS
    second = ["down", "up"] * 4
    expected = played(server, env, [first, second, third])
    with opened(server, env, seconds=0.02) as session:
        session.step(first)
        pid = worker_pid(server)
        results = session.step([*second[:5], action, *second[6:]])
        assert worker_pid(server) != pid
        assert present(results[5].error).reason == reason
        assert present(results[5].error).reset_helps
        innocent = [slot for slot in range(SLOTS) if slot != 5]
        assert [shown(results)[slot] for slot in innocent] == [expected[1][0][slot] for slot in innocent]
        session.step({5: Reset(seed=5)})
        results = session.step(dict.fromkeys(innocent, "up"))
        assert shown(results) == [expected[2][0][slot] for slot in innocent]
        assert pictures(results) == [expected[2][1][slot] for slot in innocent]


@BOTH
def test_neighbours_step_on_while_one_hangs(server: ServerProcess, env: str) -> None:
    with opened(server, env) as session:
        hanging = session.submit({0: "hang"})
        turns = 0
        while turns < 10 and not hanging.done():
            assert [result.error for result in session.step(dict.fromkeys(range(1, SLOTS), None))] == [None] * 7
            turns += 1
        assert turns > 2  # more than those that the end of the hanging one would let through
        assert present(hanging.result()[0].error).reason == "STEP_TIMEOUT"
        assert [result.turn for result in session.step(dict.fromkeys(range(1, SLOTS), "up"))] == [turns + 1] * 7


def test_who_blocks_the_event_loop_is_bound_by_the_step_limit(server: ServerProcess) -> None:
    with opened(server, "waiting/Async", seconds=0.3) as session:
        results = session.step(["up", "up", "block", *["up"] * 5])
        reasons = [result.error and result.error.reason for result in results]
        assert reasons == [None, None, "STEP_TIMEOUT", *[None] * 5]


def test_a_task_that_blocks_the_event_loop_out_of_sight_is_bound_too(server: ServerProcess) -> None:
    with opened(server, "waiting/Async") as session:
        assert present(session.step({1: "hide"})[0].error).reason == "STEP_TIMEOUT"
        assert [result.turn for result in session.step({0: "up", 2: "up"})] == [1, 1]


def test_several_that_hang_fail_together(server: ServerProcess) -> None:
    with opened(server, "waiting/Threaded") as session:
        results = session.step(["hang", "up", "hang", *["up"] * 5])
        reasons = [result.error and result.error.reason for result in results]
        assert reasons == ["STEP_TIMEOUT", None, "STEP_TIMEOUT", *[None] * 5]


@BOTH
def test_a_crash_without_a_guilty_slot_costs_nothing(server: ServerProcess, env: str) -> None:
    with opened(server, env, seconds=1.0) as session:
        stepping = session.submit(["up"] * SLOTS)
        time.sleep(0.1)
        os.kill(worker_pid(server), signal.SIGKILL)
        assert [result.error for result in stepping.result()] == [None] * SLOTS
        started = time.monotonic()
        session.step(["up"] * SLOTS)  # at the same time again
        assert time.monotonic() - started < 7 * 1.0


def test_a_frozen_process_is_replaced_without_blame() -> None:
    arguments = ("--workers", "1", "--step-timeout", str(LIMIT), "--allow-expert", "--port", "0")
    with (
        ServiceProcess("tests.support.impatient", "serve", *ENVS, *arguments) as server,  # pings its worker more often
        opened(server, "waiting/Threaded", seconds=0.1) as session,
    ):
        stepping = session.submit(["up"] * SLOTS)
        time.sleep(0.05)
        os.kill(worker_pid(server), signal.SIGSTOP)
        assert [result.error for result in stepping.result()] == [None] * SLOTS


def test_a_cancellation_fails_its_slot_only(server: ServerProcess) -> None:
    with opened(server, "waiting/Async") as session:
        pid = worker_pid(server)
        results = session.step(["cancel", *["up"] * 7])
        assert [result.error and result.error.reason for result in results] == ["ENV_ERROR", *[None] * 7]
        assert worker_pid(server) == pid


@BOTH
def test_a_step_happens_once(server: ServerProcess, env: str) -> None:
    """A repeat joins the running step. A batch that cannot be executed changes nothing in any slot."""
    with opened(server, env, seconds=0.5) as session, ThreadPoolExecutor() as threads:
        commands = session._ledger.number(["up"] * SLOTS)
        first = threads.submit(session._connection.execute, commands)
        time.sleep(0.25)
        started = time.monotonic()
        assert shown(session._connection.execute(commands)) == shown(first.result())
        assert time.monotonic() - started < 0.7
        wrong = session._ledger.number(["up"] * SLOTS)
        wrong[-1].turn += 1
        with pytest.raises(ContractError, match="TURN_SKIPPED"):
            session._connection.execute(wrong)
        results = session.step(["up"] * SLOTS)
        assert [result.observation.text.split(",")[0] for result in results] == ["count 2"] * SLOTS


def test_envs_are_used_again_on_the_thread_that_made_them(server: ServerProcess) -> None:
    for _ in range(3):
        with opened(server, "waiting/Threaded") as session, opened(server, "waiting/Serial") as other:
            for one in (session, other):
                assert [result.error for result in one.step(["up"] * SLOTS)] == [None] * SLOTS
