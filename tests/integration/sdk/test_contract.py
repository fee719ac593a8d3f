"""Drives a server with the generated stubs alone, as a client in another language would.

That it follows the contract is what `overworld check` says, in `test_check_reference`. Here is what depends on the env:
its own steps, options and errors, the words of messages, and what only the host promises.
"""

import dataclasses
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Protocol

import grpc
import numpy as np
import pytest
import xxhash
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2, status_pb2
from overworld import Fallback, Observation, Runner
from overworld.authoring.env import Pixels
from overworld.host.process import ServerProcess
from overworld.v1 import env_pb2 as pb
from overworld.v1 import env_pb2_grpc
from overworld.v1.env_pb2_grpc import EnvServiceStub

from tests.support.optional import present
from tests.support.toy_env import Commands


@pytest.fixture(scope="module")
def stub(toy_server: ServerProcess) -> Iterator[EnvServiceStub]:
    with grpc.insecure_channel(toy_server.address, [("grpc.max_receive_message_length", -1)]) as channel:
        yield env_pb2_grpc.EnvServiceStub(channel)


class Opened(Protocol):
    def __call__(self, env_id: str = "toy/Count", slots: int = 2, **fields: Any) -> tuple[str, pb.OpenResponse]: ...


@pytest.fixture
def opened(stub: EnvServiceStub) -> Iterator[Opened]:
    names: list[str] = []

    def open_session(env_id: str = "toy/Count", slots: int = 2, **fields: Any) -> tuple[str, pb.OpenResponse]:
        names.append(str(uuid.uuid4()))
        response = stub.Open(pb.OpenRequest(session=names[-1], env_id=env_id, slots=slots, **fields))
        return names[-1], response

    yield open_session
    for name in names:
        stub.Close(pb.CloseRequest(session=name))


def reset(slot: int, episode: int = 0, turn: int = 0, **fields: Any) -> pb.Command:
    return pb.Command(slot=slot, episode=episode, turn=turn, reset=pb.Reset(**fields))


def act(slot: int, turn: int, text: str = "up", episode: int = 0) -> pb.Command:
    return pb.Command(slot=slot, episode=episode, turn=turn, action=pb.Action(text=text))


def step(stub: EnvServiceStub, session: str, *commands: pb.Command, **fields: Any) -> pb.StepResponse:
    return stub.Step(pb.StepRequest(session=session, commands=commands, **fields))


def refusal(call: Callable[[], object]) -> tuple[grpc.StatusCode, str, str]:
    """(status code, reason, message) of a call that must fail."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return told(caught.value)


def told(error: grpc.RpcError) -> tuple[grpc.StatusCode, str, str]:
    """(status code, reason, message) of a refusal."""
    metadata = {entry.key: entry.value for entry in error.trailing_metadata()}
    status = status_pb2.Status.FromString(metadata["grpc-status-details-bin"])
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.domain == "overworld.v1"
    assert status.message == error.details()
    return error.code(), info.reason, status.message


def pixels(response: pb.StepResponse, result: pb.SlotResult, image: int = 0) -> Pixels:
    ref = result.observation.images[image]
    block = response.blocks[ref.block]
    start = block.offset + ref.index * block.stride
    size = block.height * block.width * block.channels
    data = response.frames[start : start + size]
    assert xxhash.xxh64_intdigest(data) == ref.xxh64
    return np.frombuffer(data, np.uint8).reshape(block.height, block.width, block.channels)


def test_server_info(stub: EnvServiceStub) -> None:
    info = stub.GetServerInfo(pb.GetServerInfoRequest())
    assert uuid.UUID(info.instance)
    assert info.revision == 1
    assert pb.TRANSPORT_INLINE in info.transports
    assert info.slots_total == 32
    specs = {env.id: env for env in info.envs}
    assert {"toy/Count", "toy/Commands", "toy/Search", "toy/Reach"} <= set(specs)
    spec = specs["toy/Count"]
    assert list(spec.action.vocabulary)[:2] == ["up", "down"]
    assert dict(spec.splits) == {"endless": 0, "four": 4}
    assert spec.default_split == "endless"
    assert spec.max_turns == 300
    assert '"size"' in spec.options_schema
    assert specs["toy/Reach"].action.high.dtype == "float32"


def test_an_episode_with_frames_inline(stub: EnvServiceStub, opened: Opened) -> None:
    session, answer = opened(options_json='{"size": 8}')
    assert answer.transport == pb.TRANSPORT_INLINE
    assert answer.provenance_digest
    response = step(stub, session, reset(0, seed=1), reset(1, seed=2))
    assert [result.state for result in response.results] == [pb.SLOT_STATE_READY] * 2
    assert len(response.blocks) == 1
    assert response.blocks[0].count == 2
    assert [pixels(response, result).shape for result in response.results] == [(8, 8, 3)] * 2
    for turn in (1, 2, 3):
        response = step(stub, session, act(0, turn), act(1, turn, "down"))
    first, second = response.results
    assert (first.end, first.success, first.terminated, first.truncated) == (pb.END_TASK, True, True, False)
    assert (second.end, second.success, second.terminated, second.truncated) == (pb.END_RULE, False, False, True)
    assert first.outcome == pb.OUTCOME_EXECUTED
    assert first.executed.text == "up"
    assert pixels(response, first)[0, 0, 0] == 13, "the true final observation"
    assert [part.WhichOneof("kind") for part in first.observation.parts] == ["image", "text"]
    assert first.metrics["count"] == 3.0
    assert np.frombuffer(first.observation.tensors["count"].data, "<i8") == 3


def test_images_of_different_sizes_come_in_blocks_of_one_size(stub: EnvServiceStub, opened: Opened) -> None:
    session, _ = opened(slots=3, options_json='{"size": 8, "second_image": true}')
    response = step(stub, session, *(reset(slot, seed=slot) for slot in range(3)))
    assert sorted((block.height, block.width, block.count) for block in response.blocks) == [(5, 8, 3), (8, 8, 3)]
    for result in response.results:
        assert pixels(response, result, 0).shape == (8, 8, 3)
        assert pixels(response, result, 1).shape == (5, 8, 3)


@pytest.mark.parametrize(
    ("commands", "reason"),
    [
        ([act(0, 1)], "NOT_RESET"),
        ([reset(2)], "SLOT_UNKNOWN"),
        ([reset(4_000_000_000)], "SLOT_UNKNOWN"),
        ([reset(0), reset(0, episode=1)], "SLOT_REPEATED"),
        ([pb.Command(slot=0)], "REQUEST_INVALID"),
        ([reset(0, split="nowhere")], "SPLIT_UNKNOWN"),
        ([reset(0, split="four", task=4)], "TASK_UNKNOWN"),
        ([reset(0, task=0)], "TASK_UNKNOWN"),
        ([reset(0, turn=1)], "TURN_SKIPPED"),
        ([reset(0, turn=0, prefix=[pb.Action(text="up")])], "TURN_SKIPPED"),
        ([reset(0, turn=301, prefix=[pb.Action(text="up")] * 301)], "REQUEST_INVALID"),
        ([reset(0, turn=1, prefix=[pb.Action(text="u" * 5000)])], "ACTION_TOO_LARGE"),
    ],
)
def test_bad_commands_are_refused_with_a_reason(
    stub: EnvServiceStub, opened: Opened, commands: list[pb.Command], reason: str
) -> None:
    session, _ = opened()
    _, given, message = refusal(lambda: step(stub, session, *commands))
    assert given == reason
    assert f"slot {commands[-1].slot}" in message


def test_bad_actions_are_refused_with_a_reason(stub: EnvServiceStub, opened: Opened) -> None:
    session, _ = opened()
    step(stub, session, reset(0))
    code, reason, message = refusal(lambda: step(stub, session, act(0, 1, "u" * 10_000_000)))
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "ACTION_TOO_LARGE")
    assert "10,000,000 bytes, the bound is 4,096" in message
    long_reply = pb.Command(slot=0, turn=1, action=pb.Action(text="up", reply="é" * 40_000))
    assert refusal(lambda: step(stub, session, long_reply))[1] == "ACTION_TOO_LARGE"
    tensor = pb.Command(slot=0, turn=1, action=pb.Action(tensor=pb.Tensor(dtype="uint8", data=b"x")))
    assert refusal(lambda: step(stub, session, tensor))[1] == "REQUEST_INVALID"
    assert step(stub, session, act(0, 1)).results[0].metrics["count"] == 1.0


@pytest.mark.parametrize(
    "tensor",
    [
        pb.Tensor(dtype="float32", shape=[2], data=bytes(4)),
        pb.Tensor(dtype="object", shape=[1], data=bytes(8)),
        pb.Tensor(dtype="float32", shape=[2**31, 2**31], data=bytes(8)),
    ],
)
def test_tensors_that_contradict_themselves_are_refused(
    stub: EnvServiceStub, opened: Opened, tensor: pb.Tensor
) -> None:
    session, _ = opened("toy/Reach")
    step(stub, session, reset(0))
    command = pb.Command(slot=0, turn=1, action=pb.Action(tensor=tensor))
    assert refusal(lambda: step(stub, session, command))[1] == "REQUEST_INVALID"
    good = pb.Tensor(dtype="float32", shape=[2], data=np.array([0.5, 0.25], "<f4").tobytes())
    command.action.tensor.CopyFrom(good)
    assert step(stub, session, command).results[0].reward == 0.75


def test_a_random_fallback_is_the_same_in_every_session(stub: EnvServiceStub, opened: Opened) -> None:
    drawn = []
    for _ in range(2):
        session, _ = opened("toy/Commands", fallback=pb.FALLBACK_RANDOM)
        step(stub, session, reset(0, seed=4))
        drawn.append([step(stub, session, act(0, turn, "?")).results[0].executed.text for turn in range(1, 9)])
    assert drawn[0] == drawn[1]
    assert {text.endswith("0") for text in drawn[0][1:]} == {True, False}


def test_stragglers_stay_pending_until_collected(stub: EnvServiceStub, opened: Opened) -> None:
    session, _ = opened(slots=4)
    step(stub, session, *(reset(slot) for slot in range(4)))
    commands = [act(0, 1, "slow"), act(1, 1), act(2, 1, "slow"), act(3, 1)]
    response = step(stub, session, *commands, min_ready=2)
    states = {result.slot: result.state for result in response.results}
    assert list(states.values()).count(pb.SLOT_STATE_READY) >= 2
    assert states[2] == pb.SLOT_STATE_PENDING
    assert refusal(lambda: step(stub, session, act(2, 2)))[1] == "BUSY"
    response = step(stub, session, *commands)
    assert [result.state for result in response.results] == [pb.SLOT_STATE_READY] * 4


def test_calls_on_disjoint_slots_overlap(stub: EnvServiceStub, opened: Opened) -> None:
    session, _ = opened()
    step(stub, session, reset(0), reset(1))
    slow = stub.Step.future(pb.StepRequest(session=session, commands=[act(0, 1, "slow")]))
    assert step(stub, session, act(1, 1)).results[0].state == pb.SLOT_STATE_READY
    assert not slow.done()
    assert slow.result().results[0].state == pb.SLOT_STATE_READY


def test_the_expert_advises_only_if_asked_for(stub: EnvServiceStub, opened: Opened) -> None:
    session, _ = opened()
    assert not step(stub, session, reset(0)).results[0].HasField("expert")
    session, _ = opened(expert=True)
    result = step(stub, session, reset(0)).results[0]
    assert (present(result.expert).action.text, present(result.expert).thoughts) == ("up", "The count is 0.")
    name = str(uuid.uuid4())
    request = pb.OpenRequest(session=name, env_id="toy/Reach", slots=1, expert=True)
    assert refusal(lambda: stub.Open(request))[1] == "FEATURE_MISSING"


@pytest.mark.parametrize(
    ("fields", "reason", "says"),
    [
        ({"session": "me"}, "REQUEST_INVALID", "UUID"),
        ({"env_id": "toy/Nothing"}, "ENV_UNKNOWN", "toy/Count"),
        ({"slots": 0}, "REQUEST_INVALID", "at least 1"),
        ({"slots": 10_000}, "NO_FREE_SLOTS", "of 32 are free"),
        ({"options_json": '{"colour": 1}'}, "OPTIONS_INVALID", "colour"),
        ({"options_json": '{"size": 0}'}, "OPTIONS_INVALID", "size"),
        ({"options_json": '{"size": 10000}'}, "OPTIONS_INVALID", "size"),
        ({"options_json": "[]"}, "OPTIONS_INVALID", "toy/Count"),
        ({"options_json": "{"}, "OPTIONS_INVALID", "toy/Count"),
        ({"options_json": '{"broken": true}'}, "ENV_FAILED", "this toy is broken"),
        ({"transports": [pb.TRANSPORT_UNSPECIFIED]}, "FEATURE_MISSING", "TRANSPORT_INLINE"),
        ({"required_features": ["telepathy"]}, "FEATURE_MISSING", "telepathy"),
        ({"fallback": 9}, "REQUEST_INVALID", "fallback 9"),
        ({"fallback_reward": float("nan")}, "REQUEST_INVALID", "finite"),
        ({"env_id": "toy/Search", "fallback": pb.FALLBACK_RANDOM}, "FEATURE_MISSING", "does not list"),
    ],
)
def test_sessions_that_cannot_be_opened(stub: EnvServiceStub, fields: dict[str, Any], reason: str, says: str) -> None:
    request: dict[str, Any] = {"session": str(uuid.uuid4()), "env_id": "toy/Count", "slots": 1} | fields
    _, given, message = refusal(lambda: stub.Open(pb.OpenRequest(**request)))
    assert given == reason
    assert says in message
    assert stub.GetServerInfo(pb.GetServerInfoRequest()).slots_free == 32


def test_a_lease_is_positive_and_bounded(stub: EnvServiceStub, opened: Opened) -> None:
    request = pb.OpenRequest(session=str(uuid.uuid4()), env_id="toy/Count", slots=1)
    for seconds, nanos in ((-1, 0), (0, 0), (0, -1), (5, -1), (-(2**62), 0)):
        request.lease.seconds, request.lease.nanos = seconds, nanos
        assert refusal(lambda: stub.Open(request))[1] == "REQUEST_INVALID"
    _, response = opened(lease=duration_pb2.Duration(seconds=2**62))
    assert 0 < response.lease.seconds <= 120


def test_requests_that_are_none(stub: EnvServiceStub, toy_server: ServerProcess) -> None:
    with grpc.insecure_channel(toy_server.address) as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/overworld.v1.EnvService/Open")
        for data in (b"\xff", b"\x0a\x02\xff\xfe"):  # no message; a string that is no UTF-8
            assert refusal(partial(call, data))[:2] == (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_INVALID")


def test_long_reasons_are_cut_and_arrive(stub: EnvServiceStub) -> None:
    name = str(uuid.uuid4())
    options = "{" + ",".join(f'"option{n}": 1' for n in range(5000)) + "}"
    wrong: list[dict[str, Any]] = [{"options_json": options}, {"required_features": ["x" * 100_000]}]
    for fields in wrong:
        request = pb.OpenRequest(session=name, env_id="toy/Count", slots=1, **fields)
        assert refusal(partial(stub.Open, request))[1] in ("OPTIONS_INVALID", "FEATURE_MISSING")


def test_pictures_of_any_size_one_after_another(stub: EnvServiceStub, opened: Opened) -> None:
    session, _ = opened("toy/Gated", slots=1)
    for episode in range(60):
        response = step(stub, session, reset(0, episode=episode, seed=episode * 7))
        assert pixels(response, response.results[0]).shape[0] == episode * 7 % 50 + 8


def test_a_random_fallback_ignores_the_order_of_the_list() -> None:
    runner = Runner(Commands(), fallback=Fallback.RANDOM)
    for seed in range(5):
        runner.reset(seed)
        listed = runner.step(None).executed
        runner.reset(seed)
        last = present(runner._last)
        admissible = tuple(reversed(last.observation.admissible))
        runner._last = dataclasses.replace(last, observation=Observation((), admissible))
        assert runner.step(None).executed == listed


def test_a_session_closed_under_a_waiting_call_is_unknown_to_it(stub: EnvServiceStub, opened: Opened) -> None:
    session, _ = opened("toy/Slow", slots=2)
    step(stub, session, reset(0), reset(1))
    commands = [pb.Command(slot=slot, turn=1, action=pb.Action(text="wait")) for slot in range(2)]
    waiting = stub.Step.future(pb.StepRequest(session=session, commands=commands))
    time.sleep(0.05)
    stub.Close(pb.CloseRequest(session=session))
    assert refusal(waiting.result)[1] == "SESSION_UNKNOWN"


def test_observations_larger_than_the_servers_bound_fail_the_slot(stub: EnvServiceStub, opened: Opened) -> None:
    session, _ = opened()
    step(stub, session, reset(0))
    result = step(stub, session, act(0, 1, "big")).results[0]
    assert result.state == pb.SLOT_STATE_FAILED
    assert present(result.error).reason == "FRAMES_TOO_LARGE"
    assert "--slot-bytes" in present(result.error).message
    assert refusal(lambda: step(stub, session, act(0, 2)))[1] == "NOT_RESET"
    assert step(stub, session, reset(0, episode=1)).results[0].state == pb.SLOT_STATE_READY


def test_an_env_that_draws_elsewhere_is_copied_into_place(stub: EnvServiceStub, opened: Opened) -> None:
    session, _ = opened(options_json='{"second_image": true}')
    step(stub, session, reset(0))
    response = step(stub, session, act(0, 1, "private"))
    assert pixels(response, response.results[0])[0, 0, 0] == 10
    response = step(stub, session, act(0, 2))
    assert pixels(response, response.results[0])[0, 0, 0] == 11


def test_a_call_whose_slot_was_sent_on_before_it_was_answered_is_stale(stub: EnvServiceStub, opened: Opened) -> None:
    session, _ = opened()
    step(stub, session, reset(0), reset(1))
    batch = stub.Step.future(pb.StepRequest(session=session, commands=[act(0, 1), act(1, 1, "slow")]))
    while True:  # until the first half of the batch is done
        try:
            following = step(stub, session, act(0, 2))
            break
        except grpc.RpcError as error:
            assert not batch.done()
            assert told(error)[1] in ("BUSY", "TURN_SKIPPED")
    assert [(result.turn, result.state) for result in following.results] == [(2, pb.SLOT_STATE_READY)]
    code, reason, message = refusal(batch.result)
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "STALE")
    assert "slot 0, episode 0, turn 1: it was executed" in message
    (result,) = step(stub, session, act(1, 1, "slow")).results
    assert (result.turn, result.state) == (1, pb.SLOT_STATE_READY)
