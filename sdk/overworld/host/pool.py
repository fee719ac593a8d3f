"""The pool of workers: spreads slots over them, routes commands and results, brings sessions back when a worker died.

A session is *up* on a worker from the worker's answer to its open until the worker's death. After a death each session
that was up there is opened anew, and each of its slots there is brought back by replaying its episode; the replay must
lead to the state that the client knows. The slot whose command was running fails.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from overworld.authoring.env import End
from overworld.contract.wire import episode_state
from overworld.errors import ContractError, Reason, WorkerError
from overworld.host import pipe
from overworld.host.metrics import Metrics
from overworld.host.session import Session, Slot
from overworld.host.worker_process import Death, Job, WorkerProcess
from overworld.v1 import env_pb2 as pb

_RESTART_PAUSES = (0.2, 1.0, 5.0)
"""Seconds between attempts to replace a worker: what keeps one from starting (no memory, say) may pass."""

_logger = logging.getLogger(__name__)


class _WorkerDiedError(Exception):
    """The worker died of something else before it answered."""


class Pool:
    """`workers` processes that share `slots` slots, each loading the envs `names`.

    `on_lost(session)` is told of a session that cannot be brought back.
    """

    on_lost: Callable[[Session], None]

    def __init__(
        self, names: Sequence[str], *, slots: int, workers: int, step_timeout: float, metrics: Metrics
    ) -> None:
        self.slots = slots
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Gets a WorkerError when a worker cannot be replaced."""
        self._metrics = metrics
        self._sessions: dict[int, Session] = {}
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
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*(worker.stop() for worker in self._workers))

    def take(self, count: int) -> list[Slot]:
        """Takes `count` free slots, neighbours on different workers, so that any range of a session uses all cores.

        Raises ContractError NO_FREE_SLOTS.
        """
        if count > self.free:
            raise ContractError(
                Reason.NO_FREE_SLOTS,
                f"{count} slots were asked for, {self.free} of {self.slots} are free; ask for fewer or try again later",
            )
        slots = []
        for index in range(count):
            worker = max(self._workers, key=lambda worker: worker.capacity - worker.used)
            worker.used += 1
            slots.append(Slot(index, worker))
        return slots

    @staticmethod
    def give_back(slots: Sequence[Slot]) -> None:
        """The inverse of `take`."""
        for slot in slots:
            slot.worker.used -= 1

    async def open(self, session: Session) -> pb.OpenResponse:
        """Has the workers make the session's envs. Raises ContractError; then the session is closed."""
        self._sessions[session.key] = session
        workers = list(dict.fromkeys(slot.worker for slot in session.slots))
        try:
            answers = await asyncio.gather(*(self._bring_up(session, worker) for worker in workers))
        except ContractError:
            self.close(session)
            raise
        return answers[0]

    def step(self, session: Session, commands: Sequence[pb.Command]) -> None:
        """Has accepted commands executed; `session.finish` gets the results."""
        by_worker: dict[WorkerProcess, list[pb.Command]] = {}
        for command in commands:
            slot = session.slots[command.slot]
            if slot.lost is not None:
                self._finish(session, slot, _failure(slot, slot.lost), [])
            elif not slot.rebuilding:  # else it is sent when the slot has been brought back
                by_worker.setdefault(slot.worker, []).append(command)
        for worker, batch in by_worker.items():
            worker.step(session.key, batch)

    def close(self, session: Session) -> None:
        """Frees the session's slots. May be called again."""
        if self._sessions.pop(session.key, None) is None:
            return
        self.give_back(session.slots)
        for worker in session.up:
            worker.send({"do": "close", "session": session.key})

    async def _bring_up(self, session: Session, worker: WorkerProcess) -> pb.OpenResponse:
        """Opens the session on a worker, again if that dies of something else meanwhile, and replays its slots there.

        Raises ContractError if its env cannot be made, or if the session is closed meanwhile.
        """
        header = {
            "do": "open",
            "session": session.key,
            "slots": [slot.index for slot in session.slots if slot.worker is worker],
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
            except _WorkerDiedError:
                continue
            if (worker.starts, worker.ready.is_set()) != (start, True):
                continue
            if session.key not in self._sessions:
                worker.send({"do": "close", "session": session.key})
            self._check_open(session)
            session.up.add(worker)
            for slot in session.slots:
                if slot.worker is worker:
                    self._replay(session, slot)
            return opened

    def _check_open(self, session: Session) -> None:
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
                self._finish(
                    session, slot, result, [response.blocks[image.block] for image in result.observation.images]
                )

    def _finish(self, session: Session, slot: Slot, result: pb.SlotResult, places: list[pb.FrameBlock]) -> None:
        env = session.request.env_id
        self._metrics.step_seconds(env).observe(result.micros / 1e6)
        if result.end:
            self._metrics.episodes.labels(env, End(result.end).name).inc()
        if result.state == pb.SLOT_STATE_FAILED:
            self._metrics.failures.labels(env, result.error.reason).inc()
        session.finish(slot, result, places)

    def _on_death(self, worker: WorkerProcess, death: Death) -> None:
        self._metrics.worker_restarts.inc()
        for (key, opener), answer in list(self._opening.items()):
            if opener is worker:
                del self._opening[key, opener]
                guilty = death.job == Job(key, None)
                answer.set_exception(
                    ContractError(Reason.ENV_FAILED, f"{death.message}, while the env was made")
                    if guilty
                    else _WorkerDiedError()
                )
        self._spawn(self._restart(worker))
        for session in self._sessions.values():
            if worker not in session.up:
                continue  # `_bring_up` is at it
            session.up.remove(worker)
            for slot in session.slots:
                if slot.worker is worker:
                    slot.rebuilding = True
                    if death.job == Job(session.key, slot.index):
                        self._lose(session, slot, death.reason, death.message)
            self._spawn(self._bring_back(session, worker))

    async def _restart(self, worker: WorkerProcess) -> None:
        for pause in (*_RESTART_PAUSES, None):
            try:
                await worker.start()
            except WorkerError as error:
                _logger.error("%s", error)
                if pause is not None:
                    await asyncio.sleep(pause)
                elif not self.failed.done():
                    self.failed.set_exception(error)
            else:
                return

    async def _bring_back(self, session: Session, worker: WorkerProcess) -> None:
        try:
            await self._bring_up(session, worker)
        except ContractError as error:
            if session.key in self._sessions:
                _logger.error("session %s cannot be brought back: %s", session.request.session, error)
                self.on_lost(session)

    def _replay(self, session: Session, slot: Slot) -> None:
        """Replays the slot's episode so far, if there is one that goes on; `_replayed` takes the result."""
        if not slot.log:
            self._resume(session, slot)
            return
        first, *actions = slot.log
        replay = pb.Command(slot=slot.index, episode=first.episode, turn=slot.log[-1].turn)
        replay.reset.CopyFrom(first.reset)
        replay.reset.prefix.extend(command.action for command in actions)
        slot.worker.step(session.key, [replay], replay=True)

    def _replayed(self, session: Session, slot: Slot, result: pb.SlotResult) -> None:
        # Without a known state, a reset was accepted meanwhile: what was replayed does not matter any more.
        if slot.known is None or episode_state(result) == episode_state(slot.known):
            self._resume(session, slot)
        else:
            message = "replaying the episode after its process died led to another state"
            self._lose(session, slot, Reason.REBUILD_MISMATCH, message)
            self._resume(session, slot)

    def _resume(self, session: Session, slot: Slot) -> None:
        """The slot is where it was: what it was told meanwhile is sent."""
        slot.rebuilding = False
        if slot.running:
            assert slot.command is not None
            slot.worker.step(session.key, [slot.command])

    def _lose(self, session: Session, slot: Slot, reason: Reason, message: str) -> None:
        """Fails the running command, or else the next action."""
        error = pb.SlotError(reason=reason.name, message=f"{message}; reset the slot", reset_helps=True)
        if slot.running:
            self._finish(session, slot, _failure(slot, error), [])
        else:
            slot.log.clear()
            slot.lost = error

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _failure(slot: Slot, error: pb.SlotError) -> pb.SlotResult:
    return pb.SlotResult(slot=slot.index, episode=slot.episode, turn=slot.turn, state=pb.SLOT_STATE_FAILED, error=error)
