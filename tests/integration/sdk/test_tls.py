"""TLS between real clients and servers: who is let in, what is said to the others, and certificates that change."""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from overworld import Fleet, Reset, ServerError, Session, server_info
from overworld.errors import ServerUntrustedError, SettingsError
from overworld.host.config import ServerConfig
from overworld.host.process import ServerProcess
from overworld.registry import Announced
from overworld.service.credentials import Credentials
from overworld.service.process import ServiceProcess
from overworld.service.tls import TlsFolder

from tests.support.certificates import Authority
from tests.support.ports import free_port
from tests.support.toy_env import TOY

BUDGET = 0.3


def trusting(folder: Path, *, token: str = "", tokens: Path | None = None) -> Credentials:
    return Credentials.load(token=token, tokens=tokens, tls=folder, plaintext=False)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ours, theirs: authorities; server, client, trust, foreign, expired: folders with certificates."""
    base = tmp_path_factory.mktemp("tls")
    ours, theirs = Authority(base / "ours"), Authority(base / "theirs")
    ours.issue(base / "server", "envs.example", "127.0.0.1", mutual=True)
    ours.issue(base / "client", "trainer", mutual=True)
    ours.trust(base / "trust")
    theirs.trust(base / "foreign")
    ours.issue(base / "expired", "trainer", days=(-3, -1), mutual=True)
    theirs.issue(base / "stranger", "trainer")
    shutil.copy(base / "trust" / "ca.crt", base / "stranger" / "ca.crt")
    return base


@pytest.fixture(scope="module")
def server(folders: Path) -> Iterator[ServerProcess]:
    """Asks clients for certificates."""
    with ServerProcess(TOY, arguments=("--workers", "1", "--tls", str(folders / "server"))) as server:
        yield server


def refused(address: str, credentials: Credentials) -> str:
    with pytest.raises(ServerError) as caught:
        server_info(address, retry_budget=BUDGET, credentials=credentials)
    return str(caught.value)


def test_a_session_over_mutual_tls(server: ServerProcess, folders: Path) -> None:
    with Session(server.address, "toy/Count", 2, credentials=trusting(folders / "client")) as session:
        session.reset([1, 2])
        assert [result.turn for result in session.step(["up", "down"])] == [1, 1]


@pytest.mark.parametrize(
    ("client", "words"),
    [
        ("trust", r"asks for a client's certificate, and there is none: put tls.crt and tls.key into .*/trust"),
        ("foreign", r"was not issued by .*/foreign/ca.crt .*: put the certificate of its issuer there"),
        (
            "stranger",
            r"refuses the certificate of this client, .*/stranger/tls.crt, not issued by that server's ca.crt",
        ),
        ("expired", r"refuses the certificate of this client, .*/expired/tls.crt, valid from .* to .*: renew it"),
    ],
)
def test_who_is_not_let_in_is_told_why(server: ServerProcess, folders: Path, client: str, words: str) -> None:
    said = refused(server.address, trusting(folders / client))
    assert server.address in said
    assert re.search(words, said), said


def test_a_client_without_tls_and_a_server_without_it_are_told(
    server: ServerProcess, toy_server: ServerProcess, folders: Path
) -> None:
    said = refused(server.address, Credentials())
    assert f"{server.address} asks for TLS: name the folder with the ca.crt" in said
    said = refused(toy_server.address, trusting(folders / "client"))
    assert f"{toy_server.address} does not speak TLS: start that server with tls=DIR" in said


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[str]:
    """A gRPC server that does not look at its own certificate; its address."""
    server = grpc.server(futures.ThreadPoolExecutor(1))
    pair = (folder / "tls.key").read_bytes(), (folder / "tls.crt").read_bytes()
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


@pytest.mark.parametrize(
    ("names", "days", "words"),
    [
        (["127.0.0.1", "a.example"], (-3.0, -1.0), "for a.example, 127.0.0.1, expired on "),
        (["127.0.0.1", "a.example"], (1.0, 3.0), "for a.example, 127.0.0.1, is not valid before "),
        (["a.example", "b.example"], (-1.0, 1.0), "is for a.example, b.example; one for 127.0.0.1 was expected"),
    ],
)
def test_a_certificate_of_a_wrong_time_or_name_is_told_in_words(
    tmp_path: Path, names: list[str], days: tuple[float, float], words: str
) -> None:
    authority = Authority(tmp_path / "authority")
    with serving(authority.issue(tmp_path / "server", *names, days=days)) as address:
        said = refused(address, trusting(authority.trust(tmp_path / "trust")))
    assert f"the certificate of {address}" in said
    assert words in said


def test_a_server_does_not_start_with_certificates_that_nobody_would_accept(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    folder = authority.issue(tmp_path / "server", "a.example", days=(-3, -1))
    with pytest.raises(SettingsError, match=r"for a.example, is valid from .* to .*; now is .*: renew it"):
        TlsFolder(folder, server=True)
    authority.issue(folder, "a.example")
    (folder / "tls.key").write_bytes(authority.certificate)
    with pytest.raises(SettingsError, match="are not a certificate and its key"):
        TlsFolder(folder, server=True)
    (folder / "tls.key").unlink()
    with pytest.raises(SettingsError, match=r"must hold both tls.crt and tls.key"):
        TlsFolder(folder, server=True)


def test_tls_is_the_default_beyond_loopback() -> None:
    with pytest.raises(ValueError, match=r"listening on 0.0.0.0 without TLS .* --tls DIR, .* --plaintext"):
        ServerConfig(envs=[TOY], host="0.0.0.0", token="x")
    registry: dict[str, Any] = {"registry": "redis://redis:6379/0", "advertise": "a:1"}
    with pytest.raises(ValueError, match="the Redis at redis would be talked to without TLS: use rediss://"):
        ServerConfig(envs=[TOY], **registry)
    ServerConfig(envs=[TOY], plaintext=True, **registry)
    assert Credentials().secures("envs.example:50051")
    assert not Credentials().secures("localhost:50051")
    assert not Credentials(plaintext=True).secures("envs.example:50051")


class Load:
    """Sessions that step all the time, and make a new connection for each session; `calls` counts what they did."""

    def __init__(self, address: str, credentials: Credentials) -> None:
        self.calls = 0
        self.errors: list[BaseException] = []
        self._stop = threading.Event()
        arguments = (address, credentials)
        self._threads = [threading.Thread(target=self._run, args=arguments, daemon=True) for _ in range(2)]

    def _run(self, address: str, credentials: Credentials) -> None:
        while not self._stop.is_set():
            try:
                with Session(address, "toy/Count", 1, credentials=credentials, retry_budget=BUDGET) as session:
                    session.reset([0])
                    for move in ("up", "down") * 5:
                        session.step([move])
                        self.calls += 1
            except Exception as error:  # whatever it is, the test shows it
                self.errors.append(error)
                return

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def go_on(self, calls: int = 30) -> None:
        until = self.calls + calls
        eventually(lambda: self.calls >= until or self.errors)
        assert not self.errors, self.errors


def eventually(check: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_certificates_are_reloaded_under_load_without_a_failed_call(tmp_path: Path) -> None:
    """Three times; in between with files that cannot be used, which leave the server as it is."""
    authority = Authority(tmp_path / "authority")
    server_folder = authority.issue(tmp_path / "server", "127.0.0.1", mutual=True)
    client = authority.issue(tmp_path / "client", "trainer", mutual=True)
    log = tmp_path / "log"
    environment = {"OVERWORLD_TLS": str(server_folder)}
    arguments = ("serve", TOY, "--port", "0", "--workers", "1")
    with Served(arguments, environment, log) as address, Load(address, trusting(client)) as load:
        load.go_on()
        before = served_certificate(address, client)
        for number in range(1, 4):
            authority.issue(server_folder, "127.0.0.1")
            said(log, f"{server_folder} reloaded", number)
            load.go_on()
            (server_folder / "tls.key").write_text("not a key")
            said(log, f"{server_folder / 'tls.key'} are not a certificate and its key", number)
            assert "not reloaded, what was read before stays in use" in log.read_text()
            load.go_on()
        assert served_certificate(address, client) not in (before, "")
        authority.issue(server_folder, "127.0.0.1", days=(-3, -1))
        said(log, "is valid from")
        load.go_on()
        assert "asks for TLS" in refused(address, Credentials())
    assert "Handshake failed" not in log.read_text()  # gRPC's own words, which are not JSON


def said(log: Path, words: str, times: int = 1) -> None:
    eventually(lambda: log.read_text().count(words) >= times)


def served_certificate(address: str, client: Path) -> str:
    context = TlsFolder(client, server=False).client_context()
    host, _, port = address.rpartition(":")
    with (
        socket.create_connection((host, int(port))) as connection,
        context.wrap_socket(connection, server_hostname=host) as tls,
    ):
        return str((tls.getpeercert() or {})["serialNumber"])


class Served:
    """`python -m overworld <arguments>` with a log."""

    def __init__(self, arguments: tuple[str, ...], environment: dict[str, str], log: Path) -> None:
        self._process = ServiceProcess("overworld", *arguments, log=log, environment=environment)

    def __enter__(self) -> str:
        return self._process.address

    def __exit__(self, *_: object) -> None:
        self._process.stop()


def test_a_client_uses_its_new_certificate_when_it_connects_again(tmp_path: Path) -> None:
    """The old authority is trusted until both sides have a certificate of the new one, then no longer."""
    old, new = Authority(tmp_path / "old"), Authority(tmp_path / "new")
    server_folder = old.issue(tmp_path / "server", "127.0.0.1", mutual=True)
    client = old.issue(tmp_path / "client", "trainer", mutual=True)
    port = free_port()
    arguments = ("--workers", "1", "--tls", str(server_folder))
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(ServerProcess(TOY, arguments=arguments, port=port))
        session = stack.enter_context(Session(server.address, "toy/Count", 1, credentials=trusting(client)))
        session.reset([0])
        new.issue(server_folder, "127.0.0.1", mutual=True)
        new.issue(client, "trainer", mutual=True)
        server.kill()
        stack.enter_context(ServerProcess(TOY, arguments=arguments, port=port))
        assert session.step(["up"])[0].turn == 1
        session.close()


def test_a_token_goes_only_where_a_certificate_proves_that_it_is_meant_to_go(
    server: ServerProcess, folders: Path, tmp_path: Path
) -> None:
    """To addresses that were configured, and to announced ones that have the certificate of the name."""
    tokens = tmp_path / "tokens"
    tokens.write_text("envs.example: s3cret\n")
    as_named = Announced(server.address, "envs.example")
    by_name = trusting(folders / "client", tokens=tokens)
    assert server_info(as_named, credentials=by_name).slots_total == 64
    assert server_info(as_named, credentials=trusting(folders / "client", token="s3cret")).slots_total == 64
    said = refused(Announced(server.address, "other.example"), by_name)
    assert "is for envs.example, 127.0.0.1; one for other.example was expected" in said

    for careless in (Credentials(token="s3cret", plaintext=True), Credentials(token="s3cret")):
        with pytest.raises(ServerUntrustedError, match=r"the token is not sent to evil.example:666, which a registry"):
            server_info(Announced("evil.example:666"), credentials=careless)
        with pytest.raises(ServerUntrustedError):
            server_info(Announced("127.0.0.1:666"), credentials=careless)


class Thief(grpc.GenericRpcHandler):
    """Takes down what calls carry, and refuses them."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def service(self, details: grpc.HandlerCallDetails) -> None:
        self.seen += [str(value) for key, value in details.invocation_metadata if key == "authorization"]


@contextlib.contextmanager
def thieving() -> Iterator[tuple[str, Thief]]:
    thief = Thief()
    server = grpc.server(futures.ThreadPoolExecutor(1), handlers=[thief])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}", thief
    server.stop(None).wait()


class Found:
    """A registry with announced addresses."""

    def __init__(self, *addresses: str) -> None:
        self._addresses = addresses

    def servers(self, env_id: str) -> list[str]:
        return list(self._addresses)

    def known_envs(self) -> list[str]:
        return ["toy/Count"]


def test_a_hostile_entry_gets_no_token_and_stops_nobody(server: ServerProcess, folders: Path, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("envs.example: s3cret\n127.0.0.1: another\n")
    with thieving() as (address, thief):
        ours = Announced(server.address, "envs.example"), Announced(server.address, "other.example")
        found = Found(ours[1], Announced(address, "envs.example"), *ours)
        with Fleet(found, "toy/Count", 2, credentials=trusting(folders / "client", tokens=tokens)) as fleet:
            assert fleet.addresses == [server.address]
            assert [result.turn for result in fleet.step([Reset()] * 2)] == [0, 0]
        assert thief.seen == []
        plain = Credentials.load(token="", tokens=tokens, tls=None, plaintext=True)
        with pytest.raises(ServerError):
            server_info(Announced(address, "envs.example"), retry_budget=BUDGET, credentials=plain)
        assert set(thief.seen) == {"Bearer another"}  # its own, by its host: in plain text a name proves nothing


def test_servers_that_are_gone_are_asked_at_once(toy_server: ServerProcess) -> None:
    """Not one after the other: 24 of them would take 2 s each."""
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(24)]
        addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in silent]
        started = time.monotonic()
        with Fleet(Found(*addresses, toy_server.address), "toy/Count", 1, retry_budget=10) as fleet:
            assert fleet.addresses == [toy_server.address]
        assert time.monotonic() - started < 24
