"""Servers that announce themselves in a real Redis."""

import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from overworld import Fleet, Reset, ServerLostError, open_registry
from overworld.host.process import ServerProcess

from tests.support.toy_env import SLOW, TOY


class RedisServer:
    """A Redis without persistence, on a port of its own; `start` also starts it again."""

    def __init__(self, program: str, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self._command = [program, "--port", str(self._port), "--save", "", "--dir", str(folder)]
        self.url = f"redis://127.0.0.1:{self._port}/0"
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        client = redis.Redis(port=self._port)
        for _ in range(100):
            try:
                client.ping()
                return
            except redis.ConnectionError:
                time.sleep(0.05)
        raise AssertionError("redis-server did not start")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed: apt-get install redis-server, or make setup")
    server = RedisServer(program, tmp_path)
    yield server
    server.kill()


def eventually(check: Callable[[], object], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_fleet_finds_announced_servers_and_forgets_stopped_ones(redis_server: RedisServer) -> None:
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


def test_a_server_announces_itself_again_after_redis_was_gone(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = open_registry(redis_server.url)
    arguments = ("--workers", "1", "--registry", redis_server.url, "--advertise", "envs.example:50051")
    with ServerProcess(TOY, arguments=arguments):
        eventually(lambda: found.servers("toy/Count") == ["envs.example:50051"])
        redis_server.kill()
        assert found.servers("toy/Count") == []
        redis_server.start()
        eventually(lambda: found.servers("toy/Count") == ["envs.example:50051"])


def test_an_env_that_nobody_announces_is_missed_with_those_on_offer(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    arguments = ("--workers", "1", "--registry", redis_server.url)
    with ServerProcess(TOY, SLOW, arguments=arguments):
        found = open_registry(redis_server.url)
        eventually(lambda: found.known_envs() == ["toy/Count", "toy/Slow"])
        with pytest.raises(ServerLostError, match=r"within 1 s no server offered toy/Cuont: .*'toy/Count'"):
            Fleet(found, "toy/Cuont", 2, retry_budget=1)
    assert "toy/Cuont: 2 free slots are needed" in caplog.text


def test_strange_entries_are_passed_over(redis_server: RedisServer) -> None:
    client = redis.Redis.from_url(redis_server.url)
    for number, entry in enumerate(
        (b"\xff", b"{", b"[]", b'{"address": 5, "envs": []}', b'{"address": "a", "envs": 3}')
    ):
        client.set(f"overworld:server:{number}", entry)
    client.set("overworld:server:good", '{"address": "host:1", "envs": ["toy/Count"]}')
    assert open_registry(redis_server.url).servers("toy/Count") == ["host:1"]


def test_a_list_of_addresses_is_a_registry_too() -> None:
    assert open_registry("a:1, b:2,").servers("toy/Count") == ["a:1", "b:2"]
