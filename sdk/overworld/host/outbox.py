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
    lane: int
    response: pb.StepResponse


class Outbox:
    """Any thread may add and flush."""

    def __init__(self, front: pipe.Blocking) -> None:
        self._front = front
        self._waiting: deque[_Entry] = deque()
        self._sending = threading.Lock()

    def add(self, answer: str, session: int, lane: int, response: pb.StepResponse) -> None:
        """Adds one result of a session, with its blocks, to be sent by the next `flush`."""
        self._waiting.append(_Entry(answer, session, lane, response))

    def flush(self) -> None:
        """Sends what was added, unless another thread does so already. Raises OSError when the front is gone."""
        while self._waiting and self._sending.acquire(blocking=False):
            try:
                self._send()
            finally:
                self._sending.release()

    def _send(self) -> None:
        entries = [self._waiting.popleft() for _ in range(len(self._waiting))]
        merged: dict[tuple[str, int], tuple[list[int], pb.StepResponse]] = {}
        for answer, session, lane, response in entries:
            lanes, sent = merged.setdefault((answer, session), ([], pb.StepResponse()))
            for result in response.results:
                for image in result.observation.images:
                    image.block += len(sent.blocks)
            lanes.append(lane)
            sent.MergeFrom(response)
        for (answer, session), (lanes, sent) in merged.items():
            self._front.send({"is": answer, "session": session, "lanes": lanes}, sent)
