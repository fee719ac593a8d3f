"""Clients with servers that come and go at bad moments, and with servers that answer nonsense."""

import concurrent.futures
import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from overworld import (
    CallFailedError,
    ContractError,
    Fleet,
    Reset,
    ServerBrokenError,
    ServerChangedError,
    ServerLostError,
    ServerStuckError,
    Session,
    server_info,
)
from overworld.client.channel import Channel
from overworld.contract.compression import compress
from overworld.host.process import ServerProcess
from overworld.service.credentials import Credentials
from overworld.v1 import env_pb2 as pb
from overworld.v1 import env_pb2_grpc

from tests.support.optional import present
from tests.support.proxy import Proxy
from tests.support.toy_env import SLOW

from .test_restarts import port_of, start


def test_calls_of_several_threads_survive_a_restart() -> None:
    server = start()
    port = port_of(server)
    with Session(server.address, "toy/Count", 8, options={"max_turns": 1000}, retry_budget=120) as session:
        session.step({slot: Reset(seed=slot) for slot in range(8)})
        stop = threading.Event()
        turns = [0] * 4
        errors: list[object] = []

        def play(group: int) -> None:
            slots = (group, group + 4)
            while not stop.is_set():
                moves = ("slow", "up", "down")[turns[group] % 3]
                try:
                    results = session.step(dict.fromkeys(slots, moves))
                except Exception as error:
                    errors.append(error)
                    return
                turns[group] += 1
                errors.extend(result.error for result in results if result.error)
                errors.extend(f"turn {result.turn}" for result in results if result.turn != turns[group])

        threads = [threading.Thread(target=play, args=(group,)) for group in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(3):
            time.sleep(0.5)
            server.kill()
            server = start(port)
        before = list(turns)
        until = time.monotonic() + 30
        while min(now - then for now, then in zip(turns, before, strict=True)) < 3 and time.monotonic() < until:
            time.sleep(0.05)
        stop.set()
        for thread in threads:
            thread.join()
    server.stop()
    assert errors == []
    assert all(now - then >= 3 for now, then in zip(turns, before, strict=True))


def test_a_second_restart_while_episodes_are_brought_back() -> None:
    server = ServerProcess(SLOW, arguments=("--workers", "1"))
    port = port_of(server)
    with Session(server.address, "toy/Slow", 3, retry_budget=120) as session:
        session.reset([0, 1, 2])
        for _ in range(4):
            session.step(["wait"] * 3)
        server.kill()
        server = ServerProcess(SLOW, arguments=("--workers", "1"), port=port)
        going_on = session.submit(["wait"] * 3)
        time.sleep(0.8)  # the replay takes 12 x 0.15 s
        server.kill()
        server = ServerProcess(SLOW, arguments=("--workers", "1"), port=port)
        assert [result.turn for result in going_on.result()] == [5, 5, 5]
    server.stop()


def test_a_fleet_goes_back_to_a_server_that_was_only_out_of_reach(
    monkeypatch: pytest.MonkeyPatch, toy_server: ServerProcess
) -> None:
    monkeypatch.setattr("overworld.client.fleet._FAILOVER_SECONDS", 0.5)
    proxy = Proxy(toy_server.address)
    with Fleet([proxy.address], "toy/Count", 30, retry_budget=15) as fleet:  # too many for a second session
        fleet.step([Reset(seed=slot) for slot in range(30)])
        proxy.cut_off()
        threading.Timer(2.0, proxy.restore).start()
        results = fleet.step(["up"] * 30)
        assert [result.turn for result in results] == [1] * 30


def test_a_fleet_gives_results_again_that_one_server_gave_while_another_refused() -> None:
    with start() as one, start() as other, Fleet([one.address, other.address], "toy/Count", 10) as fleet:
        fleet.step([Reset(seed=slot) for slot in range(10)])
        moves = ["up"] * 9 + ["x" * 5000]
        with pytest.raises(ContractError, match="ACTION_TOO_LARGE"):
            fleet.step(moves)
        moves[9] = "up"
        results = fleet.step(moves)
        assert [result.turn for result in results] == [1] * 10
        assert [result.metrics["count"] for result in results] == [1.0] * 10
        assert [result.turn for result in fleet.step(["down"] * 10)] == [2] * 10


def test_a_wrong_move_on_a_pending_slot_does_not_lose_it(toy_server: ServerProcess) -> None:
    with Session(toy_server.address, "toy/Count", 2) as session:
        session.reset([0, 0])
        results = session.step_some(["slow", "up"], min_ready=1)
        pending = [result for result in results if result.pending]
        for result in pending:
            with pytest.raises(ContractError, match="CONFLICT"):
                session.step({result.slot: "down"})
        assert [result.turn for result in session.collect(pending)] == [1] * len(pending)
        assert [result.turn for result in session.step(["up", "up"])] == [2, 2]


def test_a_reset_works_after_one_whose_answer_was_given_up(toy_server: ServerProcess) -> None:
    proxy = Proxy(toy_server.address)
    with Session(proxy.address, "toy/Count", 1, retry_budget=0.5) as session:
        session.reset([0])
        proxy.cut_off(swallow=True)  # the server gets the reset, the client no answer
        with pytest.raises(ServerLostError):
            session.step([Reset(seed=1)])
        proxy.restore()
        time.sleep(0.5)
        assert session.step([Reset(seed=2)])[0].turn == 0
        assert session.step(["up"])[0].metrics == {"count": 1.0}


def test_a_batch_that_takes_longer_than_the_budget_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("overworld.client.channel._CALL_SECONDS", 0.4)
    with ServerProcess(SLOW, arguments=("--workers", "1")) as server:
        with Session(server.address, "toy/Slow", 8, retry_budget=0.5) as session:
            session.reset(range(8))
            assert [result.turn for result in session.step(["wait"] * 8)] == [1] * 8


class Liar(env_pb2_grpc.EnvServiceServicer):
    """A server of another team, with a bug. `spoil(response)` spoils each Step's answer."""

    address: str

    def __init__(self) -> None:
        self.spoil: Callable[[pb.StepResponse], object] = lambda response: None
        self.lease = 60
        self.renewals = 0
        self.transport = pb.TRANSPORT_INLINE
        self.turn = 0
        self.provenance = ""
        self.failing = ""  # the method that fails with an error of gRPC's own
        self.holding = ""  # the method that is never finished
        self.held = 0  # calls
        self.keepalive = 0
        self.seconds = 0.0  # that a Step takes
        self.peers: set[str] = set()  # of Steps: one connection has one
        self.openers: list[str] = []  # of GetServerInfo and Open
        self.max_request_bytes = 0
        self.sent: list[pb.StepRequest] = []  # with commands
        self.bounds = (0.0, 0.0)
        self.spoil_open: Callable[[pb.OpenResponse], object] = lambda response: None

    def fail(self, method: str, context: grpc.ServicerContext) -> None:
        if method == self.failing:
            context.abort(grpc.StatusCode.INTERNAL, "boom")
        self.held += method == self.holding
        while method == self.holding and context.is_active():
            time.sleep(0.02)

    def GetServerInfo(
        self, request: pb.GetServerInfoRequest, context: grpc.ServicerContext
    ) -> pb.GetServerInfoResponse:
        self.fail("GetServerInfo", context)
        self.openers.append(context.peer())
        response = pb.GetServerInfoResponse(
            slots_total=4, slots_free=4, envs=[self.spec()], max_request_bytes=self.max_request_bytes
        )
        if self.keepalive:
            response.keepalive.seconds = self.keepalive
        return response

    def spec(self) -> pb.EnvSpec:
        action = pb.ActionSpec(vocabulary=["go"])
        spec = pb.EnvSpec(id="liar/Env", action=action, splits={"endless": 0}, default_split="endless")
        spec.reward_min, spec.reward_max = self.bounds
        return spec

    def Open(self, request: pb.OpenRequest, context: grpc.ServicerContext) -> pb.OpenResponse:
        self.fail("Open", context)
        self.openers.append(context.peer())
        response = pb.OpenResponse(
            spec=self.spec(), options_json="{}", transport=self.transport, provenance_digest=self.provenance
        )
        response.lease.seconds = self.lease
        self.spoil_open(response)
        return response

    def Step(self, request: pb.StepRequest, context: grpc.ServicerContext) -> pb.StepResponse:
        if not request.commands:
            self.renewals += 1
        else:
            self.sent.append(request)
            self.peers.add(context.peer())
            time.sleep(self.seconds)
        self.fail("Step", context)
        response = pb.StepResponse(frames=bytes(48 * len(request.commands)))
        if request.commands:
            response.blocks.add(stride=48, count=len(request.commands), height=4, width=4, channels=3)
        for number, command in enumerate(request.commands):
            result = response.results.add(
                slot=command.slot, episode=command.episode, turn=command.turn, state=pb.SLOT_STATE_READY
            )
            result.observation.parts.add(image=0)
            result.observation.images.add(name="view", index=number, xxh64=self.hash)
        self.spoil(response)
        return response

    def Close(self, request: pb.CloseRequest, context: grpc.ServicerContext) -> pb.CloseResponse:
        self.fail("Close", context)
        return pb.CloseResponse()

    @property
    def hash(self) -> int:
        from overworld.contract.frames import pixels_hash

        return pixels_hash(np.zeros((4, 4, 3), np.uint8))


@contextlib.contextmanager
def serving(servicer: Liar, **options: int) -> Iterator[None]:
    """Serves with gRPC's own options, e.g. max_receive_message_length, as any server of another team would."""
    server = grpc.server(
        concurrent.futures.ThreadPoolExecutor(4), options=[(f"grpc.{name}", value) for name, value in options.items()]
    )
    env_pb2_grpc.add_EnvServiceServicer_to_server(servicer, server)
    servicer.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield
    server.stop(0)


@pytest.fixture
def liar() -> Iterator[Liar]:
    servicer = Liar()
    with serving(servicer):
        yield servicer


def change(path: str, value: float) -> Callable[[pb.StepResponse], None]:
    """Sets results[0].<path> of a response."""

    def spoil(response: pb.StepResponse) -> None:
        *owners, name = path.split(".")
        target: Any = response.results[0]
        for owner in owners:
            target = target[int(owner)] if owner.isdigit() else getattr(target, owner)
        setattr(target, name, value)

    return spoil


def test_a_slow_link_is_waited_for(toy_server: ServerProcess) -> None:
    """A round trip takes .8 s: attempts to connect that were given up after a tenth of that would be made in rows."""
    proxy = Proxy(toy_server.address)
    proxy.delay = 0.4
    assert server_info(proxy.address, retry_budget=120).slots_total
    assert proxy.accepted < 10


def test_a_server_that_goes_away_for_a_reason_that_nobody_knows(toy_server: ServerProcess) -> None:
    """An unknown code means nothing special (RFC 9113, section 7); gRPC 1.84 and 1.85 abort the client for it."""
    last_stream, code = (2**31 - 1).to_bytes(4), (70007).to_bytes(4)
    goaway = (8).to_bytes(3) + b"\x07\x00" + bytes(4) + last_stream + code
    proxy = Proxy(toy_server.address)
    with Session(proxy.address, "toy/Count", 1, shared_memory=False, retry_budget=20) as session:
        session.reset([1])
        proxy.inserted = goaway
        assert session.step(["up"])[0].metrics == {"count": 1.0}
        assert session.step(["up"])[0].metrics == {"count": 2.0}
    assert not proxy.inserted


def test_an_answer_without_its_message_is_asked_for_again() -> None:
    """A bit that flips in a frame's header can have gRPC skip the message and report success."""
    answers: list[list[bytes]] = [[], [], [b"a message"]]
    method: Any = grpc.unary_stream_rpc_method_handler(lambda request, context: iter(answers.pop(0)))
    handler = grpc.method_handlers_generic_handler("overworld.v1.EnvService", {"Close": method})
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(1), [handler])
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    channel = Channel(address, Credentials(), retry_budget=120)
    assert channel.call("Close", pb.CloseRequest()) == b"a message"
    channel.close()
    server.stop(0)


@pytest.mark.parametrize(
    "spoil",
    [
        change("slot", 99),
        change("turn", 7),
        change("episode", 7),
        change("state", 9),
        change("end", 9),
        change("outcome", 9),
        change("observation.parts.0.image", 3),
        change("observation.images.0.block", 3),
        change("observation.images.0.index", 3),
        change("observation.images.0.xxh64", 3),
        lambda response: response.results.pop(),
        lambda response: response.results.append(response.results[0]),
        lambda response: setattr(response.blocks[0], "channels", 2),
        lambda response: setattr(response.blocks[0], "height", 2**31),
        lambda response: setattr(response, "frames", b""),
        lambda response: response.results[0].observation.tensors["x"].CopyFrom(pb.Tensor(dtype="object")),
    ],
    ids=range(16),
)
def test_answers_that_make_no_sense_are_said_to_and_change_nothing(
    liar: Liar, spoil: Callable[[pb.StepResponse], None]
) -> None:
    with Session(liar.address, "liar/Env", 2) as session:
        session.reset([0, 0])
        liar.spoil = spoil
        with pytest.raises(ServerBrokenError, match=r"127\.0\.0\.1.*makes no sense"):
            session.step(["go", "go"])
        liar.spoil = lambda response: None
        assert [result.turn for result in session.step(["go", "go"])] == [1, 1]


def make(change: Callable[[pb.SlotResult], object]) -> Callable[[pb.StepResponse], None]:
    """Applies `change` to results[1] of a response."""

    def spoil(response: pb.StepResponse) -> None:
        change(response.results[1])

    return spoil


def no_success(result: pb.SlotResult) -> None:
    result.end = pb.END_TASK


def success_too_early(result: pb.SlotResult) -> None:
    result.success = False


def failed_silently(result: pb.SlotResult) -> None:
    result.state = pb.SLOT_STATE_FAILED
    result.error.message = "boom"


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda result: setattr(result, "reward", float("nan")), "the reward is nan; a finite number"),
        (lambda result: setattr(result, "reward", float("-inf")), "the reward is -inf; a finite number"),
        (lambda result: result.metrics.update({"a": 1.0, "b": float("inf")}), "the metric 'b' is inf; a finite number"),
        (no_success, "end is set and success is not; at an episode's end both are"),
        (success_too_early, "success is False and end not set; at an episode's end both are"),
        (lambda result: result.ClearField("observation"), "READY without an observation"),
        (lambda result: result.observation.ClearField("parts"), "no part names image 0 of 1; exactly one was expected"),
        (lambda result: result.observation.parts.add(image=0), "2 parts name image 0; exactly one was expected"),
        (lambda result: result.observation.parts.add(image=1), "a part names image 1 of 1"),
        (lambda result: result.observation.ClearField("images"), "a part names image 0 of 0"),
        (lambda result: result.observation.parts.add(), "a part of the observation is empty"),
        (lambda result: result.observation.admissible.extend(["go", "fly"]), "'fly' is not in the vocabulary"),
        (lambda result: setattr(result.expert.action, "index", 0), "the expert's action is index; a text was expected"),
        (failed_silently, "it failed without a reason"),
    ],
)
def test_an_answer_that_breaks_the_contract_names_the_rule_and_the_slot(
    liar: Liar, spoil: Callable[[pb.SlotResult], object], says: str
) -> None:
    with Session(liar.address, "liar/Env", 2) as session:
        session.reset([0, 0])
        liar.spoil = make(spoil)
        said = rf"^{re.escape(liar.address)} answered Step .*slot 1, episode 0, turn 1: .*{re.escape(says)}"
        with pytest.raises(ServerBrokenError, match=said):
            session.step(["go", "go"])
        liar.spoil = lambda response: None
        assert [result.turn for result in session.step(["go", "go"])] == [1, 1]


def test_a_replay_is_checked_like_any_answer(liar: Liar) -> None:
    with Session(liar.address, "liar/Env", 2) as session:
        session.reset([0, 0])
        other = Liar()
        other.spoil = change("reward", float("nan"))
        with serving(other), pytest.raises(ServerBrokenError, match="the reward is nan"):
            session.move(other.address)


@pytest.mark.parametrize(
    ("announced", "options", "text"),
    [(2_000, {"max_receive_message_length": 2_000}, "go " * 60), (0, {}, "go " * 60_000)],
)
def test_replays_go_in_requests_that_the_server_takes(
    liar: Liar, announced: int, options: dict[str, int], text: str
) -> None:
    """Four slots of eight turns: one request for all of them is beyond what gRPC lets through."""
    with Session(liar.address, "liar/Env", 4) as session:
        session.reset([0] * 4)
        for _ in range(8):
            for slot in range(4):
                session.step({slot: text})
        other = Liar()
        other.max_request_bytes = announced
        with serving(other, **options):
            session.move(other.address)
            assert len(other.sent) > 1
            assert [command.slot for request in other.sent for command in request.commands] == [0, 1, 2, 3]
            results = session.step(dict.fromkeys(range(4), "go"))
            assert [(result.turn, result.error) for result in results] == [(9, None)] * 4


def test_an_episode_that_no_request_holds_is_lost_and_the_others_are_not(liar: Liar) -> None:
    with Session(liar.address, "liar/Env", 3) as session:
        session.reset([0] * 3)
        session.step({0: "go", 1: "go" * 1_500, 2: "go"})
        other = Liar()
        other.max_request_bytes = 2_000
        with serving(other, max_receive_message_length=2_000):
            session.move(other.address)
            results = session.step(["go"] * 3)
            assert [result.turn for result in results] == [2] * 3
            assert [result.error is None for result in results] == [True, False, True]
            lost = present(results[1].error)
            assert re.search(r"its replay takes 3,0\d\d bytes, and 127.0.0.1:\d+ accepts 1,\d{3}", lost.message)
            assert session.step({1: Reset()})[0].error is None


def test_results_are_pending_only_where_that_was_asked_for(liar: Liar) -> None:
    liar.spoil = change("state", pb.SLOT_STATE_PENDING)
    with Session(liar.address, "liar/Env", 2) as session:
        with pytest.raises(ServerBrokenError, match="1 of 2 results are pending; 2 had to be ready"):
            session.reset([0, 0])
        assert [result.pending for result in session.step_some([Reset(), Reset()], min_ready=1)] == [True, False]


def compressing(change: Callable[[pb.StepResponse], object]) -> Callable[[pb.StepResponse], None]:
    """Compresses the only block of a response, and spoils that."""

    def spoil(response: pb.StepResponse) -> None:
        if response.frames:
            response.frames = compress([memoryview(response.frames)])
            response.blocks[0].compressed_size = len(response.frames)
            change(response)

    return spoil


def test_compressed_blocks_are_read(liar: Liar) -> None:
    liar.transport = pb.TRANSPORT_INLINE_LZ4
    with Session(liar.address, "liar/Env", 3, shared_memory=False, compress=True) as session:
        assert session.reset([0] * 3).frames().shape == (3, 4, 4, 3)  # a block need not be
        liar.spoil = compressing(lambda response: None)
        assert not session.step(["go"] * 3).frames().any()


@pytest.mark.parametrize(
    "change",
    [
        lambda response: setattr(response.blocks[0], "count", 3),
        lambda response: setattr(response.blocks[0], "count", 1 << 31),
        lambda response: setattr(response.blocks[0], "height", 5),
        lambda response: setattr(response.blocks[0], "height", 1 << 31),
        lambda response: setattr(response.blocks[0], "width", 0),
        lambda response: setattr(response.blocks[0], "stride", 49),
        lambda response: setattr(response.blocks[0], "stride", 0),
        lambda response: setattr(response.blocks[0], "offset", 1),
        lambda response: setattr(response.blocks[0], "offset", 1 << 63),
        lambda response: setattr(response.blocks[0], "compressed_size", 1),
        lambda response: setattr(response.blocks[0], "compressed_size", 0),
        lambda response: setattr(response.blocks[0], "compressed_size", 1 << 63),
        lambda response: setattr(response, "frames", bytes(len(response.frames))),
        lambda response: setattr(response, "frames", response.frames[:-1]),
        lambda response: setattr(response, "frames", compress([memoryview(b"\1" * 96)])),
        lambda response: response.blocks.add().CopyFrom(response.blocks[0]),
        lambda response: response.ClearField("blocks"),
    ],
)
def test_broken_compression_is_said_to_be(liar: Liar, change: Callable[[pb.StepResponse], object]) -> None:
    liar.transport = pb.TRANSPORT_INLINE_LZ4
    liar.spoil = compressing(change)
    with Session(liar.address, "liar/Env", 2, shared_memory=False, compress=True) as session:
        with pytest.raises(ServerBrokenError, match="answered Step in a way that makes no sense"):
            session.reset([0, 0])


def test_only_the_first_session_connects_twice_to_ping_as_often_as_it_may(liar: Liar) -> None:
    liar.keepalive = 20
    for connections in (2, 1):
        liar.openers.clear()
        with Session(liar.address, "liar/Env", 1):
            assert len(liar.openers) == 2
            assert len(set(liar.openers)) == connections


def test_a_block_is_not_compressed_unasked(liar: Liar) -> None:
    liar.spoil = lambda response: setattr(response.blocks[0], "compressed_size", 48)
    with Session(liar.address, "liar/Env", 1) as session, pytest.raises(ServerBrokenError, match="INLINE_LZ4"):
        session.reset([0])


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda response: setattr(response.spec, "id", "liar/Other"), "that of 'liar/Other'; 'liar/Env' was asked for"),
        (lambda response: response.ClearField("lease"), "a lease of 0 s; it must be longer than 0"),
        (lambda response: setattr(response.lease, "seconds", -1), "a lease of -1 s"),
        (lambda response: setattr(response, "options_json", "[]"), r"options_json is '\[\]'; a JSON object"),
        (lambda response: setattr(response, "options_json", "[" * 200_000), "recursion"),
        (lambda response: response.spec.action.ClearField("vocabulary"), "exactly one of"),
    ],
)
def test_what_is_granted_is_checked(liar: Liar, spoil: Callable[[pb.OpenResponse], object], says: str) -> None:
    liar.spoil_open = spoil
    with pytest.raises(ServerBrokenError, match=rf"^{re.escape(liar.address)} answered Open .*{says}"):
        Session(liar.address, "liar/Env", 1)


def test_a_reward_outside_of_its_bounds_is_said_once_per_session(liar: Liar, caplog: pytest.LogCaptureFixture) -> None:
    def reward(value: float, outcome: pb.Outcome = pb.OUTCOME_EXECUTED) -> Callable[[pb.StepResponse], None]:
        def spoil(response: pb.StepResponse) -> None:
            for result in response.results:
                result.reward, result.outcome = value, outcome

        return spoil

    def warnings() -> list[str]:
        return [record.message for record in caplog.records if "bounds" in record.message]

    liar.bounds = (-1.0, 1.0)
    for _ in range(2):
        caplog.clear()
        with Session(liar.address, "liar/Env", 1) as session:
            session.reset([0])
            for spoil in (reward(1.0 + 1e-9), reward(-1.0), reward(-7.0, pb.OUTCOME_NO_ACTION)):
                liar.spoil = spoil
                session.step(["go"])
            assert warnings() == []
            liar.spoil = reward(2.5)
            assert [session.step(["go"])[0].reward for _ in range(3)] == [2.5] * 3
            (said,) = warnings()
            assert said.startswith(f"{liar.address}: liar/Env gave the reward 2.5 (slot 0, episode 0, turn 4)")
        liar.spoil = lambda response: None
    liar.bounds = (0.0, 0.0)  # unknown
    caplog.clear()
    with Session(liar.address, "liar/Env", 1) as session:
        session.reset([0])
        liar.spoil = reward(2.5)
        session.step(["go"])
    assert warnings() == []


def failed_call(address: str, method: str) -> str:
    return rf"^{re.escape(address)} answered {method} with INTERNAL \(boom\), .* not an error of overworld\.v1"


def test_a_call_that_an_ending_server_has_cancelled_is_made_again(liar: Liar, monkeypatch: pytest.MonkeyPatch) -> None:
    cancelled = iter([True, True])

    def cancel(method: str, context: grpc.ServicerContext) -> None:
        if method == "Step" and next(cancelled, False):
            context.abort(grpc.StatusCode.CANCELLED, "")

    with Session(liar.address, "liar/Env", 1) as session:
        session.reset([0])
        monkeypatch.setattr(liar, "fail", cancel)
        assert [result.turn for result in session.step(["go"])] == [1]
    assert next(cancelled, None) is None


def test_errors_that_are_not_the_contracts_say_which_server_answered_which_call(
    liar: Liar, caplog: pytest.LogCaptureFixture
) -> None:
    liar.failing = "GetServerInfo"
    with pytest.raises(CallFailedError, match=failed_call(liar.address, "GetServerInfo")):
        server_info(liar.address)
    liar.failing = "Open"
    with pytest.raises(CallFailedError, match=failed_call(liar.address, "Open")):
        Session(liar.address, "liar/Env", 2)
    liar.failing = ""
    with Session(liar.address, "liar/Env", 2) as session:
        session.reset([0, 0])
        liar.failing = "Step"
        for call in (lambda: session.step(["go", "go"]), lambda: session.submit(["go", "go"]).result()):
            with pytest.raises(CallFailedError, match=failed_call(liar.address, "Step")) as caught:
                call()
            assert not isinstance(caught.value, grpc.RpcError)
        liar.failing = ""
        assert [result.turn for result in session.step(["go", "go"])] == [1, 1]
        liar.failing = "Close"
    assert "was not closed" in caplog.text  # which raises nothing: the lease ends by itself


def test_a_call_that_hangs_is_said_every_minute_and_ends_by_the_setting(
    liar: Liar, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("overworld.client.channel._CALL_SECONDS", 0.2)
    monkeypatch.setattr("overworld.client.channel._HANG_SECONDS", 0.7)
    hanging = rf"{re.escape(liar.address)} answers, but has not finished Step for \d s \(step_timeout is 2 s\)"

    def told() -> list[str]:
        return [record.message for record in caplog.records if re.match(hanging, record.message)]

    with Session(liar.address, "liar/Env", 1, step_timeout=2.0) as session:
        session.reset([0])
        liar.holding = "Step"
        began = time.monotonic()
        with pytest.raises(ServerStuckError, match=hanging):
            session.step(["go"])
        assert 2.0 <= time.monotonic() - began < 20
        assert len(told()) == 2
        liar.holding = ""
        assert session.step(["go"])[0].turn == 1
    with Fleet([liar.address], "liar/Env", 1, step_timeout=0.5) as fleet:  # it cannot be better off elsewhere
        liar.holding = "Step"
        with pytest.raises(ServerStuckError, match="not finished Step"):
            fleet.step([Reset()])
        liar.holding = ""
    liar.holding = "Open"
    with pytest.raises(ServerStuckError, match="not finished Open"):
        Session(liar.address, "liar/Env", 1, step_timeout=0.5)


def test_without_the_setting_a_call_that_hangs_is_waited_for(
    liar: Liar, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("overworld.client.channel._CALL_SECONDS", 0.2)
    monkeypatch.setattr("overworld.client.channel._HANG_SECONDS", 0.5)
    with Session(liar.address, "liar/Env", 1, retry_budget=0.3) as session:
        session.reset([0])
        liar.holding = "Step"
        running = session.submit(["go"])
        time.sleep(1.5)
        liar.holding = ""
        assert running.result()[0].turn == 1
    assert "no step_timeout is set" in caplog.text


def test_servers_that_put_up_with_few_pings_do_not_hang_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """gRPC's servers hang up at the third ping that comes too soon: within 5 minutes, if they are not told otherwise,
    and within 2 hours while there is no call. Steps and pauses are long enough for that, and run side by side.
    """
    monkeypatch.setattr("overworld.client.channel._LEAST_KEEPALIVE_SECONDS", 1.0)  # pings as often as C-core does
    monkeypatch.setattr("overworld.client.channel._FIRST_CALL_SECONDS", 20.0)  # a step is not asked for again

    def play(announced: int, step: float, pause: float, **options: int) -> tuple[int, int]:
        """Steps that the server saw, and connections that they came through."""
        server = Liar()
        server.keepalive = announced
        with serving(server, **options), Session(server.address, "liar/Env", 1) as session:
            server.seconds = step
            session.reset([0])
            server.seconds = 0.0
            time.sleep(pause)
            session.step(["go"])
        return len(server.sent), len(server.peers)

    every = "http2.min_ping_interval_without_data_ms"
    with concurrent.futures.ThreadPoolExecutor(3) as threads:
        running = {
            "as it is": threads.submit(play, 0, 5.0, 0.0),
            "announced": threads.submit(play, 3, 5.0, 0.0, **{every: 2_900}),
            "without a call": threads.submit(play, 1, 0.0, 5.0, **{every: 900}),
        }
    assert {name: future.result() for name, future in running.items()} == dict.fromkeys(running, (2, 1))


def test_a_link_that_died_without_a_word_is_replaced_though_no_ping_is_allowed(
    liar: Liar, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("overworld.client.channel._CALL_SECONDS", 0.5)
    monkeypatch.setattr("overworld.client.channel._PING_SECONDS", 0.5)
    proxy = Proxy(liar.address)
    with (
        Session(proxy.address, "liar/Env", 1, retry_budget=4.0) as session,
        Session(proxy.address, "liar/Env", 1, retry_budget=4.0) as other,  # over the same connection
    ):
        session.reset([0])
        other.reset([0])
        assert len(liar.peers) == 1
        proxy.freeze()
        assert session.step(["go"])[0].turn == 1
    assert len(liar.peers) == 2


def test_a_lease_is_renewed_again_after_renewals_failed(liar: Liar) -> None:
    liar.lease = 1
    with Session(liar.address, "liar/Env", 1) as session:
        liar.failing = "Step"
        time.sleep(1.2)
        failed, liar.failing = liar.renewals, ""
        time.sleep(1.2)
        assert 2 <= failed < liar.renewals
        assert session.reset([0])[0].turn == 0


def test_a_fleet_passes_over_a_server_that_fails(liar: Liar, toy_server: ServerProcess) -> None:
    liar.failing = "GetServerInfo"
    with Fleet([liar.address, toy_server.address], "toy/Count", 2) as fleet:
        assert fleet.addresses == [toy_server.address]


def test_a_fleet_does_not_stay_on_a_server_that_hangs(liar: Liar, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("overworld.client.fleet._FAILOVER_SECONDS", 0.5)
    monkeypatch.setattr("overworld.client.channel._CALL_SECONDS", 0.2)
    proxy, other = Proxy(liar.address), Liar()
    other.holding = "Step"
    with serving(other), Fleet([proxy.address, other.address], "liar/Env", 1, step_timeout=0.5) as fleet:
        fleet.step([Reset()])
        assert fleet.addresses == [proxy.address]
        proxy.cut_off()
        threading.Timer(2.0, proxy.restore).start()
        assert fleet.step(["go"])[0].turn == 1
        assert fleet.addresses == [proxy.address]
        assert other.held > 0


def test_a_session_that_cannot_move_stays_as_it_was(
    liar: Liar, toy_server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY_RULES", "toy 2")
    with start(0) as changed, Session(toy_server.address, "toy/Count", 2, retry_budget=1) as session:
        expected = session.reset([1, 2]).frames()
        liar.provenance = session._connection.opened.provenance_digest
        liar.spoil_open = lambda response: setattr(response.spec, "id", "toy/Count")
        liar.failing = "Step"
        for address, error in (
            (changed.address, ServerChangedError),
            (liar.address, CallFailedError),  # after it opened the session, without shared memory
            ("127.0.0.1:1", ServerLostError),
        ):
            with pytest.raises(error):
                session.move(address)
            assert (session.address, session.spec.id, session.shares_memory) == (toy_server.address, "toy/Count", True)
        info = server_info(changed.address)
        assert info.slots_free == info.slots_total
        assert [result.turn for result in session.step(["up", "up"])] == [1, 1]
        assert np.array_equal(session.reset([1, 2]).frames(), expected)


def test_a_replay_whose_answer_makes_no_sense_is_said_to(liar: Liar) -> None:
    with Session(liar.address, "liar/Env", 2) as session:
        session.reset([0, 0])
        other = Liar()
        other.spoil = change("slot", 99)
        with serving(other):
            with pytest.raises(ServerBrokenError, match="makes no sense"):
                session.move(other.address)
        assert [result.turn for result in session.step(["go", "go"])] == [1, 1]


def test_a_transport_that_was_not_asked_for_is_not_used(liar: Liar) -> None:
    liar.transport = pb.TRANSPORT_INLINE_LZ4
    with pytest.raises(ServerBrokenError, match="was not asked for"):
        Session(liar.address, "liar/Env", 1)


def test_the_lease_that_was_granted_is_the_one_that_is_kept(liar: Liar) -> None:
    liar.lease = 1
    with Session(liar.address, "liar/Env", 1, lease=30):
        time.sleep(1.8)
    assert liar.renewals >= 4


def test_tokens_that_cannot_be_sent_are_refused() -> None:
    with pytest.raises(ValueError, match="OVERWORLD_TOKEN"):
        Session("127.0.0.1:1", "toy/Count", 1, token="secret\n")
