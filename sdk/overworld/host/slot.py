"""A slot on the host: its last command and result, and what is needed to rebuild it when its worker died."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Sequence
from dataclasses import dataclass, field

import xxhash

from overworld.contract.replay import Episode, Idle, Lost, advance
from overworld.errors import Reason
from overworld.host.worker_process import Job, WorkerProcess
from overworld.v1 import env_pb2 as pb


class Phase(enum.Enum):
    """What a slot does: whether its worker has the slot's env and episode, and whether a command is running."""

    REBUILDING = "the worker makes the env, or replays the episode; no command runs"
    HELD = "as REBUILDING, and a command waits until that is done"
    READY = "no command runs"
    RUNNING = "the worker has a command"

    __hash__ = object.__hash__  # members are singletons; Enum's own hash takes longer than all else in a transition


_ON_ACCEPT = {Phase.READY: Phase.RUNNING, Phase.REBUILDING: Phase.HELD}
_ON_FINISH = {Phase.RUNNING: Phase.READY, Phase.HELD: Phase.REBUILDING}
_ON_REBUILT = {Phase.REBUILDING: Phase.READY, Phase.HELD: Phase.RUNNING}
_ON_DEATH = {
    Phase.READY: Phase.REBUILDING,
    Phase.RUNNING: Phase.HELD,
    Phase.REBUILDING: Phase.REBUILDING,
    Phase.HELD: Phase.HELD,
}


_WITH_COMMAND = (Phase.RUNNING, Phase.HELD)


@dataclass(slots=True)
class Waiter:
    """A Step that waits until `missing` more slots are ready."""

    missing: int
    done: asyncio.Future[None]


@dataclass(slots=True, kw_only=True, eq=False)
class HostedSlot:
    """One slot. `phase` says what it does now, `episode` what must be replayed if its worker dies."""

    index: int
    worker: WorkerProcess
    place: int  # among the worker's slots
    lane: int  # of the worker, which runs it
    phase: Phase = Phase.REBUILDING
    episode: Episode = field(default_factory=Idle)
    command: pb.Command | None = None  # the last one that was accepted, without replies
    digest: bytes = b""  # of that command as it was sent
    recorded: int = 0  # bytes of the episode's commands, without replies
    result: pb.SlotResult | None = None  # what it gave; None while it is running
    places: Sequence[pb.FrameBlock] = ()  # of the result's images, in the session's file
    waiters: list[Waiter] = field(default_factory=list)
    killed: set[bool] = field(default_factory=set)  # whether a replay, or the current command, has ended its worker

    def __repr__(self) -> str:
        return f"<HostedSlot {self.index} on worker {self.worker.index}: {self.phase.name}, {self.episode!r}>"

    @property
    def running(self) -> bool:
        """Whether the last command has no result yet."""
        return self.phase in _WITH_COMMAND

    def repeats(self, command: pb.Command) -> bool:
        """Whether `command` is the last one, sent again."""
        return self.digest == _digest(command)

    def accept(self, command: pb.Command) -> pb.Command:
        """Makes `command` the current one. Returns what is to be executed: the command without replies."""
        self.phase = _ON_ACCEPT[self.phase]
        self.command, self.digest, self.result = _without_replies(command), _digest(command), None
        self.killed.discard(False)
        if command.HasField("reset"):
            self.episode = Idle()  # the last one need not be replayed any more
            self.recorded = 0
        self.recorded += self.command.ByteSize()
        return self.command

    def finish(self, result: pb.SlotResult, places: Sequence[pb.FrameBlock] = ()) -> None:
        """Notes the result of the running command and wakes those who wait for it."""
        self.phase = _ON_FINISH[self.phase]
        assert self.command is not None
        self.result, self.places = result, places
        self.episode = advance(self.episode, self.command, result)
        for waiter in self.waiters:
            waiter.missing -= 1
            if waiter.missing <= 0 and not waiter.done.done():
                waiter.done.set_result(None)
        self.waiters.clear()

    def worker_died(self) -> None:
        """Notes that the slot must be rebuilt."""
        self.phase = _ON_DEATH[self.phase]

    def kills_again(self, job: Job) -> bool:
        """Notes that `job`, one of this slot's, ended its worker; whether it has done so before.

        Once may be chance, such as a lack of memory, so it is done again.
        """
        again = job.replay in self.killed
        self.killed.add(job.replay)
        return again

    def rebuilt(self) -> None:
        """Notes that the worker has the slot's env and episode (again). If a command was held, send it now."""
        self.killed.discard(True)
        self.phase = _ON_REBUILT[self.phase]

    def lose(self, reason: Reason, message: str) -> None:
        """Notes that the episode cannot be rebuilt. No command may be running: the next action fails instead."""
        assert not self.running
        self.episode = Lost(reason, message)

    def failure(self, reason: Reason, message: str) -> pb.SlotResult:
        """A failed result of the running command."""
        assert self.command is not None
        return pb.SlotResult(
            slot=self.index,
            episode=self.command.episode,
            turn=self.command.turn,
            state=pb.SLOT_STATE_FAILED,
            error=pb.SlotError(reason=reason.name, message=message, reset_helps=True),
        )


def _digest(command: pb.Command) -> bytes:
    return xxhash.xxh3_128_digest(command.SerializeToString(deterministic=True))


def _without_replies(command: pb.Command) -> pb.Command:
    """A copy for the worker, which does not need replies, and to be kept, for which they are too long."""
    cleared = pb.Command()
    cleared.CopyFrom(command)
    for action in cleared.reset.prefix if command.HasField("reset") else (cleared.action,):
        action.ClearField("reply")
    copy = pb.Command()  # a cleared field keeps its memory as long as its message lives
    copy.CopyFrom(cleared)
    return copy
