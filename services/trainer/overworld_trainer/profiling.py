"""A trace of one update: what ran when, on the host and on the GPU, under the names of a stopwatch's parts."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from overworld_vlm.stopwatch import OTHER, Stopwatch
from torch.profiler import ProfilerActivity, profile

_logger = logging.getLogger(__name__)

_SECONDS_PER_PART = 0.5
"""A busy second makes more than 100,000 events, 7 MB of compressed trace, and a rollout is much the same throughout."""

_MAX_SWITCHES = 16
"""Switching the profiler off and on takes a while and prints a warning; later, only new parts switch it on."""


@contextlib.contextmanager
def traced(path: Path, stopwatch: Stopwatch) -> Iterator[None]:
    """Traces what is done within into `path` (*.json.gz), in the format of Chrome, Perfetto and TensorBoard.

    Only the beginning of each part is recorded, about half a second of it; not the inside of a long call.
    """
    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as profiler, stopwatch.observed(_Bound(profiler, activities)):
        yield
    with stopwatch("record"):
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".unfinished.{path.name}")
        profiler.export_chrome_trace(str(unfinished))
        unfinished.rename(path)
    _logger.info("%s holds a trace of the update; open it in ui.perfetto.dev or chrome://tracing", path)


class _Bound:
    """Lets a profiler record until each part has had its time."""

    def __init__(self, profiler: profile, activities: list[ProfilerActivity]) -> None:
        self._profiler = profiler
        self._activities = activities
        self._left: dict[str, float] = {}  # of the parts that have begun
        self._switches = 0
        self._recording = True
        self._part = OTHER
        self._since = time.perf_counter()

    def __call__(self, part: str) -> None:
        """`part` begins or continues."""
        if part == OTHER:  # short breaks between parts, which count for the part before
            return
        now = time.perf_counter()
        if self._recording and self._part != OTHER:
            self._left[self._part] -= now - self._since
        new = part not in self._left
        self._part, self._since = part, now
        record = self._left.setdefault(part, _SECONDS_PER_PART) > 0
        if record == self._recording or (record and not new and self._switches >= _MAX_SWITCHES):
            return
        self._recording = record
        self._switches += 1
        self._profiler.toggle_collection_dynamic(record, self._activities)
