"""What one batch has to write: jobs that its engine works on, and those that wait to join them."""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from overworld_vlm.engine import MAX_BATCHED_PROMPT
from overworld_vlm.writer import Request

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """Replies to one prompt, and the callback for their tokens."""

    requests: Sequence[Request]
    on_tokens: Callable[[], None]

    @property
    def long(self) -> bool:
        """Whether its prompt is prefilled alone."""
        return len(self.requests[0].prompt) > MAX_BATCHED_PROMPT

    @property
    def unfinished(self) -> list[Request]:
        """The replies that are not whole yet."""
        return [request for request in self.requests if request.finish is None]

    @property
    def prefilled(self) -> bool:
        """Whether its prompt has been read, or need not be any more."""
        first = self.requests[0]
        return bool(first.tokens) or first.finish is not None

    def fail(self) -> None:
        """Ends the replies that are not whole."""
        self.cancel()
        self.report()

    def cancel(self) -> None:
        """As `fail`, without telling anybody yet."""
        for request in self.unfinished:
            request.finish = "cancelled"

    def report(self) -> None:
        """Calls back. What is wrong with the callback is its own affair."""
        try:
            self.on_tokens()
        except Exception:
            _logger.exception("nobody could be told of a token")


class Jobs:
    """The jobs of one engine.

    After the engine has failed, those that ran are suspects: each of them starts over and runs alone, so that the one
    at which the engine fails costs nobody else a reply. Then the others join.
    """

    def __init__(self) -> None:
        self.running: list[Job] = []
        self._short: deque[Job] = deque()
        self._long: deque[Job] = deque()
        self._suspects: deque[Job] = deque()
        self._alone = False

    def __repr__(self) -> str:
        return f"Jobs({len(self.running)} of {len(self)} running)"

    def __len__(self) -> int:
        return len(self.running) + len(self._short) + len(self._long) + len(self._suspects)

    def __iter__(self) -> Iterator[Job]:
        return itertools.chain(self.running, self._suspects, self._short, self._long)

    @property
    def any_short(self) -> bool:
        """Whether one with a short prompt waits or runs."""
        return bool(self._short) or any(not job.long for job in self.running)

    def add(self, job: Job) -> None:
        """A job that is to join."""
        (self._long if job.long else self._short).append(job)

    def join(self, *, long: bool) -> list[Job]:
        """Those that join now; `long`: one with a long prompt may."""
        if self._alone and self.running:
            return []
        self._alone = bool(self._suspects)
        if self._alone:
            joining = [self._suspects.popleft()]
        else:
            joining = list(self._short)
            self._short.clear()
            if long and self._long:
                joining.append(self._long.popleft())
        self.running += joining
        return joining

    def start_over(self) -> None:
        """The engine has failed and forgotten all that ran."""
        unfinished = [job for job in self.running if job.unfinished]
        if len(unfinished) == 1:
            unfinished[0].cancel()
            return
        for job in unfinished:
            for request in job.unfinished:
                for written in (request.tokens, request.logps, request.likeliest):
                    written.clear()
        self._suspects.extend(unfinished)
        self.running = [job for job in self.running if not job.unfinished]

    def take_finished(self) -> list[Job]:
        """Those that have finished, and run no more."""
        finished = [job for job in self.running if not job.unfinished]
        self.running = [job for job in self.running if job.unfinished]
        return finished

    def take_all(self) -> list[Job]:
        """All of them."""
        everyone = list(self)
        self.running = []
        for waiting in (self._suspects, self._short, self._long):
            waiting.clear()
        return everyone
