"""How the env server starts, is looked after, and stops."""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from overworld import ContractError, Reason, ServerLostError, Session, server_info
from overworld.host.config import ServerConfig
from overworld.host.process import ServerProcess

from tests.support.ports import free_port
from tests.support.toy_env import TOY


def health(address: str, service: str = "") -> int:
    with grpc.insecure_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)  # its types name no methods
        return stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5).status


def serve(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `overworld serve` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "overworld", "serve", *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_token_is_asked_for_by_all_but_health_checks() -> None:
    with ServerProcess(TOY, arguments=("--workers", "1"), token="s3cret") as server:
        assert health(server.address) == health_pb2.HealthCheckResponse.SERVING
        for token, reason in (("", Reason.TOKEN_MISSING), ("wrong", Reason.TOKEN_WRONG)):
            with pytest.raises(ContractError, match="OVERWORLD_TOKEN") as caught:
                server_info(server.address, token)
            assert caught.value.reason is reason
        with grpc.insecure_channel(server.address) as channel:
            stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
            with pytest.raises(grpc.RpcError) as refused:
                list(stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")])))
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        with Session(server.address, "toy/Count", 1, token="s3cret") as session:
            assert session.reset([0])[0].turn == 0


def test_listening_beyond_loopback_needs_a_token_or_a_word() -> None:
    failed = serve(TOY, "--host", "0.0.0.0", OVERWORLD_TOKEN="")
    assert failed.returncode == 1
    assert failed.stderr.strip().splitlines()[-1].startswith("overworld serve: listening on 0.0.0.0 without a token")
    ServerConfig(envs=[TOY], host="0.0.0.0", insecure=True, plaintext=True)
    ServerConfig(envs=[TOY], host="0.0.0.0", token="x", plaintext=True)
    ServerConfig(envs=[TOY], host="::1")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["poker"], "no simulator 'poker' is installed"),
        ([TOY.replace("Toy", "Nothing")], "Nothing"),
        ([TOY, "--slots", "0"], "slots: Input should be greater than or equal to 1"),
    ],
)
def test_servers_that_cannot_start_say_why_in_one_line(arguments: list[str], says: str) -> None:
    failed = serve(*arguments, "--port", "0")
    assert failed.returncode == 1
    lines = [line for line in failed.stderr.splitlines() if line.startswith("overworld serve: ")]
    assert len(lines) == 1
    assert says in lines[0]
    assert "Traceback" not in failed.stderr


def test_two_servers_do_not_share_a_port(toy_server: ServerProcess) -> None:
    failed = serve(TOY, "--port", toy_server.address.rpartition(":")[2])
    assert failed.returncode == 1
    assert "is another server there" in failed.stderr


def test_metrics() -> None:
    port = free_port()
    with ServerProcess(TOY, arguments=("--workers", "1", "--slots", "4", "--metrics-port", str(port))) as server:
        with Session(server.address, "toy/Count", 1) as session:
            session.reset([0])
            for _ in range(3):
                session.step(["up"])
            with pytest.raises(ContractError):
                session.step(["up"])
            session.reset([0])
            last = session._ledger.number(["up"])
            session._connection.execute(last)
            session._connection.execute(last)  # as if the answer had been lost
            page = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
            assert urllib.request.urlopen(f"http://127.0.0.1:{port}/health").read() == b"ok\n"
            os.kill(server.process.pid, signal.SIGTERM)
            with pytest.raises(urllib.error.HTTPError, match="503"):
                while True:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health").read()
    for line in (
        "overworld_sessions 1.0",
        "overworld_slots_free 3.0",
        'overworld_episodes_total{end="TASK",env="toy/Count"} 1.0',
        'overworld_step_seconds_count{env="toy/Count"} 6.0',
        'overworld_commands_total{entry="accepted",env="toy/Count",worker="0"} 6.0',
        'overworld_commands_total{entry="executed",env="toy/Count",worker="0"} 6.0',
        'overworld_commands_total{entry="repeated",env="toy/Count",worker="0"} 1.0',
        'overworld_calls_total{method="step",reason="EPISODE_ENDED"} 1.0',
    ):
        assert line in page.splitlines()


def test_sigterm_lets_running_sessions_finish() -> None:
    server = ServerProcess(TOY, arguments=("--workers", "1", "--grace", "200"))
    session = Session(server.address, "toy/Count", 1)
    session.reset([0])
    server.process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + 60
    while health(server.address) == health_pb2.HealthCheckResponse.SERVING:
        assert time.monotonic() < deadline
    assert session.step(["up"])[0].turn == 1
    assert session.draining
    with pytest.raises(ContractError) as caught:
        Session(server.address, "toy/Count", 1, retry_budget=0.2)
    assert caught.value.reason is Reason.DRAINING
    session.close()
    assert server.process.wait(60) == 0
    server.stop()


def test_sigterm_ends_sessions_that_stay_when_their_grace_is_over() -> None:
    server = ServerProcess(TOY, arguments=("--workers", "1", "--grace", "0.5"))
    session = Session(server.address, "toy/Count", 1, retry_budget=0.5)
    session.reset([0])
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(60) == 0
    with pytest.raises(ServerLostError):
        session.step(["up"])
    session.close()
    server.stop()


def workers_of(pid: int) -> list[int]:
    children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True).stdout
    return [int(child) for child in children.split()]


def test_simulators_do_not_get_the_servers_secrets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret")
    for name, value in {"OVERWORLD_TOKEN_FILE": str(token), "OVERWORLD_TOY_DATA": "here"}.items():
        monkeypatch.setenv(name, value)
    with ServerProcess(TOY, arguments=("--workers", "1")) as server:
        with pytest.raises(ContractError, match="TOKEN_MISSING"):
            server_info(server.address)
        (worker,) = workers_of(server.process.pid)
        given = Path(f"/proc/{worker}/environ").read_text().split("\0")
    assert "OVERWORLD_TOY_DATA=here" in given  # where data lies is the simulators' own
    assert not [line for line in given if "TOKEN" in line.partition("=")[0] or str(token) in line]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_worker_survives_its_server(number: int) -> None:
    server = ServerProcess(TOY, arguments=("--workers", "2", "--grace", "0"))
    with Session(server.address, "toy/Count", 2, retry_budget=0.2) as session:
        session.reset([0, 0])
        hanging = session.submit({0: "hang"})
        workers = workers_of(server.process.pid)
        assert len(workers) == 2
        server.process.send_signal(number)
        server.process.wait(60)
        with pytest.raises(ServerLostError):
            hanging.result()
    deadline = time.monotonic() + 60
    while any(os.path.exists(f"/proc/{pid}") for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    server.stop()


def test_ps(toy_server: ServerProcess) -> None:
    listing = subprocess.run(
        [sys.executable, "-m", "overworld", "ps", toy_server.address, "127.0.0.1:1", "--timeout", "0.5"],
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "200"},
    )
    assert listing.returncode == 1
    assert "toy/Count" in listing.stdout
    assert "32 of 32" in listing.stdout
    assert "no answer" in listing.stdout
