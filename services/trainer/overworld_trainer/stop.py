"""Ending a run in mid-update: asked for by a signal, noticed at the next point where work can be left."""

from __future__ import annotations

import threading

POLL_SECONDS = 0.2
"""For how long others are waited for between two checks."""


class InterruptionError(Exception):
    """The update under way is to be thrown away."""


class Stop:
    """Asked to stop, it raises at the next `check`."""

    def __init__(self) -> None:
        self._asked = threading.Event()

    def ask(self) -> None:
        """Asks to stop; may be called by a signal handler."""
        self._asked.set()

    def asked(self) -> bool:
        """Whether it was asked to stop."""
        return self._asked.is_set()

    def check(self) -> None:
        """Raises InterruptionError if it was asked to stop."""
        if self._asked.is_set():
            raise InterruptionError
