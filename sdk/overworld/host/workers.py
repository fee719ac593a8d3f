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

from google.protobuf.message import Message

from overworld.errors import Reason
from overworld.host import pipe
from overworld.host.worker import Progress
from overworld.v1 import env_pb2 as pb

_logger = logging.getLogger(__name__)

_START_SECONDS = 120.0
_WATCH_SECONDS = 0.2


Job = tuple[int, int]
"""A session's key and a slot's index."""


class WorkerError(Exception):
    """A worker could not be started; the message says why."""


class WorkerProcess:
    """One worker. After it died, `start` may be called again.

    `on_message(worker, header, body)` gets what it says. `on_death(worker, reason, message, job)` is told when it died,
    or was killed since a command ran longer than `step_timeout` seconds; `job` is where it was at, or None.
    """

    def __init__(
        self,
        index: int,
        names: Sequence[str],
        *,
        capacity: int,
        step_timeout: float,
        on_message: Callable[[WorkerProcess, pipe.Header, bytes], None],
        on_death: Callable[[WorkerProcess, Reason, str, Job | None], None],
    ) -> None:
        self.index = index
        self.capacity = capacity
        self.used = 0
        self.ready = asyncio.Event()
        self._names = names
        self._step_timeout = step_timeout
        self._on_message = on_message
        self._on_death = on_death
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> pb.GetServerInfoResponse:
        """Starts the process and waits until it has loaded its envs, which it describes. Raises WorkerError."""
        ours, theirs = socket.socketpair()
        with tempfile.TemporaryFile() as progress_file:
            progress_file.truncate(Progress.SIZE)
            self._progress = Progress(progress_file.fileno())
            fds = theirs.fileno(), progress_file.fileno()
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
                env=threads | os.environ,
            )
        theirs.close()
        reader, self._writer = await asyncio.open_connection(sock=ours)
        self._sent: deque[Job] = deque()  # commands without a result
        self._received = 0
        try:
            header, body = await asyncio.wait_for(pipe.read(reader), _START_SECONDS)
        except (asyncio.IncompleteReadError, TimeoutError):
            self._process.kill()
            raise WorkerError(f"worker {self.index} died while loading {', '.join(self._names)}") from None
        if header["is"] == "unable":
            raise WorkerError(header["why"])
        self._tasks = [asyncio.create_task(self._read(reader)), asyncio.create_task(self._watch())]
        self.ready.set()
        return pb.GetServerInfoResponse.FromString(body)

    def send(self, header: pipe.Header, message: Message | None = None) -> None:
        """Sends one message; what is sent to a dead worker is lost, and `on_death` tells of it."""
        self._writer.write(pipe.encode(header, message))

    def step(self, session: int, commands: Sequence[pb.Command]) -> None:
        """Sends commands; their results come to `on_message` in this order."""
        self._sent.extend((session, command.slot) for command in commands)
        self.send({"do": "step", "session": session}, pb.StepRequest(commands=commands))

    async def stop(self) -> None:
        """Ends the process."""
        for task in self._tasks:
            task.cancel()
        if self._process.returncode is None:
            self._writer.close()
            try:
                await asyncio.wait_for(self._process.wait(), 1.0)
            except TimeoutError:
                self._process.kill()
                await self._process.wait()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionResetError):
            while True:
                header, body = await pipe.read(reader)
                if header["is"] == "results":
                    response = pb.StepResponse.FromString(body)
                    for _ in response.results:
                        self._sent.popleft()
                    self._received += len(response.results)
                self._on_message(self, header, body)
        await self._process.wait()
        code = self._process.returncode
        assert code is not None
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        self._report(Reason.WORKER_DIED, f"the process that ran this step died ({how})")

    async def _watch(self) -> None:
        """Kills the process when one command runs for too long."""
        current, since = 0, time.monotonic()
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            started, finished = self._progress.read()
            if started == finished or started != current:
                current, since = started, time.monotonic()
            elif time.monotonic() - since > self._step_timeout:
                self._tasks[0].cancel()
                self._process.kill()
                await self._process.wait()
                self._report(
                    Reason.STEP_TIMEOUT, f"the step took longer than {self._step_timeout:g} s (--step-timeout)"
                )
                return

    def _report(self, reason: Reason, message: str) -> None:
        self.ready.clear()
        started, finished = self._progress.read()
        # Results come in the order of the commands, so the running one is so many behind the last that came.
        job = self._sent[started - self._received - 1] if started > finished else None
        _logger.error("worker %d: %s", self.index, message)
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()
        self._on_death(self, reason, message, job)
