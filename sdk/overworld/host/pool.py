"""The pool of workers: spreads slots over them, routes commands and results, replaces a worker that died or hung.

After a replacement each of the worker's slots is brought back by replaying its episode, verified by the frame hashes;
the slot whose command was running fails.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from overworld.env import End
from overworld.errors import ContractError, Reason
from overworld.host import pipe
from overworld.host.metrics import Metrics
from overworld.host.session import Session, Slot
from overworld.host.workers import Job, WorkerError, WorkerProcess
from overworld.v1 import env_pb2 as pb

_logger = logging.getLogger(__name__)


class Pool:
    """`workers` processes that share `slots` slots, each loading the envs `names`."""

    def __init__(
        self, names: Sequence[str], *, slots: int, workers: int, step_timeout: float, metrics: Metrics
    ) -> None:
        self.slots = slots
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Gets a WorkerError when a worker cannot be replaced."""
        self._metrics = metrics
        self._sessions: dict[int, Session] = {}
        self._opening: dict[tuple[int, WorkerProcess], asyncio.Future[pb.OpenResponse]] = {}
        self._replacing: set[asyncio.Task[None]] = set()
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

    @property
    def free(self) -> int:
        """Slots that no session holds."""
        return sum(worker.capacity - worker.used for worker in self._workers)

    async def start(self) -> pb.GetServerInfoResponse:
        """Starts the workers; the envs and versions that they describe. Raises WorkerError."""
        info, *_ = await asyncio.gather(*(worker.start() for worker in self._workers))
        return info

    async def stop(self) -> None:
        """Ends the workers."""
        for task in self._replacing:
            task.cancel()
        await asyncio.gather(*(worker.stop() for worker in self._workers))

    def take(self, count: int) -> list[Slot]:
        """Takes `count` free slots, neighbours on different workers, so that any range of a session uses all cores.

        Raises ContractError NO_FREE_SLOTS.
        """
        if count > self.free:
            raise ContractError(
                Reason.NO_FREE_SLOTS,
                f"{count} slots were asked for, {self.free} of {self.slots} are free; try again later",
            )
        slots = []
        for index in range(count):
            worker = max(self._workers, key=lambda worker: worker.capacity - worker.used)
            worker.used += 1
            slots.append(Slot(index, worker))
        return slots

    async def open(self, session: Session) -> pb.OpenResponse:
        """Has the workers make the session's envs. Raises ContractError; then the session is closed."""
        workers = {slot.worker for slot in session.slots}
        while not all(worker.ready.is_set() for worker in workers):
            await asyncio.gather(*(worker.ready.wait() for worker in workers))
        self._sessions[session.key] = session
        answers = await asyncio.gather(*(self._open_on(worker, session) for worker in workers), return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                self.close(session)
                raise answer
        response = answers[0]
        assert isinstance(response, pb.OpenResponse)
        return response

    def step(self, session: Session, commands: Sequence[pb.Command]) -> None:
        """Has accepted commands executed; `session.finish` gets the results."""
        by_worker: dict[WorkerProcess, list[pb.Command]] = {}
        for command in commands:
            slot = session.slots[command.slot]
            if slot.lost is not None:
                self._finish(session, slot, _failure(slot, slot.lost), [])
            elif not slot.rebuilding:  # else it is sent when the slot has been rebuilt
                by_worker.setdefault(slot.worker, []).append(command)
        for worker, batch in by_worker.items():
            worker.step(session.key, batch)

    def close(self, session: Session) -> None:
        """Frees the session's slots. May be called again."""
        if self._sessions.pop(session.key, None) is None:
            return
        for slot in session.slots:
            slot.worker.used -= 1
        for worker in {slot.worker for slot in session.slots}:
            worker.send({"do": "close", "session": session.key})

    def _open_on(self, worker: WorkerProcess, session: Session) -> asyncio.Future[pb.OpenResponse]:
        future: asyncio.Future[pb.OpenResponse] = asyncio.get_running_loop().create_future()
        self._opening[session.key, worker] = future
        header = {
            "do": "open",
            "session": session.key,
            "slots": [slot.index for slot in session.slots if slot.worker is worker],
            "frames": session.frames.path,
            "stride": session.frames.stride,
        }
        worker.send(header, session.request)
        return future

    def _on_message(self, worker: WorkerProcess, header: pipe.Header, body: bytes) -> None:
        key = header["session"]
        if header["is"] == "opened":
            future = self._opening.pop((key, worker))
            if header["error"] is None:
                future.set_result(pb.OpenResponse.FromString(body))
            else:
                reason, message = header["error"]
                future.set_exception(ContractError(Reason[reason], message))
            return
        session = self._sessions.get(key)
        if session is None:
            return  # closed while the commands ran
        response = pb.StepResponse.FromString(body)
        for result in response.results:
            places = [response.blocks[image.block] for image in result.observation.images]
            slot = session.slots[result.slot]
            if slot.rebuilding:
                self._rebuilt(session, slot, result, places)
            else:
                self._finish(session, slot, result, places)

    def _finish(self, session: Session, slot: Slot, result: pb.SlotResult, places: list[pb.FrameBlock]) -> None:
        env = session.request.env_id
        self._metrics.step_seconds(env).observe(result.micros / 1e6)
        if result.end:
            self._metrics.episodes.labels(env, End(result.end).name).inc()
        if result.state == pb.SLOT_STATE_FAILED:
            self._metrics.failures.labels(env, result.error.reason).inc()
        session.finish(slot, result, places)

    def _on_death(self, worker: WorkerProcess, reason: Reason, message: str, job: Job | None) -> None:
        self._metrics.worker_restarts.inc()
        for (key, opener), future in list(self._opening.items()):
            if opener is worker:
                del self._opening[key, opener]
                future.set_exception(ContractError(Reason.ENV_FAILED, f"{message} while it made the env"))
        for session in self._sessions.values():
            for slot in session.slots:
                if slot.worker is worker:
                    slot.rebuilding = True
        task = asyncio.create_task(self._replace(worker, (reason, message), job))
        self._replacing.add(task)
        task.add_done_callback(self._replacing.discard)

    async def _replace(self, worker: WorkerProcess, death: tuple[Reason, str], job: Job | None) -> None:
        try:
            await worker.start()
        except WorkerError as error:
            if not self.failed.done():
                self.failed.set_exception(error)
            return
        for session in list(self._sessions.values()):
            slots = [slot for slot in session.slots if slot.worker is worker]
            if not slots or session.spec is None:
                continue  # not opened yet: `open` waits for the worker itself
            try:
                await self._open_on(worker, session)
            except ContractError as error:
                _logger.error("session %s cannot be rebuilt: %s", session.request.session, error)
                session.lose()
                continue
            for slot in slots:
                if job == (session.key, slot.index):
                    self._lose(session, slot, *death)
                else:
                    self._rebuild(session, slot)

    def _rebuild(self, session: Session, slot: Slot) -> None:
        """Replays the episode so far; `_rebuilt` goes on."""
        if not slot.log:
            self._resume(session, slot)
            return
        first, *actions = slot.log
        replay = pb.Command(slot=slot.index, episode=first.episode, turn=slot.log[-1].turn)
        replay.reset.CopyFrom(first.reset)
        replay.reset.prefix.extend(command.action for command in actions)
        slot.worker.step(session.key, [replay])

    def _rebuilt(self, session: Session, slot: Slot, result: pb.SlotResult, places: list[pb.FrameBlock]) -> None:
        """The replay must have led to the state that the client knows."""
        assert slot.known is not None
        if _state(result) == _state(slot.known):
            slot.places = places
            self._resume(session, slot)
        else:
            message = "replaying the episode after its process died gave another state"
            self._lose(session, slot, Reason.REBUILD_MISMATCH, message)

    def _resume(self, session: Session, slot: Slot) -> None:
        slot.rebuilding = False
        if slot.running:
            assert slot.command is not None
            slot.worker.step(session.key, [slot.command])

    def _lose(self, session: Session, slot: Slot, reason: Reason, message: str) -> None:
        """Fails the running command, or else the next action."""
        slot.rebuilding = False
        error = pb.SlotError(reason=reason.name, message=f"{message}; reset the slot", reset_helps=True)
        if slot.running:
            self._finish(session, slot, _failure(slot, error), [])
        else:
            slot.lost = error


def _failure(slot: Slot, error: pb.SlotError) -> pb.SlotResult:
    return pb.SlotResult(slot=slot.index, episode=slot.episode, turn=slot.turn, state=pb.SLOT_STATE_FAILED, error=error)


def _state(result: pb.SlotResult) -> tuple[object, ...]:
    """What two runs of the same episode must agree in."""
    hashes = tuple(image.xxh64 for image in result.observation.images)
    return result.state, result.turn, result.reward, result.end, hashes
