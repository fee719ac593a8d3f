"""Ending a run in mid-update: asked for by a signal, noticed at the next point where work can be left."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Collection
from concurrent.futures import Future
from typing import Any

_POLL_SECONDS = 0.2


class InterruptionError(Exception):
    """The update under way is to be thrown away."""


class Stop:
    """Asked to stop, it raises at the next `check`."""

    def __init__(self) -> None:
        self._asked = threading.Event()

    def ask(self) -> None:
        """Asks to stop; may be called by a signal handler."""
        self._asked.set()

    def check(self) -> None:
        """Raises InterruptionError if it was asked to stop."""
        if self._asked.is_set():
            raise InterruptionError

    def wait(self, futures: Collection[Future[Any]]) -> None:
        """Waits until all are done, checking."""
        self.check()
        while concurrent.futures.wait(futures, _POLL_SECONDS).not_done:
            self.check()
