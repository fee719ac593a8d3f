"""One server, to which everything is sent: right and wrong commands, and what no client would send.

Beside all that a session plays on undisturbed.
"""

from __future__ import annotations

import contextlib
import json
import random
import re
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import overworld
import psutil
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from overworld.client import channel
from overworld.errors import Reason
from overworld.host.openenv.messages import ErrorCode
from overworld.service.process import ServiceProcess
from overworld.v1 import env_pb2 as pb
from overworld.v1.env_pb2_grpc import EnvServiceStub
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.fuzz import table
from tests.fuzz.budget import reproducible, seeds
from tests.fuzz.mutation import mutated_bytes, mutated_json, mutated_message
from tests.fuzz.oracle import ENV, EXECUTED, MAX_TURNS, REPEATED, Slot, check
from tests.support import chain_env
from tests.support.chain_env import CHAIN, FRAIL_CHAIN
from tests.support.ports import free_port
from tests.support.proxy import Proxy

_GIB = 1 << 30
_PLAYED_SLOTS = 2
_SAID_OF_BROKEN_BYTES = (
    "Invalid UTF-8 sequence", "Invalid encoding on", "UnicodeDecodeError", "'utf-8' codec",
    "ExecuteBatchError raised in core",
)  # fmt: skip
"""By uvicorn, and by grpc."""
_SESSION = str(uuid.uuid4())
_RESPONSES: dict[str, type[Message]] = {
    "GetServerInfo": pb.GetServerInfoResponse,
    "Open": pb.OpenResponse,
    "Step": pb.StepResponse,
    "Close": pb.CloseResponse,
}
_PREFIX = [pb.Action(text="a", reply="because"), pb.Action(index=1), pb.Action()]
_TENSOR = pb.Tensor(dtype="float32", shape=[2], data=b"12345678")
_REQUESTS: tuple[tuple[str, Message], ...] = (
    ("GetServerInfo", pb.GetServerInfoRequest()),
    (
        "Open",
        pb.OpenRequest(
            session=_SESSION,
            env_id="toy/Chain",
            slots=2,
            options_json='{"max_turns": 9}',
            transports=[pb.TRANSPORT_SHARED_MEMORY, pb.TRANSPORT_INLINE],
            lease=Duration(seconds=30),
            fallback=pb.FALLBACK_RANDOM,
            required_features=["prefix"],
        ),
    ),
    ("Step", pb.StepRequest(session=_SESSION, commands=[pb.Command(turn=3, reset=pb.Reset(seed=1, prefix=_PREFIX))])),
    (
        "Step",
        pb.StepRequest(
            session=_SESSION,
            commands=[
                pb.Command(slot=0, turn=4, action=pb.Action(text="b", reply="hm")),
                pb.Command(slot=1, episode=1, reset=pb.Reset(seed=2, split="four", task=3)),
                pb.Command(slot=2, turn=1, action=pb.Action(tensor=_TENSOR)),
            ],
            min_ready=1,
        ),
    ),
    ("Close", pb.CloseRequest(session=_SESSION)),
)
_OPENENV: list[dict[str, Any]] = [
    {"type": "reset", "data": {"seed": 7, "split": "four", "task": 2, "options": {"max_turns": 8}}},
    {"type": "step", "data": {"text": "a", "reply": "so", "metadata": {}}},
    {"type": "step", "data": {"tensor": [0.5, 1]}},
    {"type": "step", "data": {"index": 1}},
    {"type": "state"},
]


@dataclass
class Server:
    process: ServiceProcess
    channels: list[grpc.Channel]
    openenv_port: int

    @property
    def stubs(self) -> list[EnvServiceStub]:
        return [EnvServiceStub(channel) for channel in self.channels]

    @property
    def resident(self) -> int:
        """Bytes of the process and its workers."""
        front = psutil.Process(self.process.process.pid)
        return sum(one.memory_info().rss for one in (front, *front.children(recursive=True)))


_OF_GRPC = re.compile(r"[IWE]\d{4} ")
"""What gRPC's core says of headers that make no sense, in its own form."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    alone = [("grpc.use_local_subchannel_pool", 1)]
    port = free_port()
    log = tmp_path_factory.mktemp("fuzz") / "log"
    arguments = ("serve", CHAIN, FRAIL_CHAIN, "--port=0", "--workers=2", "--slots=64", f"--openenv-port={port}")
    with ServiceProcess("overworld", *arguments, log=log, environment={"OVERWORLD_LOG_LEVEL": "WARNING"}) as process:
        with grpc.insecure_channel(process.address, alone) as one, grpc.insecure_channel(process.address, alone) as two:
            yield Server(process, [one, two], port)
    lines = [json.loads(line) for line in log.read_text().splitlines() if not _OF_GRPC.match(line)]
    raised = [line for line in lines if "exception" in line and "RuntimeError: as asked" not in line["exception"]]
    assert [line for line in raised if not any(said in line["message"] for said in _SAID_OF_BROKEN_BYTES)] == []


class Neighbour:
    """A session that plays on, whatever is sent beside it."""

    def __init__(self, stub: EnvServiceStub) -> None:
        self._stub = stub
        self._session = str(uuid.uuid4())
        self._slot = Slot()
        options = json.dumps({"max_turns": MAX_TURNS})
        stub.Open(pb.OpenRequest(session=self._session, env_id=ENV, slots=1, options_json=options))

    def step(self) -> None:
        """Plays a turn. Fails if the result is not the right one."""
        last = self._slot.last
        if last is None or last.turn == MAX_TURNS:
            command = pb.Command(episode=0 if last is None else last.episode + 1, reset=pb.Reset(seed=3))
        else:
            command = pb.Command(episode=last.episode, turn=last.turn + 1, action=pb.Action(text="b"))
        response = self._stub.Step(pb.StepRequest(session=self._session, commands=[command]), timeout=table.PATIENCE)
        self._slot.accept(command)
        check(self._slot, response.results[0], response)

    def close(self) -> None:
        self._stub.Close(pb.CloseRequest(session=self._session))


@pytest.fixture
def neighbour(server: Server) -> Iterator[Neighbour]:
    neighbour = Neighbour(server.stubs[0])
    yield neighbour
    neighbour.close()
    assert server.resident < _GIB
    info = server.stubs[0].GetServerInfo(pb.GetServerInfoRequest())
    assert info.slots_free == info.slots_total


@pytest.mark.timeout(0)
def test_the_table_of_slots_episodes_and_turns(server: Server) -> None:
    counts: Counter[str] = Counter()
    for seed in seeds():
        with reproducible(seed):
            table.play(server.stubs, seed, counts)
    print(f"\n{counts.pop('commands'):,} commands: {dict(counts.most_common())}")
    assert {EXECUTED, REPEATED, "CONFLICT", "NOT_RESET"} <= set(counts)


@pytest.mark.timeout(0)
def test_mutated_calls(server: Server, neighbour: Neighbour) -> None:
    counts: Counter[str] = Counter()
    for seed in seeds():
        with reproducible(seed) as rng:
            for _ in range(100):
                counts[_call(server, rng)] += 1
            neighbour.step()
            server.stubs[0].Close(pb.CloseRequest(session=_SESSION))
    print(f"\n{counts.total():,} calls: {dict(counts.most_common())}")
    assert counts["OK"]
    assert counts["REQUEST_INVALID"]


def _call(server: Server, rng: random.Random) -> str:
    """Sends a mutated message. Returns what came of it: OK, or why it was refused."""
    name, message = rng.choice(_REQUESTS)
    data = mutated_message(message, rng)
    try:
        sent: Message | None = type(message).FromString(data)
    except DecodeError:
        sent = None
    call: Any = rng.choice(server.channels).unary_unary(f"/overworld.v1.EnvService/{name}")
    try:
        answer = call(data, timeout=table.PATIENCE)
    except grpc.RpcError as error:
        if sent is None:
            return "not a message"
        why = Reason[table.reason(error)]
        assert why.status == error.code().name, (why, error.code())
        return why.name
    assert sent is not None
    _RESPONSES[name].FromString(answer)
    if isinstance(sent, pb.OpenRequest) and sent.session != _SESSION:
        server.stubs[0].Close(pb.CloseRequest(session=sent.session))
    return "OK"


@pytest.mark.timeout(0)
def test_mutated_names_of_methods(server: Server) -> None:
    """grpc.aio ends when a name is not UTF-8, and is started again: a session beside that loses nothing."""
    with overworld.Session(server.process.address, "toy/Chain", 1) as session:
        for seed in seeds(0.3):
            with reproducible(seed) as rng:
                session.step([overworld.Reset(seed=seed)])
                state = chain_env.first(seed, "endless", None)
                for name in (b"/overworld.v1.En\xf6Service/Step", mutated_bytes(b"/overworld.v1.EnvService/Step", rng)):
                    call: Any = server.channels[1].unary_unary(name)  # type: ignore[arg-type] # a name of any bytes
                    with contextlib.suppress(grpc.RpcError, ValueError):
                        call(b"", timeout=table.PATIENCE)
                    state = chain_env.following(state, "b")
                    (result,) = session.step(["b"])
                    assert result.observation.text == state


@pytest.mark.timeout(0)
def test_mutated_messages_to_the_openenv_endpoint(server: Server, neighbour: Neighbour) -> None:
    counts: Counter[str] = Counter()
    for seed in seeds(0.5):
        with reproducible(seed) as rng:
            url = f"ws://127.0.0.1:{server.openenv_port}/toy/Chain/ws"
            with contextlib.suppress(ConnectionClosed), connect(url) as socket:
                for _ in range(40):
                    message = mutated_json(json.dumps(rng.choice(_OPENENV)).encode(), rng)
                    socket.send(message, text=rng.random() < 0.95)
                    counts[_answer(socket.recv(timeout=table.PATIENCE))] += 1
            counts[_post(server.openenv_port, rng)] += 1
            neighbour.step()
    print(f"\n{counts.total():,} messages: {dict(counts.most_common())}")
    assert {"observation", "VALIDATION_ERROR"} & set(counts)


@pytest.mark.timeout(0)
def test_a_network_that_loses_and_spoils_what_it_carries(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "_FIRST_CALL_SECONDS", 0.5)  # a piece too many can leave both sides waiting
    counts: Counter[str] = Counter()
    for seed in seeds():
        with reproducible(seed) as rng:
            proxy = Proxy(server.process.address, seed=seed)
            options = {"max_turns": MAX_TURNS}
            with overworld.Session(
                proxy.address, "toy/Chain", _PLAYED_SLOTS, options=options, shared_memory=False
            ) as session:
                _play(session, proxy, rng)
                proxy.restore()
            proxy.close()
            counts.update(cuts=proxy.cuts, flipped=proxy.flipped, repeated=proxy.repeated)
    print(f"\n{dict(counts)}")
    assert counts.total()


def _play(session: overworld.Session, proxy: Proxy, rng: random.Random) -> None:
    """Plays an episode in each slot, with a fault in most turns."""
    seeds = [rng.randrange(2**64) for _ in range(_PLAYED_SLOTS)]
    states = [chain_env.first(seed, "endless", None) for seed in seeds]
    words = [""] * len(seeds)
    for turn in range(MAX_TURNS + 1):
        fault = rng.choice(("none", "cut", "cut_after", "delay", "drip", "flips", "repeats"))
        proxy.delay = 0.005 if fault == "delay" else 0.0
        proxy.drip = 7 if fault == "drip" else None
        proxy.cut_after = rng.choice((0, 1, 9, 50, 300)) if fault == "cut_after" else None
        proxy.flips, proxy.repeats = int(fault == "flips"), int(fault == "repeats")
        if fault == "cut":
            proxy.cut()
            proxy.cuts += 1
        if turn:
            words = [rng.choice(("a", "b")) for _ in seeds]
            states = [chain_env.following(state, word) for state, word in zip(states, words, strict=True)]
        moves = words if turn else [overworld.Reset(seed=seed) for seed in seeds]
        for result, state, word in zip(session.step(moves), states, words, strict=True):
            assert result.error is None, f"{fault}: {result.error}"
            assert (result.observation.text, result.executed) == (state, word or None), fault
            assert np.array_equal(result.observation.images[0].pixels, chain_env.pixels(state)), fault
            assert result.reward == (chain_env.reward(state) if turn else 0.0), fault


def _answer(text: str | bytes) -> str:
    answer = json.loads(text)
    assert answer["data"]
    kind: str = answer["type"]
    assert kind in ("observation", "state", "error")
    return ErrorCode(answer["data"]["code"]).name if kind == "error" else kind


def _post(port: int, rng: random.Random) -> str:
    """Sends a mutated body, or asks for a mutated path."""
    body = mutated_json(json.dumps(_OPENENV[0]["data"]).encode(), rng)
    path = "/toy/Chain/reset" if rng.random() < 0.7 else urllib.parse.quote(mutated_bytes(b"/toy/Chain/reset", rng))
    request = urllib.request.Request(f"http://127.0.0.1:{port}/{path.lstrip('/')}", body, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=table.PATIENCE) as response:
            assert json.load(response)
            return f"HTTP {response.status}"
    except urllib.error.HTTPError as error:
        with error:
            assert error.code < 500, error.read()
        return f"HTTP {error.code}"
