"""Seconds by part: where the time of a rollout or an update went."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch.profiler import record_function

OTHER = "other"
"""The part to which all time outside any part is added."""


class Stopwatch:
    """Adds up seconds by part, in one thread.

        with stopwatch("update"):
            with stopwatch("encode"):
                ...

    Each moment counts for the innermost part only, so that the parts' seconds sum to the wall time. In a profiler's
    trace each part is a range of its name.

    Kernels on a GPU run long after they are launched, so the host's clock would credit a part's kernels to whichever
    later part first waits for them. On CUDA a border between parts is therefore an event in the current stream: parts
    last from the moment at which the GPU reaches one event to the next. Nothing waits before `take`; synchronising at
    each border would drain the GPU's queue, once a token in decoding. What the host does while the GPU is still busy
    with an earlier part counts for that earlier part.

    Not to be used within the capture of a CUDA graph: the replays would not be measured.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._device = torch.device(device)
        self._parts = [OTHER]  # the one that the time now counts for, last, and those around it
        self._borders: deque[tuple[_Moment, str]] = deque()  # and the part that begins there
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._observer: Callable[[str], None] | None = None
        self._add_border()

    def __repr__(self) -> str:
        return f"Stopwatch({' in '.join(reversed(self._parts))}, on {self._device})"

    @contextlib.contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Counts the time within for `part`, and not for the part around it."""
        self._parts.append(part)
        self._add_border()
        try:
            with record_function(part):
                yield
        finally:
            self._parts.pop()
            self._add_border()

    def take(self) -> dict[str, float]:
        """Seconds by part since the last call, or since the beginning; waits until the GPU has caught up."""
        self._add_border()
        self._borders[-1][0].wait()
        self._count()
        seconds = dict(self._seconds)
        self._seconds.clear()
        return seconds

    @contextlib.contextmanager
    def observed(self, observer: Callable[[str], None]) -> Iterator[None]:
        """Within, `observer` is called at each border, with the part that begins or continues there."""
        self._observer = observer
        try:
            yield
        finally:
            self._observer = None

    def _add_border(self) -> None:
        """The innermost part has changed, or its time so far is asked for."""
        if self._observer is not None:
            self._observer(self._parts[-1])
        moment = _GpuMoment(self._device) if self._device.type == "cuda" else _HostMoment()
        self._borders.append((moment, self._parts[-1]))
        self._count()

    def _count(self) -> None:
        """Counts the time between those borders that have been reached; only the last of them must be kept."""
        while len(self._borders) > 1 and self._borders[1][0].reached():
            began, part = self._borders.popleft()
            self._seconds[part] += self._borders[0][0].seconds_since(began)


class _Moment(Protocol):
    """A border between parts."""

    def reached(self) -> bool:
        """Whether it has passed."""

    def wait(self) -> None:
        """Returns once it has passed."""

    def seconds_since(self, earlier: _Moment) -> float:
        """Seconds from an earlier moment of the same kind; both must have passed."""


class _HostMoment(_Moment):
    """When it was made."""

    def __init__(self) -> None:
        self._time = time.perf_counter()

    def reached(self) -> bool:
        return True

    def wait(self) -> None:
        pass

    def seconds_since(self, earlier: _Moment) -> float:
        assert isinstance(earlier, _HostMoment)
        return self._time - earlier._time


class _GpuMoment(_Moment):
    """When the GPU has done all that its current stream had been given until this was made."""

    def __init__(self, device: torch.device) -> None:
        self._event = torch.cuda.Event(enable_timing=True)
        self._event.record(torch.cuda.current_stream(device))

    def reached(self) -> bool:
        reached: bool = self._event.query()
        return reached

    def wait(self) -> None:
        self._event.synchronize()

    def seconds_since(self, earlier: _Moment) -> float:
        assert isinstance(earlier, _GpuMoment)
        milliseconds: float = earlier._event.elapsed_time(self._event)
        return milliseconds / 1000
