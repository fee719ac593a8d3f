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
from typing import NamedTuple

from google.protobuf.message import Message

from overworld.errors import Reason, WorkerError
from overworld.host import pipe, progress
from overworld.host.progress import ProgressFile
from overworld.v1 import env_pb2 as pb

_logger = logging.getLogger(__name__)

_START_SECONDS = 120.0
_WATCH_SECONDS = 0.2


class Job(NamedTuple):
    """What a worker was told to do: a command of a session's slot, or to open the session (`slot` is None)."""

    session: int
    slot: int | None


class Death(NamedTuple):
    """Why a worker had to be replaced, and at which job it was; None: at none."""

    reason: Reason
    message: str
    job: Job | None


class WorkerProcess:
    """One worker, started anew whenever it died.

    `on_message(worker, header, body)` gets what it says, `on_death(worker, death)` is told when it died, or was killed
    since a job took too long. `ready` is set while it works; `starts` counts how often it was started.
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
        self._minder: asyncio.Task[None] | None = None

    async def start(self) -> pb.GetServerInfoResponse:
        """Starts the process and waits until it has loaded its envs, which it describes. Raises WorkerError."""
        ours, theirs = socket.socketpair()
        with tempfile.TemporaryFile() as file:
            file.truncate(progress.SIZE)
            self._progress = ProgressFile(file.fileno())
            fds = theirs.fileno(), file.fileno()
            # One thread per worker: the workers are as many as the cores.
            threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "overworld.host.worker",
                *map(str, fds),
                str(self.capacity),
                *self._names,
                pass_fds=fds,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=sys.stderr.fileno(),  # envs may print; ours is read by whoever started the server
                env=threads | os.environ,
            )
        theirs.close()
        reader, self._writer = await asyncio.open_connection(sock=ours)
        self._jobs: deque[Job] = deque()  # sent and not answered
        self._answered = 0
        try:
            header, body = await asyncio.wait_for(pipe.read(reader), _START_SECONDS)
        except (asyncio.IncompleteReadError, TimeoutError):
            header = {"is": "unable", "why": f"worker {self.index} died while loading {', '.join(self._names)}"}
        if header["is"] == "unable":
            self._writer.close()
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
            raise WorkerError(header["why"])
        self.starts += 1
        self._minder = asyncio.create_task(self._mind(reader))
        self.ready.set()
        return pb.GetServerInfoResponse.FromString(body)

    def open(self, header: pipe.Header, request: pb.OpenRequest) -> None:
        """Has a session opened."""
        self._jobs.append(Job(header["session"], None))
        self.send(header, request)

    def step(self, session: int, commands: Sequence[pb.Command], *, replay: bool = False) -> None:
        """Has commands executed; their results come to `on_message` in this order."""
        self._jobs.extend(Job(session, command.slot) for command in commands)
        self.send({"do": "replay" if replay else "step", "session": session}, pb.StepRequest(commands=commands))

    def send(self, header: pipe.Header, message: Message | None = None) -> None:
        """Sends one message; what is sent to a dead worker is lost, and `on_death` tells of it."""
        self._writer.write(pipe.encode(header, message))

    async def stop(self) -> None:
        """Ends the process."""
        if self._minder is not None:
            self._minder.cancel()
        if self._process.returncode is None:
            self._writer.close()
            try:
                await asyncio.wait_for(self._process.wait(), 1.0)
            except TimeoutError:
                self._process.kill()
                await self._process.wait()

    async def _mind(self, reader: asyncio.StreamReader) -> None:
        """Accompanies one process to its end, and tells of it."""
        reading, watching = asyncio.create_task(self._read(reader)), asyncio.create_task(self._watch())
        try:
            await asyncio.wait({reading, watching}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            reading.cancel()
            watching.cancel()
        if watching.done() and not watching.cancelled() and watching.exception() is None:
            reason, message = Reason.STEP_TIMEOUT, watching.result()
        else:
            for task in (reading, watching):
                if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                    _logger.error("worker %d", self.index, exc_info=error)
            reason, message = Reason.WORKER_DIED, "the process that ran this step died"
        self.ready.clear()
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._writer.close()
        code = await self._process.wait()
        if reason is Reason.WORKER_DIED:
            message += f" ({f'killed by {signal.Signals(-code).name}' if code < 0 else f'exit code {code}'})"
        _logger.error("worker %d: %s", self.index, message)
        self._on_death(self, Death(reason, message, self._job()))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionResetError):
            while True:
                header, body = await pipe.read(reader)
                jobs = 1 if header["is"] == "opened" else len(pb.StepResponse.FromString(body).results)
                for _ in range(jobs):
                    self._jobs.popleft()
                self._answered += jobs
                self._on_message(self, header, body)

    async def _watch(self) -> str:
        """Returns, with an explanation, when one job takes too long."""
        seen, since = self._progress.read(), time.monotonic()
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            now = self._progress.read()
            if not now.working or now != seen:
                seen, since = now, time.monotonic()
                continue
            job = self._job()
            opening = job is not None and job.slot is None
            limit = max(self._step_timeout, _START_SECONDS) if opening else self._step_timeout
            if time.monotonic() - since > limit:
                return f"{'making the env' if opening else 'the step'} took longer than {limit:g} s (--step-timeout)"

    def _job(self) -> Job | None:
        """The job that is being done: answers come in the jobs' order, so it is so many behind the last answer."""
        now = self._progress.read()
        behind = now.started - self._answered - 1
        return self._jobs[behind] if now.working and 0 <= behind < len(self._jobs) else None
