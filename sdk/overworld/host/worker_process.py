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
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from google.protobuf.message import Message

from overworld.authoring.concurrency import Concurrency
from overworld.errors import Reason, WorkerError
from overworld.host import pipe
from overworld.host.heartbeat import Heartbeat, HeartbeatFile, Heartbeats, Silence
from overworld.host.lane import lane_count, lane_number
from overworld.service import bounds
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
    """What a worker was told to do: a command or replay of a session's slot, to open the session (`slot` is None), or
    nothing."""

    session: int | None
    slot: int | None
    replay: bool = False


_PING = Job(None, None)


class Death(NamedTuple):
    """Why a worker had to be replaced, and the jobs that are to blame. If many ran at once that may not be known: then
    one of `suspects` is, or none."""

    reason: Reason
    message: str
    jobs: Collection[Job] = ()
    suspects: Collection[Job] = ()


@dataclass(slots=True, eq=False)
class _LaneJobs:
    """What a lane was told to do."""

    jobs: list[Job] = field(default_factory=list)  # sent and not answered

    def current(self, now: Heartbeat) -> Job | None:
        """The job that is being done."""
        if not now.working:
            return None
        return next((job for job in self.jobs if (job.session, job.slot) == (now.session, now.slot)), None)

    def answer(self, session: int | None) -> Job:
        """Notes an answer to one of the session's jobs. They are answered in the order in which they were sent."""
        position = next(number for number, job in enumerate(self.jobs) if job.session == session)
        return self.jobs.pop(position)


class _Message(NamedTuple):
    """What is sent to a worker, and the jobs in it, by lane."""

    header: pipe.Header
    body: Message | None
    jobs: Sequence[tuple[int, Job]]


@dataclass(slots=True, kw_only=True, eq=False)
class _Process:
    """One process of a worker, from its start to its death.

    A job that is among the `suspects` is given to it when it has nothing else to do, and nothing else meanwhile.
    """

    process: asyncio.subprocess.Process
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    heartbeats: HeartbeatFile
    suspects: set[Job] = field(default_factory=set)
    lanes: defaultdict[int, _LaneJobs] = field(default_factory=lambda: defaultdict(_LaneJobs))
    held: deque[_Message] = field(default_factory=deque)

    def send(self, header: pipe.Header, body: Message | None = None, jobs: Sequence[tuple[int, Job]] = ()) -> None:
        """Sends a message now, or after those that are held."""
        self.held.append(_Message(header, body, jobs))
        self.send_held()

    def send_held(self) -> None:
        """Sends what is held, as far as it may be sent now."""
        while self.held and (not self.suspects or self._may_send(self.held[0])):
            header, body, jobs = self.held.popleft()
            for lane, job in jobs:
                self.lanes[lane].jobs.append(job)
            self.writer.write(pipe.encode(header, body))

    def _may_send(self, message: _Message) -> bool:
        sent = [job for lane in self.lanes.values() for job in lane.jobs]
        return not sent or self.suspects.isdisjoint((*sent, *(job for _, job in message.jobs)))

    async def receive(self) -> tuple[pipe.Header, bytes]:
        """The next message that answers jobs."""
        header, body = await pipe.read(self.reader)
        for number in header["lanes"]:
            self.suspects.discard(self.lanes[number].answer(header.get("session")))
        self.send_held()
        return header, body

    def running(self) -> set[Job]:
        """The jobs that are being done, without those that wait for their turn on an event loop."""
        beats = self.heartbeats.read()
        current = {number: lane.current(beats[number]) for number, lane in self.lanes.items()}
        jobs = {number: job for number, job in current.items() if job is not None}
        return {job for number, job in jobs.items() if not beats[number].awaiting} or set(jobs.values())

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
        self.places = list(range(capacity))
        """Those that no slot has."""
        self.ready = asyncio.Event()
        self.starts = 0
        self._names = names
        self._step_timeout = step_timeout
        self._on_message = on_message
        self._on_death = on_death
        self.concurrency: dict[str, Concurrency] = {}  # by env
        self._suspects: set[Job] = set()  # one of which ended the last process
        self._process: _Process | None = None
        self._supervisor: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        state = "ready" if self.ready.is_set() else "not ready"
        used = f"{self.capacity - len(self.places)} of {self.capacity} slots used"
        return f"<WorkerProcess {self.index}: {state}, {used}, {self.starts} starts>"

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
        self.concurrency = {env: Concurrency(number) for env, number in header["concurrency"].items()}
        self.starts += 1
        self._supervisor = asyncio.create_task(self._supervise(process))
        self.ready.set()
        return pb.GetServerInfoResponse.FromString(body)

    def lane(self, env_id: str, place: int) -> int:
        """The lane that runs a slot of this env at this place."""
        return lane_number(self.concurrency[env_id], place, self.capacity)

    def open(self, header: pipe.Header, request: pb.OpenRequest) -> None:
        """Tells the worker to open a session."""
        job = Job(header["session"], None)
        self._send(header, request, [(lane, job) for lane in {lane: None for _, lane in header["slots"]}])

    def step(self, session: int, commands: Sequence[tuple[int, pb.Command]], *, replay: bool = False) -> None:
        """Tells lanes of the worker to execute commands; those of one lane give their results in this order."""
        assert self._process is not None
        batches = [[command] for command in commands] if self._process.suspects else [commands]
        for batch in batches:
            lanes = [lane for lane, _ in batch]
            request = pb.StepRequest(commands=[command for _, command in batch])
            jobs = [(lane, Job(session, command.slot, replay)) for lane, command in batch]
            self._send({"do": "replay" if replay else "step", "session": session, "lanes": lanes}, request, jobs)

    def close(self, session: int) -> None:
        """Tells the worker to close a session."""
        self._send({"do": "close", "session": session})

    async def stop(self) -> None:
        """Ends the process."""
        if self._supervisor is not None:
            self._supervisor.cancel()
        if self._process is not None:
            await self._process.stop()

    def _send(self, header: pipe.Header, message: Message | None = None, jobs: Sequence[tuple[int, Job]] = ()) -> None:
        """Sends one message. What is sent to a dead worker is lost, which `on_death` reports."""
        assert self._process is not None
        self._process.send(header, message, jobs)

    async def _launch(self) -> _Process:
        with contextlib.ExitStack() as on_failure, contextlib.ExitStack() as given:
            ours, theirs = socket.socketpair()
            on_failure.callback(ours.close)
            given.enter_context(theirs)
            file = given.enter_context(tempfile.TemporaryFile())
            lanes = lane_count(self.capacity)
            file.truncate(HeartbeatFile.size(lanes))
            heartbeats = HeartbeatFile(file.fileno(), lanes)
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
        return _Process(
            process=process, reader=reader, writer=writer, heartbeats=heartbeats, suspects=set(self._suspects)
        )

    async def _supervise(self, process: _Process) -> None:
        """Waits for the process to die or hang, and reports it."""
        reading, watching = asyncio.create_task(self._read(process)), asyncio.create_task(self._watch(process))
        try:
            await asyncio.wait({reading, watching}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            reading.cancel()
            watching.cancel()
        self.ready.clear()
        if watching.done() and not watching.cancelled() and watching.exception() is None:
            death = watching.result()
            await process.kill()
        else:
            for task in (reading, watching):
                if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                    _logger.error("worker %d", self.index, exc_info=error)
            message = f"the process that ran this step died ({_ending(await process.kill())})"
            death = _blaming(process.running(), Reason.WORKER_DIED, message)
        _logger.error("worker %d: %s", self.index, death.message)
        self._suspects = set() if death.jobs else process.suspects.union(death.suspects)
        if self._suspects:
            _logger.warning(
                "worker %d: %d jobs were running; they are repeated one at a time, to find the one that ended it",
                self.index,
                len(self._suspects),
            )
        self._on_death(self, death)

    async def _read(self, process: _Process) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionResetError):
            while True:
                header, body = await process.receive()
                if header["is"] != "pong":
                    self._on_message(self, header, body)

    async def _watch(self, process: _Process) -> Death:
        """Pings the worker while lane 0 is idle. Returns when a lane hangs, or the whole process."""
        before, last = process.heartbeats.read(), time.monotonic()
        silence = Silence(len(before))
        idle = 0.0
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            beats, now = process.heartbeats.read(), time.monotonic()
            # A pause of this process counts for little: it may have been the whole container's.
            passed, last = min(now - last, 5 * _WATCH_SECONDS), now
            silence.passed(passed, before, beats, [number for number, lane in process.lanes.items() if lane.jobs])
            before = beats
            idle = 0.0 if process.lanes[0].jobs or process.held else idle + passed
            if idle > _PING_SECONDS:
                process.send({"do": "ping"}, jobs=[(0, _PING)])
            if death := self._hanging(process, beats, silence):
                return death

    def _hanging(self, process: _Process, beats: Heartbeats, silence: Silence) -> Death | None:
        """What is wrong with a worker that has jobs and gives no sign of life; None: nothing."""
        late: dict[Job, str] = {}
        whole = bounds.PREFIX_STEPS * self._step_timeout
        for number in silence.longer(min(_BEGIN_SECONDS, self._step_timeout), whole):
            job = process.lanes[number].current(beats[number])
            waited = silence.waited[number]
            if job is None or job is _PING:
                # While others work, they may be what keeps it from beginning: then it is their limit that counts.
                if waited > _BEGIN_SECONDS and not beats.working.any():
                    message = f"it was frozen: it did not begin its next job within {_BEGIN_SECONDS:g} s"
                    return Death(Reason.WORKER_DIED, message)
            elif waited > (limit := self._limit(job)):
                what = "making the env" if job.slot is None else "the step"
                late[job] = f"{what} took longer than {limit:g} s (--step-timeout)"
            elif silence.busy[number] > whole and job.slot is not None:  # each turn of a prefix is a sign of life
                late[job] = f"the prefix took longer than {whole:g} s ({bounds.PREFIX_STEPS} times --step-timeout)"
        if not late:
            return None
        message = next(iter(late.values()))
        if silence.waited[0] > _PING_SECONDS and process.lanes[0].current(beats[0]) is None:
            return _blaming(process.running(), Reason.STEP_TIMEOUT, message)  # one of them keeps all from running
        return Death(Reason.STEP_TIMEOUT, message, late.keys())

    def _limit(self, job: Job) -> float:
        return max(self._step_timeout, bounds.MAKING) if job.slot is None else self._step_timeout


def _blaming(running: Collection[Job], reason: Reason, message: str) -> Death:
    """The death of a process in which these jobs were being done."""
    return Death(reason, message, running) if len(running) == 1 else Death(reason, message, suspects=running)


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
