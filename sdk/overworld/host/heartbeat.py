"""The heartbeats of a worker's lanes, in memory that outlives it: at which jobs it died, and which one hangs."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_LINE = struct.Struct("<6q")
_NOTHING = -1


class Heartbeat(NamedTuple):
    """Of one lane: the last job that was started, jobs started, jobs finished, beats (signs of life within a long job),
    and turns on the event loop.

    A job is named by its session's key and its slot's index; None for what is no session's, or no slot's. `turns`
    counts when a job on an event loop gets hold of it and when it lets go; 0 on threads.
    """

    session: int | None = None
    slot: int | None = None
    started: int = 0
    finished: int = 0
    beats: int = 0
    turns: int = 0

    @property
    def working(self) -> bool:
        """Whether a job is being done."""
        return self.started > self.finished

    @property
    def awaiting(self) -> bool:
        """Whether a job waits for something, and others have the event loop."""
        return self.working and self.turns > 0 and self.turns % 2 == 0


class Heartbeats:
    """The heartbeats of all lanes at one moment: `lines`, int64 [lanes, fields of a Heartbeat]."""

    def __init__(self, lines: NDArray[np.int64]) -> None:
        self._lines = lines
        _, _, self.started, finished, _, self._turns = lines.T
        self.working = self.started > finished
        """As `Heartbeat.working`, bool [lanes]; so are the others."""
        self._on_loop = self._turns % 2 == 1
        self.awaiting = self.working & (self._turns > 0) & ~self._on_loop

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, lane: int) -> Heartbeat:
        session, slot, *counters = self._lines[lane].tolist()
        return Heartbeat(_named(session), _named(slot), *counters)

    def progressed(self, before: Heartbeats) -> NDArray[np.bool_]:
        """Whether a job began, ended or gave a sign of life since `before`."""
        changed: NDArray[np.bool_] = (self._lines[:, :-1] != before._lines[:, :-1]).any(axis=1)
        return changed

    def holds_loop(self, before: Heartbeats) -> bool:
        """Whether a job has had the event loop to itself since `before`."""
        return bool((self._on_loop & (self._turns == before._turns)).any())


class Silence:
    """For how long each of so many lanes has been silent."""

    def __init__(self, lanes: int) -> None:
        self.waited = np.zeros(lanes)
        """Seconds without a sign of life, of lanes that have jobs."""
        self.busy = np.zeros(lanes)
        """Seconds with one job."""

    def passed(self, seconds: float, before: Heartbeats, now: Heartbeats, lanes: Sequence[int]) -> None:
        """Notes that so much time has passed; `lanes` are those that have jobs."""
        have_jobs = np.zeros(len(now), np.bool_)
        have_jobs[lanes] = True
        # Whoever waits for the event loop while another one does not let go of it, is not the one that hangs.
        blamed = np.True_ if not now.holds_loop(before) else ~now.awaiting
        self.waited += seconds * blamed
        self.waited[now.progressed(before) | ~have_jobs] = 0
        self.busy += seconds
        self.busy[~have_jobs | ~now.working | (now.started != before.started)] = 0

    def longer(self, waited: float, busy: float) -> list[int]:
        """The lanes that have waited, or been busy, for longer than that."""
        lanes: list[int] = np.flatnonzero((self.waited > waited) | (self.busy > busy)).tolist()
        return lanes


class HeartbeatFile:
    """The heartbeats of `lanes` lanes in a file, given by its descriptor, that has `size(lanes)` bytes."""

    def __init__(self, fd: int, lanes: int) -> None:
        self._memory = mmap.mmap(fd, self.size(lanes))
        self._lines: NDArray[np.int64] = np.frombuffer(self._memory, np.int64).reshape(lanes, -1)

    @staticmethod
    def size(lanes: int) -> int:
        """Bytes of the file."""
        return lanes * _LINE.size

    def read(self) -> Heartbeats:
        """For the front: all lanes."""
        return Heartbeats(self._lines.copy())

    def line(self, lane: int) -> HeartbeatLine:
        """For the worker: one lane."""
        return HeartbeatLine(self._memory, lane * _LINE.size)


class HeartbeatLine:
    """Writes the heartbeat of one lane. Lanes may write at the same time."""

    def __init__(self, memory: mmap.mmap, at: int) -> None:
        self._memory = memory
        self._at = at
        self._session = self._slot = _NOTHING
        self._started = self._finished = self._beats = self._turns = 0

    def start(self, session: int | None, slot: int | None) -> None:
        """A job of the session's slot begins, or goes on after others."""
        self._session = _NOTHING if session is None else session
        self._slot = _NOTHING if slot is None else slot
        self._started += 1
        self._write()

    def beat(self) -> None:
        """The job is still being done."""
        self._beats += 1
        self._write()

    def finish(self) -> None:
        """The job is done, or others are done before it goes on."""
        self._finished = self._started
        self._write()

    def turn(self) -> None:
        """The job gets hold of the event loop, or lets go of it."""
        self._turns += 1
        self._write()

    def _write(self) -> None:
        _LINE.pack_into(
            self._memory,
            self._at,
            self._session,
            self._slot,
            self._started,
            self._finished,
            self._beats,
            self._turns,
        )


def _named(number: int) -> int | None:
    return None if number == _NOTHING else number
