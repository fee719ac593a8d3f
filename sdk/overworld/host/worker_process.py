"""The front's end of the workers: starts them, talks to them, notices when one dies or hangs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from google.protobuf.message import Message

from overworld.errors import Reason, WorkerError
from overworld.host import heartbeat, pipe
from overworld.host.heartbeat import HeartbeatFile
from overworld.v1 import env_pb2 as pb

_logger = logging.getLogger(__name__)

_SECRETS = ("OVERWORLD_TOKEN", "OVERWORLD_REGISTRY", "OVERWORLD_REDIS", "OVERWORLD_TLS")
"""Beginnings of the names of variables that hold or name secrets; a registry's URL may hold a password."""
_START_SECONDS = 120.0
_WATCH_SECONDS = 0.2
_PING_SECONDS = 1.0
"""An idle worker gets a job that does nothing this often, so that one that is frozen is noticed."""
_BEGIN_SECONDS = 7.0
"""A worker that has jobs begins the next one, or answers the last one, within this time."""


class Job(NamedTuple):
    """What a worker was told to do: a command of a session's slot, to open the session (`slot` is None), or nothing."""

    session: int | None
    slot: int | None


_PING = Job(None, None)


class Death(NamedTuple):
    """Why a worker had to be replaced, and at which job it was; None: at none."""

    reason: Reason
    message: str
    job: Job | None


@dataclass(slots=True, kw_only=True, eq=False)
class _Process:
    """One process of a worker, from its start to its death."""

    process: asyncio.subprocess.Process
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    heartbeat: HeartbeatFile
    jobs: deque[Job] = field(default_factory=deque)  # sent and not answered
    answered: int = 0

    def send(self, header: pipe.Header, message: Message | None, jobs: Sequence[Job]) -> None:
        self.jobs.extend(jobs)
        self.writer.write(pipe.encode(header, message))

    async def receive(self) -> tuple[pipe.Header, bytes]:
        """The next message that answers jobs."""
        header, body = await pipe.read(self.reader)
        for _ in range(header["jobs"]):
            self.jobs.popleft()
        self.answered += header["jobs"]
        return header, body

    def current_job(self) -> Job | None:
        """The job that is being done. Answers come in the order of the jobs, so it is found by counting."""
        now = self.heartbeat.read()
        position = now.started - self.answered - 1
        return self.jobs[position] if now.working and 0 <= position < len(self.jobs) else None

    async def kill(self) -> int:
        """Ends the process, if it has not ended; its exit code."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.writer.close()
        return await self.process.wait()

    async def stop(self) -> None:
        """Lets the process end by itself, and kills it if it does not."""
        if self.process.returncode is None:
            self.writer.close()
            try:
                await asyncio.wait_for(self.process.wait(), 1.0)
            except TimeoutError:
                await self.kill()


class WorkerProcess:
    """One worker, which is started again whenever it died.

    `on_message(worker, header, body)` gets its messages. `on_death(worker, death)` is called when it died, or was
    killed because a job took too long. `ready` is set while it can be used; `starts` counts how often it was started.
    """

    def __init__(
        self,
        index: int,
        names: Sequence[str],
        *,
        capacity: int,
        step_timeout: float,
        on_message: Callable[[WorkerProcess, pipe.Header, bytes], None],
        on_death: Callable[[WorkerProcess, Death], None],
    ) -> None:
        self.index = index
        self.capacity = capacity
        self.used = 0
        self.ready = asyncio.Event()
        self.starts = 0
        self._names = names
        self._step_timeout = step_timeout
        self._on_message = on_message
        self._on_death = on_death
        self._process: _Process | None = None
        self._supervisor: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        state = "ready" if self.ready.is_set() else "not ready"
        return f"<WorkerProcess {self.index}: {state}, {self.used} of {self.capacity} slots used, {self.starts} starts>"

    async def start(self) -> pb.GetServerInfoResponse:
        """Starts the process and waits until it has loaded its envs, which it describes. Raises WorkerError."""
        try:
            process = self._process = await self._launch()
        except (OSError, RuntimeError) as error:  # RuntimeError: no thread could be started
            raise WorkerError(
                f"worker {self.index} cannot be started: {error}; free memory, files or processes"
            ) from error
        try:
            header, body = await asyncio.wait_for(pipe.read(process.reader), _START_SECONDS)
        except (asyncio.IncompleteReadError, OSError):  # a TimeoutError is an OSError
            header = {"is": "unable", "why": f"worker {self.index} died while loading {', '.join(self._names)}"}
        if header["is"] == "unable":
            await process.kill()
            raise WorkerError(header["why"])
        self.starts += 1
        self._supervisor = asyncio.create_task(self._supervise(process))
        self.ready.set()
        return pb.GetServerInfoResponse.FromString(body)

    def open(self, header: pipe.Header, request: pb.OpenRequest) -> None:
        """Tells the worker to open a session."""
        self._send(header, request, [Job(header["session"], None)])

    def step(self, session: int, commands: Sequence[pb.Command], *, replay: bool = False) -> None:
        """Tells the worker to execute commands; their results come to `on_message` in this order."""
        jobs = [Job(session, command.slot) for command in commands]
        self._send({"do": "replay" if replay else "step", "session": session}, pb.StepRequest(commands=commands), jobs)

    def close(self, session: int) -> None:
        """Tells the worker to close a session."""
        self._send({"do": "close", "session": session})

    async def stop(self) -> None:
        """Ends the process."""
        if self._supervisor is not None:
            self._supervisor.cancel()
        if self._process is not None:
            await self._process.stop()

    def _send(self, header: pipe.Header, message: Message | None = None, jobs: Sequence[Job] = ()) -> None:
        """Sends one message. What is sent to a dead worker is lost, which `on_death` reports."""
        assert self._process is not None
        self._process.send(header, message, jobs)

    async def _launch(self) -> _Process:
        with contextlib.ExitStack() as on_failure, contextlib.ExitStack() as given:
            ours, theirs = socket.socketpair()
            on_failure.callback(ours.close)
            given.enter_context(theirs)
            file = given.enter_context(tempfile.TemporaryFile())
            file.truncate(heartbeat.SIZE)
            beats = HeartbeatFile(file.fileno())
            fds = theirs.fileno(), file.fileno()
            reader, writer = await asyncio.open_connection(sock=ours)
            on_failure.pop_all()
            on_failure.callback(writer.close)
            # One thread per worker: there are as many workers as cores.
            threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "overworld.host.worker",
                *map(str, fds),
                str(self.capacity),
                *self._names,
                pass_fds=fds,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=sys.stderr.fileno(),  # envs may print; ours is read by whoever started the server
                env=threads | _environment(),
            )
            on_failure.pop_all()
        return _Process(process=process, reader=reader, writer=writer, heartbeat=beats)

    async def _supervise(self, process: _Process) -> None:
        """Waits for the process to die or hang, and reports it."""
        reading, watching = asyncio.create_task(self._read(process)), asyncio.create_task(self._watch(process))
        try:
            await asyncio.wait({reading, watching}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            reading.cancel()
            watching.cancel()
        if watching.done() and not watching.cancelled() and watching.exception() is None:
            reason, message = watching.result()
        else:
            for task in (reading, watching):
                if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                    _logger.error("worker %d", self.index, exc_info=error)
            reason, message = Reason.WORKER_DIED, ""
        self.ready.clear()
        code = await process.kill()
        message = message or f"the process that ran this step died ({_ending(code)})"
        _logger.error("worker %d: %s", self.index, message)
        self._on_death(self, Death(reason, message, process.current_job()))

    async def _read(self, process: _Process) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionResetError):
            while True:
                header, body = await process.receive()
                if header["is"] != "pong":
                    self._on_message(self, header, body)

    async def _watch(self, process: _Process) -> tuple[Reason, str]:
        """Pings the worker while it is idle. Returns, with an explanation, when it hangs."""
        seen, waited, last = process.heartbeat.read(), 0.0, time.monotonic()
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            heartbeat, now = process.heartbeat.read(), time.monotonic()
            # A pause of this process counts for little: it may have been the whole container's.
            waited, last = waited + min(now - last, 5 * _WATCH_SECONDS), now
            if heartbeat != seen:
                seen, waited = heartbeat, 0.0
            elif not process.jobs:
                if waited > _PING_SECONDS:
                    process.send({"do": "ping"}, None, [_PING])
                    waited = 0.0
            elif overdue := self._overdue(process, waited):
                return overdue

    def _overdue(self, process: _Process, waited: float) -> tuple[Reason, str] | None:
        """What is wrong with a worker that has jobs and gave no sign of life for `waited` seconds; None: nothing."""
        job = process.current_job()
        if job is None or job is _PING:
            if waited > _BEGIN_SECONDS:
                return Reason.WORKER_DIED, f"it was frozen: it did not begin its next job within {_BEGIN_SECONDS:g} s"
            return None
        opening = job.slot is None
        limit = max(self._step_timeout, _START_SECONDS) if opening else self._step_timeout
        if waited > limit:
            what = "making the env" if opening else "the step"
            return Reason.STEP_TIMEOUT, f"{what} took longer than {limit:g} s (--step-timeout)"
        return None


def _environment() -> dict[str, str]:
    """The environment for a worker, without the server's secrets: simulators log theirs, or send it with reports."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_SECRETS)}


def _ending(code: int) -> str:
    """How a process ended, from its exit code."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:  # most real-time signals have no name
        return f"killed by signal {-code}"
