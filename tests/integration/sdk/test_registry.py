"""Servers that announce themselves in a real Redis."""

import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest
import redis
from overworld import Fleet, Reset, ServerLostError, open_registry
from overworld.host.process import ServerProcess

from tests.support.toy_env import SLOW, TOY


@pytest.fixture
def redis_server(tmp_path: Path):
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed: apt-get install redis-server, or make setup")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [program, "--port", str(port), "--save", "", "--dir", str(tmp_path)]

    def start():
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        client = redis.Redis(port=port)
        for _ in range(100):
            try:
                client.ping()
                return process
            except redis.ConnectionError:
                time.sleep(0.05)
        raise AssertionError("redis-server did not start")

    start.url = f"redis://127.0.0.1:{port}/0"
    start.process = start()
    yield start
    start.process.kill()
    start.process.wait()


def eventually(check, seconds=10) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_fleet_finds_announced_servers_and_forgets_stopped_ones(redis_server) -> None:
    found = open_registry(redis_server.url)
    arguments = ("--workers", "1", "--slots", "4", "--registry", redis_server.url)
    with (
        ServerProcess(TOY, arguments=arguments) as one,
        ServerProcess(TOY, arguments=arguments) as other,
    ):
        eventually(lambda: sorted(found.servers("toy/Count")) == sorted([one.address, other.address]))
        assert found.servers("toy/Other") == []
        with Fleet(found, "toy/Count", 6) as fleet:
            assert len(fleet.addresses) == 2
            assert [result.turn for result in fleet.step([Reset()] * 6)] == [0] * 6
        one.stop()
        eventually(lambda: found.servers("toy/Count") == [other.address])


def test_a_server_announces_itself_again_after_redis_was_gone(redis_server, monkeypatch: pytest.MonkeyPatch) -> None:
    found = open_registry(redis_server.url)
    arguments = ("--workers", "1", "--registry", redis_server.url, "--advertise", "envs.example:50051")
    with ServerProcess(TOY, arguments=arguments):
        eventually(lambda: found.servers("toy/Count") == ["envs.example:50051"])
        redis_server.process.kill()
        redis_server.process.wait()
        assert found.servers("toy/Count") == []
        redis_server.process = redis_server()
        eventually(lambda: found.servers("toy/Count") == ["envs.example:50051"])


def test_an_env_that_nobody_announces_is_missed_with_those_on_offer(
    redis_server, caplog: pytest.LogCaptureFixture
) -> None:
    arguments = ("--workers", "1", "--registry", redis_server.url)
    with ServerProcess(TOY, SLOW, arguments=arguments):
        found = open_registry(redis_server.url)
        eventually(lambda: found.known_envs() == ["toy/Count", "toy/Slow"])
        with pytest.raises(ServerLostError, match=r"within 1 s no server offered toy/Cuont: .*'toy/Count'"):
            Fleet(found, "toy/Cuont", 2, retry_budget=1)
    assert "toy/Cuont: 2 free slots are needed" in caplog.text


def test_strange_entries_are_passed_over(redis_server) -> None:
    client = redis.Redis.from_url(redis_server.url)
    for number, entry in enumerate(
        (b"\xff", b"{", b"[]", b'{"address": 5, "envs": []}', b'{"address": "a", "envs": 3}')
    ):
        client.set(f"overworld:server:{number}", entry)
    client.set("overworld:server:good", '{"address": "host:1", "envs": ["toy/Count"]}')
    assert open_registry(redis_server.url).servers("toy/Count") == ["host:1"]


def test_a_list_of_addresses_is_a_registry_too() -> None:
    assert open_registry("a:1, b:2,").servers("toy/Count") == ["a:1", "b:2"]
