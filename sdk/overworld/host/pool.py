"""The pool of workers: spreads slots over them, routes commands and results, rebuilds sessions when a worker died.

A session is *up* on a worker from the worker's answer to its open until the worker's death. After a death each session
that was up there is rebuilt: opened again, and each of its slots there replays its episode, which must lead to the
state that the client knows. The command that ended the worker is executed again with the others; if it ends the worker
again, its slot fails. Where many were running, it is found by repeating them one at a time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from overworld.authoring.env import End
from overworld.contract.replay import Lost, Playing
from overworld.errors import ContractError, Reason, TransientError, WorkerError
from overworld.host import pipe
from overworld.host.metrics import Entry, ServerMetrics
from overworld.host.session import HostedSession
from overworld.host.slot import HostedSlot, Phase
from overworld.host.worker_process import Death, Job, WorkerProcess
from overworld.v1 import env_pb2 as pb

_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0
"""Seconds between attempts to replace a worker: what keeps it from starting (too little memory, say) may pass."""
_REPLACE_SECONDS = 60.0
"""For so long it is tried; then the server ends, since another one may have more luck."""

_logger = logging.getLogger(__name__)


class _WorkerDiedError(Exception):
    """The worker died before it answered. `message` says how, if it was making the env that was asked for."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message)
        self.message = message


class Pool:
    """`workers` processes that share `slots` slots, each loading the envs `names`.

    `on_lost(session)` is called for a session that cannot be rebuilt.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        slots: int,
        workers: int,
        step_timeout: float,
        metrics: ServerMetrics,
        on_lost: Callable[[HostedSession], None],
    ) -> None:
        self.slots = slots
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Gets a TransientError when a worker cannot be replaced, and whatever else goes wrong here unforeseen."""
        self._metrics = metrics
        self._on_lost = on_lost
        self._sessions: dict[int, HostedSession] = {}
        self._opening: dict[tuple[int, WorkerProcess], asyncio.Future[pb.OpenResponse]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._workers = [
            WorkerProcess(
                index,
                names,
                capacity=slots // workers + (index < slots % workers),
                step_timeout=step_timeout,
                on_message=self._on_message,
                on_death=self._on_death,
            )
            for index in range(workers)
        ]
        metrics.workers_ready.set_function(lambda: sum(worker.ready.is_set() for worker in self._workers))

    def __repr__(self) -> str:
        return f"<Pool: {len(self._workers)} workers, {self.free} of {self.slots} slots free>"

    @property
    def free(self) -> int:
        """Slots that no session holds."""
        return sum(len(worker.places) for worker in self._workers)

    @property
    def healthy(self) -> bool:
        """Whether each worker can be used: it does its jobs in time, or has answered a ping seconds ago."""
        return all(worker.ready.is_set() for worker in self._workers)

    async def start(self) -> pb.GetServerInfoResponse:
        """Starts the workers; the envs and versions that they describe. Raises WorkerError."""
        info, *_ = await asyncio.gather(*(worker.start() for worker in self._workers))
        return info

    async def stop(self) -> None:
        """Ends the workers."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*(worker.stop() for worker in self._workers))

    def take(self, count: int, env_id: str) -> list[HostedSlot]:
        """Takes `count` free slots for an env.

        Neighbours are on different workers, so that any range of a session uses all cores.

        Raises ContractError NO_FREE_SLOTS.
        """
        if count > self.free:
            raise ContractError(
                Reason.NO_FREE_SLOTS,
                f"{count} slots were asked for, {self.free} of {self.slots} are free; ask for fewer or try again later",
            )
        slots = []
        for index in range(count):
            worker = max(self._workers, key=lambda worker: len(worker.places))
            place = worker.places.pop()
            slots.append(HostedSlot(index=index, worker=worker, place=place, lane=worker.lane(env_id, place)))
        return slots

    @staticmethod
    def give_back(slots: Sequence[HostedSlot]) -> None:
        """The inverse of `take`."""
        for slot in slots:
            slot.worker.places.append(slot.place)

    async def open(self, session: HostedSession) -> pb.OpenResponse:
        """Makes the session's envs on the workers. Raises ContractError; then the session is closed."""
        self._sessions[session.key] = session
        workers = list(dict.fromkeys(slot.worker for slot in session.slots))
        try:
            answers = await asyncio.gather(*(self._open_on(worker, session) for worker in workers))
        except ContractError:
            self.close(session)
            raise
        return answers[0]

    def step(self, session: HostedSession, commands: Sequence[pb.Command]) -> None:
        """Executes accepted commands; the slots get the results."""
        by_worker: dict[WorkerProcess, list[tuple[int, pb.Command]]] = {}
        for command in commands:
            slot = session.slots[command.slot]
            self._note(session, slot, "accepted")
            if isinstance(slot.episode, Lost):
                self._fail(session, slot, slot.episode.reason, slot.episode.message)
            elif slot.phase is Phase.RUNNING:  # a command that is held is sent when the slot has been rebuilt
                by_worker.setdefault(slot.worker, []).append((slot.lane, command))
        for worker, batch in by_worker.items():
            worker.step(session.key, batch)

    def close(self, session: HostedSession) -> None:
        """Frees the session's slots. May be called again."""
        if self._sessions.pop(session.key, None) is None:
            return
        for slot in session.slots:
            if slot.running:
                self._note(session, slot, "dropped")
        self.give_back(session.slots)
        for worker in session.up:
            worker.close(session.key)

    async def _open_on(self, worker: WorkerProcess, session: HostedSession) -> pb.OpenResponse:
        """Opens the session on a worker, again if it dies meanwhile, and replays its episodes.

        Raises ContractError if its env cannot be made, as where the worker died of it twice, or if the session is
        closed meanwhile.
        """
        killed = False
        header = {
            "do": "open",
            "session": session.key,
            "client": session.owner.name,
            "slots": [[slot.index, slot.lane] for slot in session.slots if slot.worker is worker],
            "frames": session.frames.path,
            "nonce": session.frames.nonce.hex(),
            "stride": session.frames.stride,
        }
        while True:
            await worker.ready.wait()
            self._check_open(session)
            start = worker.starts
            answer: asyncio.Future[pb.OpenResponse] = asyncio.get_running_loop().create_future()
            self._opening[session.key, worker] = answer
            worker.open(header, session.request)
            try:
                opened = await answer
            except _WorkerDiedError as death:
                if death.message and killed:
                    raise ContractError(Reason.ENV_FAILED, f"{death.message}, twice, while the env was made") from None
                killed = killed or bool(death.message)
                continue
            if (worker.starts, worker.ready.is_set()) != (start, True):
                continue
            if session.key not in self._sessions:
                worker.close(session.key)
            self._check_open(session)
            session.up.add(worker)
            for slot in session.slots:
                if slot.worker is worker:
                    self._rebuild(session, slot)
            return opened

    def _check_open(self, session: HostedSession) -> None:
        if session.key not in self._sessions:
            raise ContractError(Reason.SESSION_UNKNOWN, "the session was closed while it was being opened")

    def _on_message(self, worker: WorkerProcess, header: pipe.Header, body: bytes) -> None:
        key = header["session"]
        if header["is"] == "opened":
            answer = self._opening.pop((key, worker))
            if header["error"] is None:
                answer.set_result(pb.OpenResponse.FromString(body))
            else:
                reason, message = header["error"]
                answer.set_exception(ContractError(Reason[reason], message))
            return
        session = self._sessions.get(key)
        if session is None:
            return  # closed while the commands ran
        response = pb.StepResponse.FromString(body)
        for result in response.results:
            slot = session.slots[result.slot]
            if header["is"] == "replayed":
                self._replayed(session, slot, result)
            else:
                places = [response.blocks[image.block] for image in result.observation.images]
                self._finish(session, slot, result, places)

    def _finish(
        self,
        session: HostedSession,
        slot: HostedSlot,
        result: pb.SlotResult,
        places: Sequence[pb.FrameBlock] = (),
    ) -> None:
        env = session.request.env_id
        self._metrics.step_seconds(env).observe(result.micros / 1e6)
        if result.end:
            self._metrics.episodes.labels(env, End(result.end).name).inc()
        self._note(session, slot, "failed" if result.state == pb.SLOT_STATE_FAILED else "executed")
        if result.state == pb.SLOT_STATE_FAILED:
            self._metrics.failures.labels(env, result.error.reason).inc()
        slot.finish(result, places)

    def repeated(self, session: HostedSession, commands: Sequence[pb.Command]) -> None:
        """Notes that commands came again, which are not executed again."""
        for command in commands:
            self._note(session, session.slots[command.slot], "repeated")

    def _note(self, session: HostedSession, slot: HostedSlot, entry: Entry, count: int = 1) -> None:
        """Makes an entry in the ledger."""
        self._metrics.commands(session.request.env_id, slot.worker.index, entry).inc(count)

    def _fail(self, session: HostedSession, slot: HostedSlot, reason: Reason, message: str) -> None:
        self._finish(session, slot, slot.failure(reason, message))

    def _on_death(self, worker: WorkerProcess, death: Death) -> None:
        self._metrics.worker_restarts.inc()
        for (key, opener), answer in list(self._opening.items()):
            if opener is worker:
                del self._opening[key, opener]
                guilty = Job(key, None) in death.jobs
                answer.set_exception(_WorkerDiedError(death.message if guilty else ""))
        guilty_jobs = {(job.session, job.slot): job for job in death.jobs}
        self._spawn(self._restart(worker))
        for session in self._sessions.values():
            if worker not in session.up:
                continue  # `_open_on` takes care of it
            session.up.remove(worker)
            for slot in session.slots:
                if slot.worker is worker:
                    job = guilty_jobs.get((session.key, slot.index))
                    if slot.phase is Phase.RUNNING:
                        self._note(session, slot, "interrupted")
                    slot.worker_died()
                    if job is not None and slot.kills_again(job):
                        self._lose(session, slot, death.reason, f"{death.message}, and so it was when it was repeated")
            self._spawn(self._reopen_on(worker, session))

    async def _restart(self, worker: WorkerProcess) -> None:
        began, pause = time.monotonic(), _FIRST_PAUSE
        while True:
            try:
                await worker.start()
                return
            except WorkerError as error:
                self._metrics.worker_start_failures.inc()
                tried = time.monotonic() - began
                if tried > _REPLACE_SECONDS:
                    message = f"worker {worker.index} could not be replaced for {tried:.0f} s ({error})"
                    raise TransientError(f"{message}; start the server again") from None
                _logger.error("%s; trying again in %g s", error, pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _reopen_on(self, worker: WorkerProcess, session: HostedSession) -> None:
        try:
            await self._open_on(worker, session)
        except ContractError as error:
            if session.key in self._sessions:
                _logger.error("session %s cannot be rebuilt: %s", session.request.session, error)
                self._on_lost(session)

    def _rebuild(self, session: HostedSession, slot: HostedSlot) -> None:
        """Replays the slot's episode, if one is running; `_replayed` takes the result."""
        if isinstance(slot.episode, Playing):
            self._note(session, slot, "replayed", slot.episode.known.turn + 1)
            slot.worker.step(session.key, [(slot.lane, slot.episode.replay())], replay=True)
        else:
            self._rebuilt(session, slot)

    def _replayed(self, session: HostedSession, slot: HostedSlot, result: pb.SlotResult) -> None:
        # If none is playing any more, a reset was accepted meanwhile: what was replayed does not matter.
        if isinstance(slot.episode, Playing) and (why := slot.episode.mismatch(result)):
            message = f"the episode could not be rebuilt after its process died: {why}"
            self._lose(session, slot, Reason.REBUILD_MISMATCH, message)
        self._rebuilt(session, slot)

    @staticmethod
    def _rebuilt(session: HostedSession, slot: HostedSlot) -> None:
        """The slot is where it was: the command that it was given meanwhile is sent."""
        slot.rebuilt()
        if slot.phase is Phase.RUNNING:
            assert slot.command is not None
            slot.worker.step(session.key, [(slot.lane, slot.command)])

    def _lose(self, session: HostedSession, slot: HostedSlot, reason: Reason, message: str) -> None:
        """Fails the running command, or else the next action."""
        message += "; reset the slot"
        if slot.running:
            self._fail(session, slot, reason, message)
        else:
            slot.lose(reason, message)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not self.failed.done():
            self.failed.set_exception(error)
