"""How results of a worker's lanes travel together, over a real pipe."""

import asyncio
import socket
from collections.abc import Iterator
from unittest.mock import Mock

import pytest
from overworld.host import outbox, pipe
from overworld.host.lane import AsyncLane, InlineLane, Lane, LoopInbox, Turns
from overworld.host.outbox import Outbox
from overworld.v1 import env_pb2 as pb


@pytest.fixture
def ends() -> Iterator[tuple[pipe.Blocking, pipe.Blocking]]:
    """Of the worker and of the front."""
    worker, front = socket.socketpair()
    with worker, front:
        front.settimeout(60)
        yield pipe.Blocking(worker), pipe.Blocking(front)


def result(slot: int) -> pb.StepResponse:
    response = pb.StepResponse()
    response.results.add(slot=slot).observation.images.add(block=0)
    response.blocks.add(offset=100 * slot)
    return response


def arrived(front: pipe.Blocking) -> tuple[pipe.Header, list[tuple[int, int]]]:
    """A message's header, and slot and offset of each of its results."""
    received = front.receive()
    assert received is not None
    header, body = received
    response = pb.StepResponse.FromString(body)
    offsets = [response.blocks[result.observation.images[0].block].offset for result in response.results]
    return header, list(zip((result.slot for result in response.results), offsets, strict=True))


def lanes(count: int) -> list[Lane]:
    """Lanes of the running event loop."""
    inbox = LoopInbox(asyncio.get_running_loop())
    return [AsyncLane(number, Mock(), Mock(), inbox) for number in range(count)]


def test_results_of_lanes_that_are_ready_at_the_same_time_travel_together(
    ends: tuple[pipe.Blocking, pipe.Blocking], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "_SECONDS", 1e6)
    worker, front = ends
    outgoing = Outbox(worker)

    async def send() -> None:
        lane = lanes(8)
        for session, number in ((1, 5), (2, 6), (1, 4), (2, 7)):
            outgoing.send("results", session, lane[number], result(number))

    asyncio.run(send())
    assert arrived(front) == ({"is": "results", "session": 1, "lanes": [5, 4]}, [(5, 500), (4, 400)])
    assert arrived(front) == ({"is": "results", "session": 2, "lanes": [6, 7]}, [(6, 600), (7, 700)])


def test_results_do_not_wait_for_a_lane_that_keeps_the_event_loop(
    ends: tuple[pipe.Blocking, pipe.Blocking], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "_SECONDS", -1.0)
    worker, front = ends
    outgoing = Outbox(worker)

    async def send() -> None:
        for lane in lanes(3)[1:]:
            outgoing.send("results", 1, lane, result(lane.number))
            assert arrived(front)[1] == [(lane.number, 100 * lane.number)]

    asyncio.run(send())


def test_a_lane_that_shares_nothing_sends_at_once(ends: tuple[pipe.Blocking, pipe.Blocking]) -> None:
    worker, front = ends
    outgoing = Outbox(worker)
    for number in (0, 1):
        outgoing.send("results", 1, InlineLane(number, Mock(), Mock(), Turns()), result(number))
        assert arrived(front) == ({"is": "results", "session": 1, "lanes": [number]}, [(number, 100 * number)])


def test_a_lane_that_shares_nothing_does_not_wait_for_the_event_loop(
    ends: tuple[pipe.Blocking, pipe.Blocking], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "_SECONDS", 1e6)
    worker, front = ends
    outgoing = Outbox(worker)

    async def send() -> None:
        outgoing.send("results", 1, lanes(1)[0], result(0))
        outgoing.send("results", 1, InlineLane(1, Mock(), Mock(), Turns()), result(1))
        assert arrived(front)[1] == [(0, 0), (1, 100)]

    asyncio.run(send())


def test_jobs_that_come_together_wake_the_event_loop_once() -> None:
    done = []

    async def job(number: int) -> None:
        done.append(number)

    async def submit() -> None:
        loop = asyncio.get_running_loop()
        wakes = Mock(wraps=loop.call_soon_threadsafe)
        loop.call_soon_threadsafe = wakes  # type: ignore[method-assign]
        for number, lane in enumerate(lanes(8)):
            lane.submit(job(number), "anyone")
        assert wakes.call_count == 1
        while len(done) < 8:
            await asyncio.sleep(0)
        lanes(1)[0].submit(job(8), "anyone")
        while len(done) < 9:
            await asyncio.sleep(0)

    asyncio.run(asyncio.wait_for(submit(), 60))
    assert done == list(range(9))
