"""The bounds of an env server: what the contract's README says of them, and what is counted before it is parsed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from overworld.errors import ContractError, Reason
from overworld.host import outline
from overworld.host.callers import Caller, Quota, Share
from overworld.host.metrics import ServerMetrics
from overworld.service import bounds
from overworld.v1 import env_pb2 as pb

README = Path(__file__).parents[3] / "proto/README.md"


def test_the_readme_shows_the_table() -> None:
    assert bounds.table() in README.read_text(), f"put this into {README.name}:\n{bounds.table()}"


def test_a_size_beyond_a_bound_is_refused_in_words() -> None:
    bounds.FEATURES.check(32)
    with pytest.raises(ContractError, match="required features: 33; at most 32") as refused:
        bounds.FEATURES.check(33)
    assert refused.value.reason is Reason.REQUEST_INVALID


def request(*prefixes: int) -> bytes:
    """A request with a reset for each number, which has so many actions."""
    moves = [pb.Action(text="up", reply="r" * 200), pb.Action(index=300), pb.Action()]
    commands = [
        pb.Command(slot=slot, episode=2**63, turn=count, reset=pb.Reset(seed=7, prefix=(moves * count)[:count]))
        for slot, count in enumerate(prefixes)
    ]
    return pb.StepRequest(session="s", commands=commands, min_ready=1).SerializeToString()


def room(name: str) -> outline.Room:
    assert name == "s"
    return outline.Room(commands=3, prefix=4)


def test_commands_and_prefixes_are_counted_before_they_are_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    for within in (request(), request(4, 4), request(0, 0, 0)):
        outline.check(within, room)
    with pytest.raises(ContractError, match="4 commands or more; the session has room for 3"):
        outline.check(request(0, 0, 0, 0), room)
    with pytest.raises(ContractError, match="5 actions in a prefix or more; the session has room for 4"):
        outline.check(request(1, 7), room)
    monkeypatch.setattr(bounds, "PREFIXES", bounds.Bound(7, "", "actions", Reason.REQUEST_INVALID))
    with pytest.raises(ContractError, match="actions: 8; at most 7"):
        outline.check(request(4, 4), room)
    monkeypatch.setattr(bounds, "COMMANDS", bounds.Bound(1, "", "commands", Reason.REQUEST_INVALID))
    with pytest.raises(ContractError, match="commands: 2; at most 1"):
        outline.check(request(0, 0, 0), room)


def test_resets_of_one_command_that_protobuf_would_merge_are_counted_together() -> None:
    """Two halves of a reset, one after the other, are one reset with all of their actions."""
    command = pb.Command(reset=pb.Reset(prefix=[pb.Action()] * 3)).SerializeToString() * 2
    data = request() + b"\x12" + bytes([len(command)]) + command
    assert len(pb.StepRequest.FromString(data).commands[0].reset.prefix) == 6
    with pytest.raises(ContractError, match="6 actions in a prefix"):
        outline.check(data, room)


@pytest.mark.parametrize("kind", [pb.Command.RESET_FIELD_NUMBER, pb.Command.ACTION_FIELD_NUMBER])
def test_an_action_has_few_fields(kind: int) -> None:
    """Where one comes again protobuf keeps the last: a request of megabytes may be a single small action."""

    def acting(replies: int) -> bytes:
        data = b"\x22\x00" * replies
        for number in [*([pb.Reset.PREFIX_FIELD_NUMBER] if kind == pb.Command.RESET_FIELD_NUMBER else []), kind, 2]:
            data = bytes([number << 3 | 2, len(data) & 0x7F | 0x80, len(data) >> 7]) + data
        return request() + data

    assert len(pb.StepRequest.FromString(acting(80)).commands) == 1
    outline.check(acting(64), room)
    with pytest.raises(ContractError, match="the request is not a StepRequest"):
        outline.check(acting(80), room)


@pytest.mark.parametrize(
    "data",
    [b"\x12", b"\x12\x7f", b"\x12\x02\x22\x09", b"\x13\x00", b"\xff" * 11, b"\x18\xff", b"\x40\x00" * 65, b"\x21" * 8],
)
def test_what_is_no_request_is_refused(data: bytes) -> None:
    with pytest.raises(ContractError) as refused:
        outline.check(request() + data, room)
    assert refused.value.reason is Reason.REQUEST_INVALID


def test_a_share_is_given_out_in_turn_and_whatever_is_larger_goes_alone() -> None:
    async def run() -> None:
        share = Share(10)
        await share.take(6)
        order: list[int] = []

        async def ask(size: int) -> None:
            await share.take(size)
            order.append(size)

        asking = [asyncio.create_task(ask(size)) for size in (5, 30, 1)]
        await asyncio.sleep(0)
        assert order == []  # the 1 would fit, and has to wait for its turn
        share.give_back(6)
        await asyncio.gather(asking[0])
        assert order == [5]
        share.give_back(5)
        await asyncio.gather(asking[1])
        assert order == [5, 30]
        share.give_back(30)
        await asyncio.gather(asking[2])
        assert order == [5, 30, 1]

    asyncio.run(run())


def test_few_requests_of_a_client_are_received_at_a_time_and_none_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "RECEIVED", 2)

    async def run() -> None:
        caller = Caller("one", Quota(), ServerMetrics())
        arrived = asyncio.Event()

        async def call() -> None:
            there = await caller.receive()
            await arrived.wait()
            there()

        calls = [asyncio.create_task(call()) for _ in range(3)]
        await asyncio.sleep(0.01)
        assert caller._receiving.locked()
        calls[0].cancel()
        arrived.set()
        await asyncio.gather(*calls, return_exceptions=True)
        assert caller._receiving._value == 2, "whether it has come or not"
        monkeypatch.setattr(bounds, "RECEIVING", 0.05)
        arrived.clear()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(asyncio.create_task(call()), 30)

    asyncio.run(run())


def test_who_gives_up_waiting_takes_nothing_of_a_share() -> None:
    async def run() -> None:
        share = Share(10)
        await share.take(10)
        first, second = asyncio.create_task(share.take(10)), asyncio.create_task(share.take(4))
        await asyncio.sleep(0)
        first.cancel()
        share.give_back(6)
        await asyncio.wait_for(second, 10)
        third = asyncio.create_task(share.take(10))
        await asyncio.sleep(0)
        share.give_back(8)  # the third has its bytes, and is cancelled before it knows
        third.cancel()
        with pytest.raises(asyncio.CancelledError):
            await third
        await asyncio.wait_for(share.take(10), 10)

    asyncio.run(run())
