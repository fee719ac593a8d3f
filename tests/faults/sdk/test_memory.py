"""What a client can make a server keep."""

import contextlib
import socket
import threading
import time
import uuid
from collections.abc import Iterator

import grpc
import psutil
import pytest
from overworld.host.process import ServerProcess
from overworld.v1 import env_pb2 as pb
from overworld.v1 import env_pb2_grpc

from tests.support.toy_env import TOY

MEGABYTE = 1 << 20
SERVICE = "overworld.v1.EnvService"


class Deaf:
    """A way to a server over which, once `deaf` is set, requests go and no responses come: nobody reads them."""

    def __init__(self, address: str) -> None:
        self.deaf, self._closed = threading.Event(), threading.Event()
        host, _, port = address.rpartition(":")
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._server = socket.create_connection((host, int(port)))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        client, _ = self._listener.accept()
        with client:
            threading.Thread(target=self._pump, args=(client, self._server), daemon=True).start()
            self._pump(self._server, client)
            self._closed.wait()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while not (self.deaf.is_set() and source is self._server):
                if not (data := source.recv(65536)):
                    return
                target.sendall(data)

    def close(self) -> None:
        for connection in (self._server, self._listener):
            connection.close()
        self._closed.set()
        self._thread.join(60)


@pytest.fixture
def server() -> Iterator[ServerProcess]:
    with ServerProcess(TOY, arguments=("--workers", "1", "--slots", "32")) as server:
        yield server


def resident(server: ServerProcess) -> float:
    """Megabytes of the front."""
    return psutil.Process(server.process.pid).memory_info().rss / MEGABYTE


def test_replies_in_a_prefix_are_not_kept(server: ServerProcess) -> None:
    moves = [pb.Action(text="up" if turn % 2 else "down", reply="x" * 60_000) for turn in range(120)]  # 7 MB
    with grpc.insecure_channel(server.address) as channel:
        stub = env_pb2_grpc.EnvServiceStub(channel)
        name = str(uuid.uuid4())
        stub.Open(pb.OpenRequest(session=name, env_id="toy/Count", slots=20, options_json='{"max_turns": 1000}'))
        for slot in range(20):
            command = pb.Command(slot=slot, episode=1, turn=len(moves), reset=pb.Reset(prefix=moves))
            request = pb.StepRequest(session=name, commands=[command])
            if slot == 4:
                before = resident(server)  # room for requests that are under way is taken by now
            (result,) = stub.Step(request).results
            assert (result.state, result.turn) == (pb.SLOT_STATE_READY, len(moves))
        assert stub.Step(request).results[0].turn == len(moves)  # it is known again
        command.reset.prefix[0].reply = "y"
        with pytest.raises(grpc.RpcError, match="another command had this name"):
            stub.Step(pb.StepRequest(session=name, commands=[command]))
        assert resident(server) < before + 60
        stub.Close(pb.CloseRequest(session=name))


@pytest.mark.parametrize("sessions", [1, 3], ids=["of_its_session", "of_all_its_sessions"])
def test_a_client_that_does_not_read_gets_few_responses_made(server: ServerProcess, sessions: int) -> None:
    way = Deaf(server.address)
    with grpc.insecure_channel(way.address, [("grpc.max_receive_message_length", -1)]) as channel:
        stub = env_pb2_grpc.EnvServiceStub(channel)
        names = [str(uuid.uuid4()) for _ in range(sessions)]
        commands = [pb.Command(slot=slot, reset=pb.Reset()) for slot in range(4)]
        steps = [pb.StepRequest(session=name, commands=commands) for name in names]
        for name, step in zip(names, steps, strict=True):
            stub.Open(pb.OpenRequest(session=name, env_id="toy/Count", slots=4, options_json='{"size": 2000}'))
            assert len(stub.Step(step).frames) == 4 * 2000 * 2000 * 3
        before = resident(server)
        way.deaf.set()
        calls = [stub.Step.future(step) for step in steps for _ in range(20)]  # 48 MB each
        until = time.monotonic() + 4
        while time.monotonic() < until:
            assert resident(server) < before + 300
            time.sleep(0.1)
        assert not any(call.done() for call in calls)
        with grpc.insecure_channel(server.address) as other:  # nobody else waits for it
            stub = env_pb2_grpc.EnvServiceStub(other)
            assert stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=60).slots_free == 32 - 4 * sessions
            for name in names:
                stub.Close(pb.CloseRequest(session=name), timeout=60)
    way.close()


def test_what_is_beyond_a_bound_is_refused_and_costs_next_to_nothing(server: ServerProcess) -> None:
    name, other = str(uuid.uuid4()), str(uuid.uuid4())
    opening = pb.OpenRequest(session=name, env_id="toy/Count", slots=2, options_json='{"max_turns": 1000}')
    empty, large = b"\x00", 7 * MEGABYTE
    commands = pb.StepRequest(session=name).SerializeToString() + b"\x12\x00" * (large // 2)
    texts = [pb.Action(text="x" * 4096)] * 600
    prefix = pb.StepRequest(
        session=name, commands=[pb.Command(episode=1, turn=len(texts), reset=pb.Reset(prefix=texts))]
    )
    attacks = {
        "GetServerInfo or Close": ("GetServerInfo", b"\x7a\x80\x80\xc0\x03" + empty * large),
        "a request of Open": ("Open", pb.OpenRequest(session="5" * large).SerializeToString()),
        "required features": ("Open", pb.OpenRequest(session=other, required_features=["x"] * 40).SerializeToString()),
        "options_json": ("Open", pb.OpenRequest(session=other, options_json=" " * 70_000).SerializeToString()),
        "commands of a Step": ("Step", commands),
        "the episode's actions take": ("Step", prefix.SerializeToString()),
    }
    for spelled in (name.replace("-", ""), f"{{{name}}}", f"urn:uuid:{name}", name[:-1] + "\N{ARABIC-INDIC DIGIT ONE}"):
        request = pb.OpenRequest(session=spelled, env_id="toy/Count", slots=1)
        attacks[f"is a UUID in text form, not {spelled!r}"] = ("Open", request.SerializeToString())
    with grpc.insecure_channel(server.address) as channel:
        stub = env_pb2_grpc.EnvServiceStub(channel)
        stub.Open(opening)
        before = resident(server)
        for words, (method, data) in attacks.items():
            call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{SERVICE}/{method}")
            with pytest.raises(grpc.RpcError, match="INVALID") as refused:
                call(data, timeout=60)
            assert words in str(refused.value)
        assert resident(server) < before + 120
        stub.Close(pb.CloseRequest(session=name))


def test_a_call_without_the_token_is_refused_before_its_request_is_read() -> None:
    with (
        ServerProcess(TOY, arguments=("--workers", "1"), token="s3cret") as server,
        contextlib.ExitStack() as channels,
    ):
        done = threading.Event()

        def never() -> Iterator[bytes]:
            done.wait(30)
            yield b""

        options = [("grpc.use_local_subchannel_pool", 1)]  # a connection each
        for method in ("GetServerInfo", "Open", "Step", "Close"):
            channel = channels.enter_context(grpc.insecure_channel(server.address, options))
            call: grpc.StreamUnaryMultiCallable[bytes, bytes] = channel.stream_unary(f"/{SERVICE}/{method}")
            assert call.future(never(), timeout=25).code() is grpc.StatusCode.UNAUTHENTICATED
        done.set()
        before = resident(server)
        futures = []
        for _ in range(30):
            channel = channels.enter_context(grpc.insecure_channel(server.address, options))
            open_: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{SERVICE}/Open")
            futures.append(open_.future(bytes(15 * MEGABYTE), timeout=20))
        assert {future.code() for future in futures} == {grpc.StatusCode.UNAUTHENTICATED}
        assert resident(server) < before + 60


def test_a_connection_that_says_nothing_is_closed(server: ServerProcess) -> None:
    host, _, port = server.address.rpartition(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.settimeout(10)
        while connection.recv(4096):  # the server's settings, then the end
            pass
