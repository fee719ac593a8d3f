"""Ends a server that no longer works: Compose starts again what has ended, and leaves alone what is unhealthy."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any

STUCK = 69
"""Exit status of a server that has ended itself like this: EX_UNAVAILABLE of sysexits.h."""

_PAUSE_SECONDS = 1.0


class Watchdog:
    """Runs `check()` on the running event loop all the time, and ends the process if none succeeds for `seconds`.

    `what` is what does not answer then, in the one line that `program` says. Time in which the whole process stood
    still does not count.
    """

    def __init__(self, program: str, what: str, check: Callable[[], Coroutine[Any, Any, None]], seconds: float) -> None:
        self._program = program
        self._what = what
        self._check = check
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._stopped = threading.Event()
        threading.Thread(target=self._run, name="watchdog", daemon=True).start()

    def __repr__(self) -> str:
        return f"<Watchdog of {self._program}: {self._seconds:g} s>"

    def stop(self) -> None:
        """To be called before the event loop is closed."""
        self._stopped.set()

    def _run(self) -> None:
        asked: Future[None] | None = None
        silent = 0.0
        while not self._stopped.wait(_PAUSE_SECONDS):
            silent += _PAUSE_SECONDS
            if asked is not None and asked.done() and not asked.cancelled() and asked.exception() is None:
                silent = 0.0
            if asked is None or asked.done():
                asked = asyncio.run_coroutine_threadsafe(self._check(), self._loop)
            if silent > self._seconds:
                self._end(silent)

    def _end(self, silent: float) -> None:
        why = f"{self._what} has not answered for {silent:.0f} s; start the server again"
        print(f"{self._program}: {why}", file=sys.stderr, flush=True)
        os._exit(STUCK)
