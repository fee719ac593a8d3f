"""The heartbeat of a worker, in memory that outlives it, so that the front knows at which job it died or hangs."""

from __future__ import annotations

import mmap
import struct
from typing import NamedTuple

SIZE = 24
_COUNTERS = struct.Struct("<QQQ")


class Heartbeat(NamedTuple):
    """Jobs started, jobs finished, and beats: signs of life within a long job."""

    started: int
    finished: int
    beats: int

    @property
    def working(self) -> bool:
        """Whether a job is being done."""
        return self.started > self.finished


class HeartbeatFile:
    """The counters in a file of SIZE bytes, given by its descriptor."""

    def __init__(self, fd: int) -> None:
        self._memory = mmap.mmap(fd, SIZE)
        self._started = self._finished = self._beats = 0

    def read(self) -> Heartbeat:
        """For the front."""
        return Heartbeat(*_COUNTERS.unpack(self._memory[:SIZE]))

    def start(self) -> None:
        """For the worker: the next job begins."""
        self._started += 1
        self._write()

    def beat(self) -> None:
        """For the worker: the job is still being done."""
        self._beats += 1
        self._write()

    def finish(self) -> None:
        """For the worker: the job is done."""
        self._finished = self._started
        self._write()

    def _write(self) -> None:
        self._memory[:SIZE] = _COUNTERS.pack(self._started, self._finished, self._beats)
