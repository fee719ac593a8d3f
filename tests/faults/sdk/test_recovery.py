"""What can go wrong while something that went wrong is being put right."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import grpc
import numpy as np
import psutil
import pytest
import xxhash
from overworld import ContractError, Reset, Session, server_info
from overworld.errors import ServerLostError, ServiceError
from overworld.host.process import ServerProcess
from overworld.service.process import ServiceProcess
from overworld.v1 import env_pb2 as pb
from overworld.v1 import env_pb2_grpc

from tests.support.optional import present
from tests.support.toy_env import GATED, SLOW, TOY


class Serve(Protocol):
    def __call__(self, *envs: str, workers: int = 1, slots: int = 16, timeout: float = 30) -> ServerProcess: ...


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers: list[ServerProcess] = []

    def start(*envs: str, workers: int = 1, slots: int = 16, timeout: float = 30) -> ServerProcess:
        arguments = ("--workers", str(workers), "--slots", str(slots), "--step-timeout", str(timeout))
        servers.append(ServerProcess(*envs, arguments=arguments))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def workers_of(server: ServerProcess) -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(server.process.pid)], capture_output=True, text=True)
    return [int(pid) for pid in listed.stdout.split()]


def crash(server: ServerProcess, worker: int = 0) -> None:
    os.kill(workers_of(server)[worker], signal.SIGKILL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Directs toy:Gated: files made in it hold constructors, or make them die or refuse."""
    return tmp_path


def gated(server: ServerProcess, slots: int, folder: Path, **arguments: Any) -> Session:
    return Session(server.address, "toy/Gated", slots, options={"folder": str(folder)}, **arguments)


def test_a_reset_that_comes_while_an_episode_is_replayed(serve: Serve) -> None:
    server = serve(SLOW)
    with Session(server.address, "toy/Slow", 3) as session:
        session.reset([0, 1, 2])
        for _ in range(4):
            session.step(["wait"] * 3)
        crash(server)
        time.sleep(0.6)  # the new worker is replaying: 4 x 0.15 s per slot
        results = session.step({0: Reset(seed=5), 1: "wait", 2: Reset(seed=6)})
        assert [result.turn for result in results] == [0, 5, 0]
        assert results[1].observation.text == "[0, 1, 2, 3, 4, 5]"
        assert [result.turn for result in session.step(["wait"] * 3)] == [1, 6, 1]


def test_cached_frames_stay_while_their_slot_is_replayed(serve: Serve) -> None:
    server = serve(GATED)
    with grpc.insecure_channel(server.address) as channel:
        stub = env_pb2_grpc.EnvServiceStub(channel)
        name = str(uuid.uuid4())
        stub.Open(pb.OpenRequest(session=name, env_id="toy/Gated", slots=2))
        stub.Step(pb.StepRequest(session=name, commands=[pb.Command(slot=slot, reset=pb.Reset()) for slot in (0, 1)]))
        for turn in range(1, 9):
            action = pb.Action(text="go")
            last = [pb.Command(slot=slot, turn=turn, action=action) for slot in (0, 1)]
            expected = stub.Step(pb.StepRequest(session=name, commands=last))
        crash(server)
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            again = stub.Step(pb.StepRequest(session=name, commands=last))
            assert again.frames == expected.frames
            for result in again.results:
                (image,) = result.observation.images
                block = again.blocks[image.block]
                start = block.offset + image.index * block.stride
                assert xxhash.xxh64_intdigest(again.frames[start : start + block.stride]) == image.xxh64
        stub.Close(pb.CloseRequest(session=name))


def test_views_of_shared_memory_stay_while_their_slot_is_replayed(serve: Serve) -> None:
    server = serve(GATED)
    with Session(server.address, "toy/Gated", 2, copy=False) as session:
        session.reset([1, 1])
        for _ in range(6):
            frames = session.step(["go", "go"]).frames()
        before = frames.copy()
        crash(server)
        until = time.monotonic() + 1.2
        while time.monotonic() < until:
            assert np.array_equal(frames, before)
        assert session.step(["go", "go"]).frames()[0, 0, 0, 0] == before[0, 0, 0, 0] + 1


def test_sessions_that_are_closed_while_their_worker_is_replaced(serve: Serve, folder: Path) -> None:
    server = serve(GATED, TOY, slots=12)
    with Session(server.address, "toy/Count", 4) as bystander:
        expected = bystander.reset([1, 2, 3, 4]).frames()
        doomed = [gated(server, 1, folder, retry_budget=5) for _ in range(4)]
        for session in doomed:
            session.reset([3])
            session.step(["go"])
        (folder / "hold").touch()
        crash(server)
        time.sleep(0.5)
        for session in doomed[:3]:
            session.close()
        threading.Timer(1.0, (folder / "hold").unlink).start()
        other = Session(server.address, "toy/Count", 1, retry_budget=5)  # waits until the worker is there again
        other.reset([9])
        assert np.array_equal(bystander.reset([1, 2, 3, 4]).frames(), expected)
        for _ in range(3):
            assert [result.error for result in bystander.step(["up", "down", None, "up"])] == [None] * 4
        assert doomed[3].step(["go"])[0].turn == 2
        for session in (other, doomed[3]):
            session.close()
    assert server_info(server.address).slots_free == 12


def test_a_worker_that_dies_while_another_still_opens_the_session(serve: Serve, folder: Path) -> None:
    server = serve(GATED, workers=2)
    (folder / "hold").touch()
    with ThreadPoolExecutor(1) as executor:
        opening = executor.submit(gated, server, 4, folder)
        while not (folder / "made").exists():
            time.sleep(0.01)
        for _ in range(2):
            crash(server, 0)
            time.sleep(0.3)
        (folder / "hold").unlink()
    # Killing a worker that makes an env is that env's fault as far as anybody can tell: the open may be refused. What
    # must not be is a session whose slots hang.
    try:
        session = opening.result(20)
    except ContractError as error:
        assert error.reason.name == "ENV_FAILED"
        session = gated(server, 4, folder)
    assert [result.turn for result in session.reset([0] * 4)] == [0] * 4
    assert [result.turn for result in session.step(["go"] * 4)] == [1] * 4
    session.close()


def test_a_worker_that_dies_once_while_it_makes_the_env_costs_nothing(serve: Serve, folder: Path) -> None:
    server = serve(GATED)
    (folder / "hold").touch()
    with ThreadPoolExecutor(1) as executor:
        opening = executor.submit(gated, server, 2, folder)
        while not (folder / "made").exists():
            time.sleep(0.01)
        crash(server)
        (folder / "hold").unlink()
    with opening.result() as session:
        assert [result.turn for result in session.reset([0] * 2)] == [0] * 2


def test_an_env_that_cannot_be_made_again_ends_its_session_and_no_other(serve: Serve, folder: Path) -> None:
    server = serve(GATED, TOY)
    with Session(server.address, "toy/Count", 2) as bystander, gated(server, 2, folder, retry_budget=5) as session:
        bystander.reset([1, 2])
        session.reset([1, 2])
        session.step(["go", "go"])
        (folder / "refuse").touch()
        crash(server)
        started = time.monotonic()
        with pytest.raises(ContractError, match="not any more"):
            session.step(["go", "go"])
        assert time.monotonic() - started < 60
        assert [result.turn for result in bystander.step(["up", "up"])] == [1, 1]


def test_an_env_that_kills_its_worker_when_it_is_made_is_refused(serve: Serve, folder: Path) -> None:
    server = serve(GATED, TOY)
    with Session(server.address, "toy/Count", 2) as bystander:
        bystander.reset([1, 2])
        (folder / "die").touch()
        with pytest.raises(ContractError, match=r"ENV_FAILED.*died"):
            gated(server, 2, folder, retry_budget=5)
        assert [result.error for result in bystander.step(["up", "up"])] == [None, None]
        (folder / "die").unlink()
        with gated(server, 2, folder) as session:
            assert [result.turn for result in session.reset([1, 2])] == [0, 0]
    assert server_info(server.address).slots_free == 16


def test_another_sessions_crash_does_not_refuse_an_innocent_open(serve: Serve) -> None:
    server = serve(TOY, SLOW)
    with Session(server.address, "toy/Slow", 1) as slow:
        slow.reset([0])
        crashing = slow.submit(["crash"])
        sessions = [Session(server.address, "toy/Count", 1) for _ in range(3)]
        assert present(crashing.result()[0].error).reason == "WORKER_DIED"
        for session in sessions:
            assert session.reset([1])[0].turn == 0
            session.close()


def test_the_step_limit_is_for_one_step_and_not_for_a_whole_replay(serve: Serve) -> None:
    server = serve(SLOW, timeout=1.0)
    with Session(server.address, "toy/Slow", 2) as session:
        session.reset([0, 1])
        for _ in range(9):
            session.step(["wait", "wait"])
        crash(server)
        results = session.step(["wait", "wait"])
        assert [result.error for result in results] == [None, None]
        assert [result.turn for result in results] == [10, 10]
        (result,) = session.step({0: Reset(prefix=["wait"] * 10)})
        assert result.observation.text == "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]"


def test_episodes_without_pictures_are_compared_too(serve: Serve) -> None:
    server = serve(SLOW)
    with Session(server.address, "toy/Slow", 2) as session:
        session.reset([0, 99])
        session.step(["wait", "wait"])
        crash(server)
        results = session.step(["wait", "wait"])
        assert results[0].error is None
        assert present(results[1].error).reason == "REBUILD_MISMATCH"


def test_an_env_that_prints_does_not_block_its_worker(serve: Serve) -> None:
    server = serve(SLOW, timeout=5)
    with Session(server.address, "toy/Slow", 1) as session:
        session.reset([0])
        assert session.step(["print"])[0].error is None


def test_sigterm_for_the_whole_group_lets_steps_finish(serve: Serve) -> None:
    server = ServerProcess(SLOW, arguments=("--workers", "1", "--grace", "200"))
    with Session(server.address, "toy/Slow", 1) as session:
        session.reset([0])
        for pid in (*workers_of(server), server.process.pid):
            os.kill(pid, signal.SIGTERM)
        for turn in (1, 2, 3):
            assert session.step(["wait"])[0].turn == turn
    assert server.process.wait(60) == 0
    server.stop()


def test_a_server_out_of_descriptors_refuses_and_loses_no_slots(serve: Serve) -> None:
    server = serve(TOY, slots=400)
    soft, hard = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
    in_use = len(os.listdir(f"/proc/{server.process.pid}/fd"))
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (in_use + 12, hard))
    sessions: list[Session] = []
    # The descriptor that is missing may be that of a session's own connection.
    refused = r"NO_FREE_SLOTS.*no memory or files|no answer from the env server"
    with pytest.raises((ContractError, ServerLostError), match=refused):
        while len(sessions) < 40:
            sessions.append(Session(server.address, "toy/Count", 3, retry_budget=1.0))
    for session in sessions:
        session.close()
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (soft, hard))
    assert server_info(server.address).slots_free == 400


def test_a_server_short_of_memory_refuses_and_a_frozen_one_costs_time_only(serve: Serve) -> None:
    server = serve(TOY, slots=400)
    soft, hard = resource.prlimit(server.process.pid, resource.RLIMIT_AS)
    with Session(server.address, "toy/Count", 1) as session:
        session.step([Reset(seed=0)])
        in_use = psutil.Process(server.process.pid).memory_info().vms
        resource.prlimit(server.process.pid, resource.RLIMIT_AS, (in_use + (64 << 20), hard))
        with pytest.raises(ContractError, match=r"NO_FREE_SLOTS.*no memory or files"):
            Session(server.address, "toy/Count", 399, retry_budget=0.1)
        assert session.step(["up"])[0].observation.text == "count 1"
        resource.prlimit(server.process.pid, resource.RLIMIT_AS, (soft, hard))
        assert server_info(server.address).slots_free == 399
        server.process.send_signal(signal.SIGSTOP)
        step = session.submit(["up"])
        with pytest.raises(TimeoutError):
            step.result(0.5)
        server.process.send_signal(signal.SIGCONT)
        assert step.result(60)[0].observation.text == "count 2"


def test_services_end_with_the_process_that_started_them_but_not_with_its_thread(tmp_path: Path) -> None:
    started: dict[str, ServerProcess] = {}
    thread = threading.Thread(target=lambda: started.update(server=ServerProcess(TOY, arguments=("--workers", "1"))))
    thread.start()
    thread.join()
    time.sleep(0.3)
    assert server_info(started["server"].address).slots_free == 64
    started["server"].stop()
    script = (
        f"from overworld.host.process import ServerProcess as S; print(S('{TOY}').process.pid, flush=True); input()"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    pid = int(present(parent.stdout).readline())
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 60
    while os.path.exists(f"/proc/{pid}"):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_service_that_never_listens_is_killed_and_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("overworld.service.process._START_SECONDS", 0.5)
    with pytest.raises(ServiceError, match=r"http\.server did not start \(killed after 0\.5 s\)"):
        ServiceProcess("http.server", "0")
