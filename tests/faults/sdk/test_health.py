"""Healthy means that every worker works: one that cannot be replaced, or that is frozen, shows and is put right."""

import contextlib
import os
import resource
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from overworld import Reset, Session
from overworld.host.process import ServerProcess
from overworld.service.process import ServiceProcess
from overworld.service.watchdog import STUCK

from tests.support.optional import present
from tests.support.ports import free_port
from tests.support.toy_env import SLOW, TOY


def impatient(*arguments: str, log: Path | None = None) -> ServiceProcess:
    """An env server whose limits are seconds."""
    return ServiceProcess("tests.support.impatient", "serve", *arguments, "--port", "0", log=log)


def workers_of(server: ServiceProcess) -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(server.process.pid)], capture_output=True, text=True)
    return [int(pid) for pid in listed.stdout.split()]


def within(seconds: float, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextlib.contextmanager
def serving(server: ServiceProcess) -> Iterator[Callable[[], bool]]:
    """Whether the server says that it is well, over a connection that is open already."""
    with grpc.insecure_channel(server.address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)  # its types name no methods

        def ask() -> bool:
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=60).status
            return bool(answer == health_pb2.HealthCheckResponse.SERVING)

        assert ask()
        yield ask


@contextlib.contextmanager
def no_new_files(server: ServiceProcess) -> Iterator[None]:
    """The server gets no descriptor beyond those that it has."""
    soft, hard = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (3, hard))
    yield
    with contextlib.suppress(ProcessLookupError):  # it ended
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (soft, hard))


def metric(port: int, name: str) -> float:
    page = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60).read().decode()
    (line,) = (line for line in page.splitlines() if line.startswith(f"{name} "))
    return float(line.split()[1])


def test_a_worker_that_cannot_be_restarted_at_once_is_tried_again() -> None:
    port = free_port()
    with (
        ServerProcess(TOY, arguments=("--workers", "1", "--slots", "2", "--metrics-port", str(port))) as server,
        Session(server.address, "toy/Count", 2) as session,
        serving(server) as healthy,
    ):
        session.reset([1, 2])
        with no_new_files(server):
            os.kill(workers_of(server)[0], signal.SIGKILL)
            within(60, lambda: not healthy())
            going_on = session.submit(["up", "up"])
            time.sleep(1)
            assert not healthy()
        results = going_on.result(60)
        assert [(result.turn, result.error) for result in results] == [(1, None), (1, None)]
        within(60, healthy)
        assert metric(port, "overworld_worker_start_failures_total") >= 2
        assert metric(port, "overworld_workers_ready") == 1


def test_connections_of_strangers_leave_files_for_a_worker_that_is_started_again() -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, limits[1]))
    try:
        server = ServerProcess(TOY, arguments=("--workers", "1", "--slots", "2"))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    with server, Session(server.address, "toy/Count", 2) as session, contextlib.ExitStack() as strangers:
        session.reset([1, 2])
        host, _, port = server.address.rpartition(":")
        connections = [strangers.enter_context(socket.create_connection((host, int(port)), 60)) for _ in range(200)]
        for connection in connections:  # each is greeted or hung up on: none waits for a file
            with contextlib.suppress(ConnectionError):
                connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
                connection.recv(1)
        assert 64 < len(list(Path(f"/proc/{server.process.pid}/fd").iterdir())) < 120
        os.kill(workers_of(server)[0], signal.SIGKILL)
        assert [result.error for result in session.step(["up", "up"])] == [None, None]


def test_a_server_whose_worker_cannot_be_replaced_ends_itself_and_says_so_in_one_line(tmp_path: Path) -> None:
    log = tmp_path / "log"
    server = impatient(TOY, "--workers", "1", log=log)
    try:
        with no_new_files(server):
            os.kill(workers_of(server)[0], signal.SIGKILL)
            status = server.process.wait(60)
    finally:
        server.stop()
    assert status == os.EX_TEMPFAIL
    said = [line for line in log.read_text().splitlines() if line.startswith("overworld serve: ")]
    assert len(said) == 1
    assert "worker 0 could not be replaced for" in said[0]
    assert "Too many open files" in said[0]
    assert "Traceback" not in log.read_text()


def test_a_server_whose_event_loop_stands_still_ends_itself_and_says_so_in_one_line(tmp_path: Path) -> None:
    log = tmp_path / "log"
    server = impatient(TOY, "--workers", "1", log=log)
    try:
        server.process.send_signal(signal.SIGSTOP)
        time.sleep(6)  # a pause of the whole process is none of its event loop
        server.process.send_signal(signal.SIGCONT)
        with serving(server) as healthy:
            assert healthy()
        server.process.send_signal(signal.SIGUSR1)
        assert server.process.wait(60) == STUCK == 69
    finally:
        server.stop()
    said = "overworld serve: its event loop has not answered for 6 s; start the server again"
    assert log.read_text().splitlines().count(said) == 1


def test_frozen_workers_are_replaced_and_a_busy_one_is_left_alone() -> None:
    with (
        impatient(TOY, SLOW, "--workers", "3", "--slots", "6") as server,
        Session(server.address, "toy/Slow", 3) as slow,
        Session(server.address, "toy/Count", 3) as session,
        serving(server) as healthy,
    ):
        # Seed 99 shows the worker's process. Both sessions have their slots on the same workers.
        busy, idle, frozen = (int(result.observation.text.strip("[]")) for result in slow.reset([99, 99, 99]))
        slow.step([Reset(seed=0)] * 3)
        assert {busy, idle, frozen} == set(workers_of(server))
        session.reset([1, 2, 3])
        hanging = session.submit({0: "hang"})
        for worker in (idle, frozen):
            os.kill(worker, signal.SIGSTOP)
        meanwhile = session.submit({2: "up"})
        within(60, lambda: not healthy())
        within(60, lambda: len(workers_of(server)) == 3 and not {idle, frozen} & set(workers_of(server)) and healthy())
        assert busy in workers_of(server)
        assert not hanging.done()
        for results in (session.step({1: "up"}), meanwhile.result(60)):
            assert [(result.turn, result.reward, result.error) for result in results] == [(1, 1.0, None)]
        others, killed = set(workers_of(server)) - {busy}, set[int]()
        for _ in range(5):  # its step is repeated once, as soon as there is another worker
            (guilty,) = set(workers_of(server)) - others - killed
            killed.add(guilty)
            os.kill(guilty, signal.SIGKILL)
            within(60, lambda: len(set(workers_of(server)) - others - killed) == 1 and healthy())
            time.sleep(1)
            if hanging.done():
                break
        assert present(hanging.result(60)[0].error).reason == "WORKER_DIED"


def test_idle_connections_to_the_metrics_port_are_bounded() -> None:
    port = free_port()
    with impatient(TOY, "--workers", "1", "--metrics-port", str(port)) as server:
        threads = Path(f"/proc/{server.process.pid}/task")
        before = len(list(threads.iterdir()))
        connections = [socket.create_connection(("127.0.0.1", port)) for _ in range(60)]
        for connection in connections[-4:]:
            connection.sendall(b"GET /metr")
        assert metric(port, "overworld_workers_ready") == 1
        within(60, lambda: len(list(threads.iterdir())) <= before + 20)
        within(60, lambda: len(list(threads.iterdir())) <= before + 1)
        for connection in connections:
            connection.close()
