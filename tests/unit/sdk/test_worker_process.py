"""How the front counts what a worker has answered, over a real pipe."""

import asyncio
import json
import socket
import struct
import tempfile

from overworld.host import heartbeat, pipe
from overworld.host.heartbeat import HeartbeatFile
from overworld.host.worker_process import Job, _Process
from overworld.v1 import env_pb2 as pb


def test_answered_jobs_are_counted_by_the_header_alone() -> None:
    """What the message holds is parsed once, by the pool."""

    async def run() -> None:
        ours, theirs = socket.socketpair()
        with theirs, tempfile.TemporaryFile() as file:
            file.truncate(heartbeat.SIZE)
            front, beats = HeartbeatFile(file.fileno()), HeartbeatFile(file.fileno())
            reader, writer = await asyncio.open_connection(sock=ours)
            child = await asyncio.create_subprocess_exec("true")
            process = _Process(process=child, reader=reader, writer=writer, heartbeat=front)
            jobs = [Job(session, slot) for session in (1, 2) for slot in (0, 1, 2)]
            process.send({"do": "step", "session": 1}, pb.StepRequest(), jobs)
            received = pipe.Blocking(theirs).receive()
            assert received == ({"do": "step", "session": 1}, b"")
            for _ in range(5):
                beats.start()
                beats.finish()
            beats.start()
            assert process.current_job() == Job(2, 2)
            header = {"is": "results", "session": 1, "jobs": 4}
            head, body = json.dumps(header).encode(), b"\xff" * 3  # which is not a message
            theirs.sendall(struct.pack("<II", len(head), len(body)) + head + body)
            assert await asyncio.wait_for(process.receive(), 10) == (header, body)
            assert list(process.jobs) == jobs[4:]
            assert process.current_job() == Job(2, 2)
            beats.finish()
            assert process.current_job() is None
            writer.close()
            await child.wait()

    asyncio.run(run())
