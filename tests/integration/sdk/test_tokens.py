"""Tokens by name between real clients and servers: rotation under load, quotas, metrics, and what a stranger costs."""

from __future__ import annotations

import contextlib
import threading
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import grpc
import psutil
import pytest
from overworld import ContractError, Fleet, Reason, Session, server_info
from overworld.errors import SettingsError
from overworld.host.process import ServerProcess
from overworld.service.credentials import Credentials
from overworld.service.process import ServiceProcess
from overworld.v1 import env_pb2 as pb
from overworld.v1 import env_pb2_grpc

from tests.integration.sdk.test_server import health
from tests.integration.sdk.test_tls import Load, eventually
from tests.support.ports import free_port
from tests.support.toy_env import TOY

MEGABYTE = 1 << 20


class Tokens:
    """A file of tokens."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, *lines: str) -> None:
        """All at once."""
        fresh = self.path.with_suffix(".fresh")
        fresh.write_text("".join(f"{line}\n" for line in lines))
        fresh.replace(self.path)

    def credentials(self) -> Credentials:
        return Credentials.load(token="", tokens=self.path, tls=None, plaintext=False)


@contextlib.contextmanager
def serving(tokens: Tokens, *arguments: str, log: Path | None = None) -> Iterator[str]:
    settings = ("--port", "0", "--workers", "1", "--tokens", str(tokens.path), *arguments)
    with ServiceProcess("overworld", "serve", TOY, *settings, log=log) as server:
        yield server.address


def test_tokens_are_exchanged_under_load_without_a_failed_call(tmp_path: Path) -> None:
    """The new one is added on the server, sent by the client, the old one deleted; a bad file changes nothing."""
    theirs, ours, log = Tokens(tmp_path / "server"), Tokens(tmp_path / "client"), tmp_path / "log"
    theirs.write("trainer: one", "evaluator: other")
    ours.write("127.0.0.1: one")
    with (
        serving(theirs, log=log) as address,
        Session(address, "toy/Count", 1, credentials=ours.credentials()) as lasting,
        Load(address, ours.credentials()) as load,
    ):
        lasting.reset([0])
        load.go_on()
        for old, new in (("one", "two"), ("two", "three")):
            theirs.write(f"trainer: {old}", f"trainer: {new}", "evaluator: other")
            load.go_on()
            ours.write(f"127.0.0.1: {old}", f"127.0.0.1: {new}")
            load.go_on()
            theirs.write(f"trainer: {new}", "evaluator: other")
            load.go_on()
            refuses(address, old)
            assert lasting.step(["up"])[0].error is None
        theirs.write("trainer")
        eventually(lambda: "not reloaded, what was read before stays in use" in log.read_text())
        load.go_on()
        assert server_info(address, "other").slots_total == 64
    said = log.read_text()
    assert "must be `name: token`" in said
    assert " of trainer: 1 slots of toy/Count" in said
    assert not [token for token in ("one", "two", "three", "other") if f": {token}" in said]


def refuses(address: str, token: str) -> None:
    with pytest.raises(ContractError, match="TOKEN_WRONG"):
        server_info(address, token)


@pytest.fixture(scope="module")
def page() -> str:
    return f"http://127.0.0.1:{free_port()}/metrics"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, page: str) -> Iterator[str]:
    """A server with 64 slots, of which ada may have 4, and two calls at a time; bob as much as he likes."""
    tokens = Tokens(tmp_path_factory.mktemp("tokens") / "tokens")
    tokens.write("ada: a-token", "bob: b-token")
    port = page.rpartition(":")[2].partition("/")[0]
    quota = ("quotas.ada.slots=4", "quotas.ada.calls=2", "quotas.ada.request_bytes=1000000")
    with serving(tokens, *quota, "--metrics-port", port) as address:
        yield address


def test_slots_beyond_a_quota_are_refused_in_words(address: str) -> None:
    with Session(address, "toy/Count", 3, token="a-token") as session:
        session.reset([0, 1, 2])
        assert server_info(address, "a-token").slots_free == 1
        assert server_info(address, "b-token").slots_free == 61
        with pytest.raises(ContractError) as caught:
            Session(address, "toy/Count", 2, token="a-token", retry_budget=0.1)
        assert caught.value.reason is Reason.QUOTA_EXCEEDED
        assert "ada holds 3 slots and asks for 2 more; its quota on this server is 4 slots" in str(caught.value)
        with pytest.raises(ContractError, match="2 slots are needed"):
            Fleet([address], "toy/Count", 2, token="a-token", retry_budget=0.1)
        with Session(address, "toy/Count", 8, token="b-token") as other:
            other.reset(range(8))
    with Session(address, "toy/Count", 4, token="a-token") as session:  # given back
        session.reset(range(4))


def stub(address: str, stack: contextlib.ExitStack) -> env_pb2_grpc.EnvServiceStub:
    return env_pb2_grpc.EnvServiceStub(stack.enter_context(grpc.insecure_channel(address)))


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


def test_calls_and_bytes_beyond_a_quota_are_refused_with_resource_exhausted(address: str) -> None:
    with contextlib.ExitStack() as stack:
        calls = stub(address, stack)
        name = str(uuid.uuid4())
        calls.Open(pb.OpenRequest(session=name, env_id="toy/Count", slots=3), metadata=bearer("a-token"))
        commands = [pb.Command(slot=slot, reset=pb.Reset()) for slot in range(3)]
        calls.Step(pb.StepRequest(session=name, commands=commands), metadata=bearer("a-token"))
        slow = [pb.Command(slot=slot, turn=1, action=pb.Action(text="slow")) for slot in range(2)]
        running = [
            calls.Step.future(pb.StepRequest(session=name, commands=[command]), metadata=bearer("a-token"))
            for command in slow
        ]
        refusals = [until_refused(calls, pb.GetServerInfoRequest())]
        assert calls.GetServerInfo(pb.GetServerInfoRequest(), metadata=bearer("b-token")).slots_total == 64
        for call in running:
            assert call.result().results[0].turn == 1
        large = pb.StepRequest(session=name, commands=[pb.Command(action=pb.Action(reply="x" * 1_000_001))])
        with pytest.raises(grpc.RpcError) as caught:
            calls.Step(large, metadata=bearer("a-token"))
        refusals.append(caught.value)
        calls.Close(pb.CloseRequest(session=name), metadata=bearer("a-token"))
    assert {error.code() for error in refusals} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert "ada has 2 calls under way; its quota on this server is 2 calls" in str(refusals[0].details())
    assert "and sends 1,000," in str(refusals[1].details())


def until_refused(calls: env_pb2_grpc.EnvServiceStub, request: pb.GetServerInfoRequest) -> grpc.RpcError:
    """The two slow steps may not have arrived yet."""
    while True:
        try:
            calls.GetServerInfo(request, metadata=bearer("a-token"))
        except grpc.RpcError as error:
            return error


def test_a_step_that_exceeds_a_quota_for_a_moment_is_repeated(address: str) -> None:
    with Session(address, "toy/Count", 4, token="a-token") as session:
        session.reset(range(4))
        running = [session.submit({slot: "slow"}) for slot in range(4)]
        assert [future.result()[0].turn for future in running] == [1] * 4


def test_a_session_belongs_to_the_owner_of_its_token(address: str) -> None:
    with contextlib.ExitStack() as stack:
        calls = stub(address, stack)
        name = str(uuid.uuid4())
        opening = pb.OpenRequest(session=name, env_id="toy/Count", slots=1)
        calls.Open(opening, metadata=bearer("a-token"))
        for call, request, code in (
            (calls.Open, opening, grpc.StatusCode.ALREADY_EXISTS),
            (calls.Step, pb.StepRequest(session=name), grpc.StatusCode.NOT_FOUND),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                call(request, metadata=bearer("b-token"))
            assert caught.value.code() is code
        calls.Close(pb.CloseRequest(session=name), metadata=bearer("b-token"))
        calls.Step(pb.StepRequest(session=name), metadata=bearer("a-token"))
        calls.Close(pb.CloseRequest(session=name), metadata=bearer("a-token"))


def test_a_server_whose_token_is_not_in_the_file_is_named(address: str, tmp_path: Path) -> None:
    tokens = Tokens(tmp_path / "tokens")
    tokens.write("envs.example: a-token")
    with pytest.raises(ContractError) as caught:
        server_info(address, credentials=tokens.credentials())
    assert caught.value.reason is Reason.TOKEN_MISSING
    assert f"{tokens.path} has none for 127.0.0.1: add a line `127.0.0.1: token`" in str(caught.value)


def test_metrics_are_by_name_and_a_stranger_makes_none(address: str, page: str) -> None:
    with Session(address, "toy/Count", 2, token="b-token") as session:
        session.reset([0, 1])
        for token in ("", "x" * 100, "y"):
            with pytest.raises(ContractError):
                server_info(address, token)
        said = urllib.request.urlopen(page).read().decode()
    assert 'overworld_client_slots{client="bob"} 2.0' in said
    assert 'overworld_client_calls_total{client="",reason="TOKEN_WRONG"}' in said
    names = {line.partition('client="')[2].partition('"')[0] for line in said.splitlines() if 'client="' in line}
    assert names <= {"", "ada", "bob"}


def test_a_health_check_costs_kilobytes_whatever_it_is_sent(toy_server: ServerProcess) -> None:
    """Anybody may make one; gRPC would read 16 MiB before it asks for anything."""
    process = psutil.Process(toy_server.process.pid)
    options = [("grpc.use_local_subchannel_pool", 1)]  # a connection each
    with contextlib.ExitStack() as channels:
        before = process.memory_info().rss
        body = bytes(15 * MEGABYTE)
        checks, watches = [], []
        for _ in range(10):
            one, other = (channels.enter_context(grpc.insecure_channel(toy_server.address, options)) for _ in range(2))
            check: grpc.UnaryUnaryMultiCallable[bytes, bytes] = one.unary_unary("/grpc.health.v1.Health/Check")
            watch: grpc.UnaryStreamMultiCallable[bytes, bytes] = other.unary_stream("/grpc.health.v1.Health/Watch")
            checks.append(check.future(body, timeout=20))
            watches.append(watch(body, timeout=20))
        assert {future.result() for future in checks} == {b"\x08\x01"}
        assert {next(stream) for stream in watches} == {b"\x08\x01"}
        assert process.memory_info().rss - before < 30 * MEGABYTE
    assert health(toy_server.address) == 1


def answered(watch: Iterator[bytes]) -> bool:
    try:
        return next(watch) == b"\x08\x01"
    except grpc.RpcError:
        return False


def test_who_watches_is_told_of_a_change_and_there_are_bounds(tmp_path: Path) -> None:
    arguments = ("--workers", "1", "--grace", "0.2")
    with ServerProcess(TOY, arguments=arguments) as server, grpc.insecure_channel(server.address) as channel:
        watch: grpc.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream("/grpc.health.v1.Health/Watch")
        watches = [watch(b"") for _ in range(256)]
        assert {next(one) for one in watches} == {b"\x08\x01"}
        with pytest.raises(grpc.RpcError, match="256 clients watch"):
            next(watch(b""))
        for one in watches[1:]:
            one.cancel()
        eventually(lambda: answered(watch(b"")))
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        assert next(watches[0]) == b"\x08\x02"
        watches[0].cancel()
        stopping.join()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "has 0 names; it must have 1 to 256"),
        ("trainer s3cret\n", "line 1 of .* must be `name: token`"),
        ("# names\n\na b: s3cret\n", "line 3 of .* must be `name: token`"),
        ("trainer:\n", "line 1 of .*: a token is 1 to 4096 printable ASCII characters"),
        ("trainer: s3crét\n", "line 1 of .*: a token is 1 to 4096 printable ASCII characters"),
        ("a: s3cret\na: t\nA: u\n", "line 3 of .*: A has 2 tokens already; delete the one that is out of use"),
        ("".join(f"n{number}: s3cret\n" for number in range(257)), "has 257 names; it must have 1 to 256"),
        ("x" * (1 << 20) + "y", "is larger than 1,048,576 bytes"),
        (None, r"cannot be read \(No such file or directory\); make the file"),
    ],
)
def test_a_file_that_holds_no_tokens_is_refused_without_showing_them(
    tmp_path: Path, content: str | None, words: str
) -> None:
    tokens = Tokens(tmp_path / "tokens")
    if content is not None:
        tokens.path.write_text(content)
    with pytest.raises(SettingsError, match=words) as caught:
        tokens.credentials()
    assert "s3cr" not in str(caught.value)
