"""Servers that announce themselves in a real Redis."""

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from overworld import Fleet, Reset, ServerLostError, open_registry, redis_registry
from overworld.host.process import ServerProcess
from overworld.redis_registry import connection_arguments
from overworld.registry import Announced
from overworld.service.credentials import Credentials
from overworld.service.tls import TlsFolder

from tests.support.certificates import Authority
from tests.support.ports import free_port
from tests.support.toy_env import SLOW, TOY


class RedisServer:
    """A Redis without persistence, on a port of its own; `start` also starts it again."""

    def __init__(self, program: str, folder: Path, *arguments: str) -> None:
        self._port = free_port()
        port = ["--port", "0", "--tls-port", str(self._port)] if arguments else ["--port", str(self._port)]
        self._command = [program, *port, "--save", "", "--dir", str(folder), *arguments]
        self.address = f"127.0.0.1:{self._port}"
        self.url = f"redis://{self.address}/0"
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        for _ in range(100):
            try:
                socket.create_connection(("127.0.0.1", self._port)).close()
                return
            except OSError:
                time.sleep(0.05)
        raise AssertionError("redis-server did not start")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def program() -> str:
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed: apt-get install redis-server, or make setup")
    return program


@pytest.fixture
def redis_server(program: str, tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(program, tmp_path)
    yield server
    server.kill()


def eventually(check: Callable[[], object], seconds: float = 60) -> None:
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


def test_a_frozen_redis_is_given_up_and_asked_again(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(redis_registry, "_TIMEOUT_SECONDS", 0.3)
    redis.Redis.from_url(redis_server.url).set("overworld:server:1", '{"address": "host:1", "envs": ["toy/Count"]}')
    found = open_registry(redis_server.url)
    assert found.servers("toy/Count") == ["host:1"]
    redis_server.process.send_signal(signal.SIGSTOP)
    assert found.servers("toy/Count") == []
    assert "the registry in Redis cannot be reached" in caplog.text
    redis_server.process.send_signal(signal.SIGCONT)
    assert found.servers("toy/Count") == ["host:1"]


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
    good = '{"address": "host:1", "envs": ["toy/Count"]}'
    strange: tuple[bytes | str, ...] = (
        b"\xff", b"{", b"[]", b"7", b"[" * 60_000, b'{"address": 5, "envs": []}', b'{"address": "a:1", "envs": 3}',
        b'{"address": "a:1", "envs": [' + b'"toy/Count",' * 9_999 + b'"toy/Count"]}',
        good.replace("host:1", "host"), good.replace("host:1", "dns:///evil:1"), good.replace("/", "\\n"),
        good.replace("host:1", "host:1\\u0000"), good.replace('"envs"', '"name": ["n"], "envs"'), good + " " * 70_000,
    )  # fmt: skip
    for number, entry in enumerate(strange):
        client.set(f"overworld:server:{number}", entry)
    client.lpush("overworld:server:list", good)
    client.set("overworld:server:good", good)
    assert open_registry(redis_server.url).servers("toy/Count") == ["host:1"]
    assert open_registry(redis_server.url).known_envs() == ["toy/Count"]


def test_no_more_than_a_thousand_entries_are_read_and_no_user_crowds_out_the_others(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    client = redis.Redis.from_url(redis_server.url)
    entry = '{"address": "host:1", "envs": ["toy/Count"]}'
    client.mset({f"overworld:server:crowd:{number}": entry for number in range(3000)})
    client.set("overworld:server:lone:1", entry.replace("host:1", "lone:1"))
    found = open_registry(redis_server.url).servers("toy/Count")
    assert len(found) == 257
    assert "lone:1" in found
    assert "has too many entries (1024 are read, 256 of one user at most); 2744 were passed over" in caplog.text
    client.mset({f"overworld:server:user{number}:1": entry for number in range(3000)})
    assert len(open_registry(redis_server.url).servers("toy/Count")) == 1024


ACL = """\
user default off
user toys on >toys-password ~overworld:server:toys:* resetchannels -@all +set +del +@connection
user players on >players-password ~overworld:server:* resetchannels -@all +scan +getrange +@connection
"""


def test_a_redis_with_tls_passwords_and_acl(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A server may announce only itself, who plays may only read, and nobody else anything."""
    authority = Authority(tmp_path / "authority")
    folder = authority.issue(tmp_path / "redis", "127.0.0.1", mutual=True)
    authority.issue(tmp_path / "client", "client", mutual=True)
    authority.issue(tmp_path / "server", "127.0.0.1", "toys.example", mutual=True)
    (tmp_path / "users.acl").write_text(ACL)
    (tmp_path / "password").write_text("toys-password\n")
    files = {"cert": "tls.crt", "key": "tls.key", "ca-cert": "ca.crt"}
    tls = [part for name, file in files.items() for part in (f"--tls-{name}-file", str(folder / file))]
    store = RedisServer(program, tmp_path, *tls, "--aclfile", str(tmp_path / "users.acl"))
    monkeypatch.setenv("OVERWORLD_REDIS_PASSWORD_FILE", str(tmp_path / "password"))
    client = TlsFolder(tmp_path / "client", server=False)
    players = Credentials(tls=client, redis_password="players-password")
    try:
        found = open_registry(f"rediss://players@{store.address}/0", players)
        arguments = ("--workers", "1", "--registry", f"rediss://toys@{store.address}/0")
        tls_arguments = ("--tls", str(tmp_path / "server"))
        advertised = ("--advertise", "10.0.0.7:50051")
        with ServerProcess(TOY, arguments=(*arguments, *tls_arguments)) as server:
            eventually(lambda: found.servers("toy/Count") == [server.address])
            with Fleet(found, "toy/Count", 2, credentials=players) as fleet:
                assert [result.turn for result in fleet.step([Reset()] * 2)] == [0, 0]
        with ServerProcess(TOY, arguments=(*arguments, *tls_arguments, *advertised)):
            eventually(lambda: found.servers("toy/Count") == ["10.0.0.7:50051"])
            (address,) = found.servers("toy/Count")
            assert isinstance(address, Announced)
            assert address.name == "toys.example"

        for user, password, key in (
            ("toys", "toys-password", "overworld:server:others:1"),
            ("players", "players-password", "overworld:server:toys:1"),
        ):
            credentials = Credentials(tls=client, redis_password=password)
            url = f"rediss://{user}@{store.address}/0"
            with pytest.raises(redis.exceptions.NoPermissionError):
                redis.Redis.from_url(url, **connection_arguments(url, credentials)).set(key, "{}")
        wrong = Credentials(tls=client, redis_password="wrong")
        assert open_registry(f"rediss://players@{store.address}/0", wrong).servers("toy/Count") == []
        assert "invalid username-password pair" in caplog.text
        untrusting = Credentials(tls=TlsFolder(Authority(tmp_path / "other").trust(tmp_path / "trust"), server=False))
        assert open_registry(f"rediss://players@{store.address}/0", untrusting).servers("toy/Count") == []
        assert f"the certificate of {store.address} was not issued by {tmp_path / 'trust' / 'ca.crt'}" in caplog.text
        uncertified = Credentials(tls=TlsFolder(authority.trust(tmp_path / "nobody"), server=False))
        assert open_registry(f"rediss://players@{store.address}/0", uncertified).servers("toy/Count") == []
        assert f"{store.address} asks for a client's certificate, and there is none" in caplog.text
    finally:
        store.kill()


def test_a_list_of_addresses_is_a_registry_too() -> None:
    assert open_registry("a:1, b:2,").servers("toy/Count") == ["a:1", "b:2"]
