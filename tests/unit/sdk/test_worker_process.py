"""How the front counts what the lanes of a worker have answered, over a real pipe."""

import asyncio
import json
import socket
import struct
import tempfile
from collections.abc import Awaitable, Callable
from unittest.mock import Mock

import pytest
from overworld.errors import Reason
from overworld.host import pipe, worker_process
from overworld.host.heartbeat import HeartbeatFile
from overworld.host.worker_process import _PING, Job, WorkerProcess, _Process
from overworld.service import bounds
from overworld.v1 import env_pb2 as pb

Test = Callable[[_Process, HeartbeatFile, socket.socket], Awaitable[None]]

LANES = 4


def with_a_process(test: Test) -> None:
    """Runs the test with the front's side of a process, and the worker's heartbeats and end of the pipe."""

    async def run() -> None:
        ours, theirs = socket.socketpair()
        with theirs, tempfile.TemporaryFile() as file:
            file.truncate(HeartbeatFile.size(LANES))
            front, worker = HeartbeatFile(file.fileno(), LANES), HeartbeatFile(file.fileno(), LANES)
            reader, writer = await asyncio.open_connection(sock=ours)
            child = await asyncio.create_subprocess_exec("true")
            process = _Process(process=child, reader=reader, writer=writer, heartbeats=front)
            await test(process, worker, theirs)
            writer.close()
            await child.wait()

    asyncio.run(run())


def answer(theirs: socket.socket, header: pipe.Header, body: bytes = b"") -> None:
    head = json.dumps(header).encode()
    theirs.sendall(struct.pack("<II", len(head), len(body)) + head + body)


def test_answered_jobs_are_counted_by_the_header_alone() -> None:
    """What the message holds is parsed once, by the pool."""

    async def test(process: _Process, worker: HeartbeatFile, theirs: socket.socket) -> None:
        beats = worker.line(0)
        jobs = [Job(session, slot) for session in (1, 2) for slot in (0, 1, 2)]
        process.send({"do": "step", "session": 1}, pb.StepRequest(), [(0, job) for job in jobs])
        received = pipe.Blocking(theirs).receive()
        assert received == ({"do": "step", "session": 1}, b"")
        for job in jobs[:5]:
            beats.start(*job[:2])
            beats.finish()
        beats.start(2, 2)
        assert process.running() == {Job(2, 2)}
        header = {"is": "results", "session": 1, "lanes": [0] * 2}
        answer(theirs, header, b"\xff" * 3)  # which is not a message
        assert await asyncio.wait_for(process.receive(), 10) == (header, b"\xff" * 3)
        assert process.lanes[0].jobs == jobs[2:]
        assert process.running() == {Job(2, 2)}
        beats.finish()
        assert process.running() == set()

    with_a_process(test)


def test_lanes_are_counted_apart() -> None:
    async def test(process: _Process, worker: HeartbeatFile, theirs: socket.socket) -> None:
        process.send({"do": "step"}, pb.StepRequest(), [(1, Job(1, 0)), (2, Job(1, 1)), (1, Job(1, 2))])
        first, second = worker.line(1), worker.line(2)
        first.start(1, 0)
        second.start(1, 1)
        assert process.running() == {Job(1, 0), Job(1, 1)}
        second.finish()
        answer(theirs, {"is": "results", "session": 1, "lanes": [2]})
        await asyncio.wait_for(process.receive(), 10)
        assert process.running() == {Job(1, 0)}
        first.finish()
        first.start(1, 2)
        assert process.running() == {Job(1, 2)}

    with_a_process(test)


def test_sessions_may_overtake_each_other() -> None:
    """Those of different clients have their turns; the first job that was sent need not be the first to be done."""

    async def test(process: _Process, worker: HeartbeatFile, theirs: socket.socket) -> None:
        jobs = [Job(1, 0), Job(1, 1), Job(2, None), _PING]
        process.send({"do": "step"}, None, [(0, job) for job in jobs])
        process.suspects = {*jobs}
        for job in (jobs[2], jobs[0], jobs[3], jobs[1]):
            worker.line(0).start(*job[:2])
            assert process.running() == {job}
            worker.line(0).finish()
            answer(theirs, {"is": "results", "session": job.session, "lanes": [0]})
            await asyncio.wait_for(process.receive(), 10)
            assert job not in process.suspects
        assert process.lanes[0].jobs == [] and not process.suspects

    with_a_process(test)


def test_what_waits_for_the_event_loop_is_not_running() -> None:
    async def test(process: _Process, worker: HeartbeatFile, theirs: socket.socket) -> None:
        process.send({"do": "step"}, pb.StepRequest(), [(1, Job(1, 0)), (2, Job(1, 1))])
        first, second = worker.line(1), worker.line(2)
        for slot, beats in enumerate((first, second)):
            beats.turn()
            beats.start(1, slot)
            beats.turn()
        assert process.running() == {Job(1, 0), Job(1, 1)}  # what none of them does, another task of theirs may
        second.turn()
        assert process.running() == {Job(1, 1)}

    with_a_process(test)


def test_a_prefix_whose_turns_are_signs_of_life_has_a_limit_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_process, "_WATCH_SECONDS", 0.01)
    monkeypatch.setattr(bounds, "PREFIX_STEPS", 0.01)
    nothing = Mock()
    worker = WorkerProcess(0, [], capacity=1, step_timeout=30, on_message=nothing, on_death=nothing)

    async def test(process: _Process, heartbeats: HeartbeatFile, _: socket.socket) -> None:
        job = Job(1, 0)
        process.send({"do": "step"}, pb.StepRequest(), [(0, job)])
        beats = heartbeats.line(0)
        beats.start(1, 0)
        watching = asyncio.create_task(worker._watch(process))
        async with asyncio.timeout(60):
            while not watching.done():
                beats.beat()
                await asyncio.sleep(0.005)
        death = watching.result()
        assert (death.reason, list(death.jobs)) == (Reason.STEP_TIMEOUT, [job])
        assert death.message == "the prefix took longer than 0.3 s (0.01 times --step-timeout)"

    with_a_process(test)


def test_suspects_run_alone() -> None:
    async def test(process: _Process, worker: HeartbeatFile, theirs: socket.socket) -> None:
        process.suspects = {Job(1, 2), Job(1, 3)}
        jobs = [(0, Job(1, 0)), (1, Job(1, 1)), (2, Job(1, 2, replay=True)), (2, Job(1, 2)), (0, Job(1, 0))]
        for lane, job in [*jobs, (3, Job(1, 3)), *jobs[:2]]:
            process.send({"job": job}, None, [(lane, job)])
        arrived = pipe.Blocking(theirs)

        async def sent_after(*lanes: int) -> list[tuple[int, int, bool]]:
            """What is sent when these lanes have answered."""
            before = len(process.held)
            for lane in lanes:
                answer(theirs, {"is": "results", "session": 1, "lanes": [lane]})
                await asyncio.wait_for(process.receive(), 10)
            return [
                tuple(message[0]["job"]) for _ in range(before - len(process.held)) if (message := arrived.receive())
            ]

        assert [arrived.receive() for _ in range(3)] == [({"job": list(job)}, b"") for _, job in jobs[:3]]
        assert await sent_after(1, 0) == []
        assert await sent_after(2) == [(1, 2, False)]
        assert await sent_after(2) == [(1, 0, False)]
        assert await sent_after(0) == [(1, 3, False)]
        assert await sent_after(3) == [(1, 0, False), (1, 1, False)]
        assert not process.suspects

    with_a_process(test)


def test_suspects_that_are_not_sent_hold_up_nobody() -> None:
    async def test(process: _Process, worker: HeartbeatFile, theirs: socket.socket) -> None:
        process.suspects = {Job(1, 2)}
        for slot in range(2):
            process.send({}, None, [(slot, Job(1, slot))])
        assert not process.held

    with_a_process(test)
