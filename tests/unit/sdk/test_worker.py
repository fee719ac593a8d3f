"""Whose jobs a worker does first, over a real pipe."""

from __future__ import annotations

import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from overworld import ActionSpec, Env, EnvSpec, Observation, Transition
from overworld.authoring.concurrency import pause
from overworld.contract.frames import FrameFile
from overworld.host import pipe
from overworld.host.heartbeat import HeartbeatFile
from overworld.host.lane import ThreadLane, Turns, lane_count
from overworld.host.worker import Worker
from overworld.v1 import env_pb2 as pb

CAPACITY = 8
ADA, BOB = 1, 2
"""Sessions of two clients."""

held, begun = threading.Event(), threading.Event()


class Serial(Env):
    """The first step waits until it is told to end."""

    spec = EnvSpec(id="turns/Serial", task="", success="", action=ActionSpec(("hold", "go")))

    def reset(self, seed: int, split: str, task: int | None) -> Observation:
        return Observation(("",))

    def step(self, action: str) -> Transition:
        if action == "hold":
            begun.set()
            assert held.wait(60)
        return Transition(Observation(("",)), 0.0)


class Threaded(Serial):
    """Makes the worker run its serial envs on a thread of their own."""

    spec = EnvSpec(id="turns/Threaded", task="", success="", action=ActionSpec(("go",)))
    thread_safe = True


@contextmanager
def running(*classes: type[Env]) -> Iterator[tuple[pipe.Blocking, Worker]]:
    """A worker that has these envs, and the front's end of its pipe."""
    ours, theirs = socket.socketpair()
    with tempfile.TemporaryFile() as file:
        file.truncate(HeartbeatFile.size(lane_count(CAPACITY)))
        heartbeats = HeartbeatFile(file.fileno(), lane_count(CAPACITY))
        worker = Worker(pipe.Blocking(theirs), heartbeats, CAPACITY, {one.spec.id: one for one in classes})
        serving = threading.Thread(target=worker.serve)
        serving.start()
        with theirs:
            yield pipe.Blocking(ours), worker
            ours.close()
            serving.join(60)


def test_a_job_may_add_others() -> None:
    turns, done = Turns(), []

    async def work(name: str, *then: str) -> None:
        for one in then:
            turns.add(work(one), "ada")
        await pause()
        done.append(name)

    turns.add(work("first", "second", "third"), "ada")
    turns.add(work("other"), "bob")
    while turns:
        turns.take()
    assert done == ["first", "other", "second", "third"]


def session(front: pipe.Blocking, key: int, client: str, slots: int, frames: FrameFile) -> None:
    """Opens a session on lane 0 and resets its slots."""
    header = {
        "do": "open", "session": key, "client": client, "slots": [[slot, 0] for slot in range(slots)],
        "frames": frames.path, "nonce": frames.nonce.hex(), "stride": frames.stride,
    }  # fmt: skip
    front.send(header, pb.OpenRequest(env_id="turns/Serial"))
    assert front.receive()
    send(front, key, [pb.Command(slot=slot, reset=pb.Reset()) for slot in range(slots)])
    answered = 0
    while answered < slots:
        answered += len(received(front)[1])


def send(front: pipe.Blocking, key: int, commands: list[pb.Command]) -> None:
    front.send({"do": "step", "session": key, "lanes": [0] * len(commands)}, pb.StepRequest(commands=commands))


def received(front: pipe.Blocking) -> tuple[int, list[int]]:
    """The session and slots of the next results."""
    message = front.receive()
    assert message is not None
    return message[0]["session"], [result.slot for result in pb.StepResponse.FromString(message[1]).results]


def steps(slots: int, first: str = "go") -> list[pb.Command]:
    return [pb.Command(slot=slot, turn=1, action=pb.Action(text="go" if slot else first)) for slot in range(slots)]


@pytest.mark.parametrize("classes", [(Serial,), (Serial, Threaded)], ids=["inline", "on_a_thread"])
def test_clients_that_share_a_lane_have_a_turn_each(classes: tuple[type[Env], ...]) -> None:
    """However many steps one of them sends, another one waits for the one that runs, and for one more."""
    held.clear()
    begun.clear()
    frames = FrameFile(CAPACITY, 1 << 12)
    with running(*classes) as (front, worker):
        session(front, ADA, "ada", 6, frames)
        session(front, BOB, "bob", 2, frames)
        send(front, ADA, steps(6, "hold"))
        assert begun.wait(60)
        send(front, BOB, steps(2))
        if isinstance(lane := worker._lanes[0], ThreadLane):
            lane._submitted.put(lane._submitted.get(timeout=60))  # it has come
        held.set()
        order: list[tuple[int, int]] = []
        while len(order) < 8:
            key, slots = received(front)
            order += [(key, slot) for slot in slots]
        assert sorted(order) == [*((ADA, slot) for slot in range(6)), (BOB, 0), (BOB, 1)]
        assert order.index((BOB, 0)) <= 2 and order.index((BOB, 1)) <= 4
    frames.close()
