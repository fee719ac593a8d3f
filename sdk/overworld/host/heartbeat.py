"""The heartbeats of a worker's lanes, in memory that outlives it: at which jobs it died, and which one hangs."""

from __future__ import annotations

import mmap
import struct
from typing import NamedTuple

_LINE = struct.Struct("<qqQQQQ")
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
    def on_loop(self) -> bool:
        """Whether a job holds the event loop now."""
        return self.turns % 2 == 1

    @property
    def awaiting(self) -> bool:
        """Whether a job waits for something, and others have the event loop."""
        return self.working and self.turns > 0 and not self.on_loop

    def progressed(self, before: Heartbeat) -> bool:
        """Whether a job began, ended or gave a sign of life since `before`."""
        return self[:5] != before[:5]


class HeartbeatFile:
    """The heartbeats of `lanes` lanes in a file, given by its descriptor, that has `size(lanes)` bytes."""

    def __init__(self, fd: int, lanes: int) -> None:
        self._memory = mmap.mmap(fd, self.size(lanes))

    @staticmethod
    def size(lanes: int) -> int:
        """Bytes of the file."""
        return lanes * _LINE.size

    def read(self) -> list[Heartbeat]:
        """For the front: all lanes."""
        return [
            Heartbeat(_named(session), _named(slot), *counters)
            for session, slot, *counters in _LINE.iter_unpack(self._memory)
        ]

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
