"""Results on their way from a worker to the front: those that are ready at about the same time are sent together."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import NamedTuple

from overworld.host import pipe
from overworld.host.lane import Lane
from overworld.v1 import env_pb2 as pb

_SECONDS = 0.005
"""Results of an event loop's lanes wait for those of the others that are ready to run, but no longer than this."""


class _Entry(NamedTuple):
    answer: str
    session: int
    lanes: list[int]
    response: pb.StepResponse


class Outbox:
    """Any thread may send."""

    def __init__(self, front: pipe.Blocking) -> None:
        self._front = front
        self._waiting: deque[_Entry] = deque()
        self._since = 0.0  # when the first of them came
        self._sending = threading.Lock()

    def send(self, answer: str, session: int, lane: Lane, response: pb.StepResponse) -> None:
        """Sends results of a lane with their blocks, or leaves that to somebody who is about to.

        Raises OSError when the front is gone.
        """
        now = time.perf_counter()
        if not self._waiting:
            self._since = now
        self._waiting.append(_Entry(answer, session, [lane.number] * len(response.results), response))
        if now - self._since > _SECONDS:
            self._send_waiting()
        else:
            lane.soon(self._send_waiting)

    def _send_waiting(self) -> None:
        while self._waiting and self._sending.acquire(blocking=False):
            try:
                self._send_merged()
            finally:
                self._sending.release()

    def _send_merged(self) -> None:
        merged: dict[tuple[str, int], _Entry] = {}
        for _ in range(len(self._waiting)):
            entry = self._waiting.popleft()
            first = merged.setdefault((entry.answer, entry.session), entry)
            if first is not entry:
                _append(first, entry)
        self._front.send_all(
            ({"is": answer, "session": session, "lanes": lanes}, response)
            for answer, session, lanes, response in merged.values()
        )


def _append(first: _Entry, entry: _Entry) -> None:
    """Adds the results of `entry` to those of `first`."""
    blocks = len(first.response.blocks)
    for result in entry.response.results:
        for image in result.observation.images:
            image.block += blocks
    first.response.MergeFrom(entry.response)
    first.lanes.extend(entry.lanes)
