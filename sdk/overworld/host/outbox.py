"""Results on their way from a worker to the front: those that are ready at the same time are sent together."""

from __future__ import annotations

import threading
from collections import deque
from typing import NamedTuple

from overworld.host import pipe
from overworld.v1 import env_pb2 as pb


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
        self._sending = threading.Lock()

    def send(self, answer: str, session: int, lane: int, response: pb.StepResponse) -> None:
        """Sends results of a lane with their blocks, or leaves that to a thread that is sending already.

        Raises OSError when the front is gone.
        """
        self._waiting.append(_Entry(answer, session, [lane] * len(response.results), response))
        while self._waiting and self._sending.acquire(blocking=False):
            try:
                self._send_waiting()
            finally:
                self._sending.release()

    def _send_waiting(self) -> None:
        merged: dict[tuple[str, int], _Entry] = {}
        for _ in range(len(self._waiting)):
            entry = self._waiting.popleft()
            first = merged.setdefault((entry.answer, entry.session), entry)
            if first is not entry:
                _append(first, entry)
        for answer, session, lanes, response in merged.values():
            self._front.send({"is": answer, "session": session, "lanes": lanes}, response)


def _append(first: _Entry, entry: _Entry) -> None:
    """Adds the results of `entry` to those of `first`."""
    blocks = len(first.response.blocks)
    for result in entry.response.results:
        for image in result.observation.images:
            image.block += blocks
    first.response.MergeFrom(entry.response)
    first.lanes.extend(entry.lanes)
