"""Ending a run in mid-update: asked for by a signal, noticed at the next point where work can be left.

With several ranks, all of them leave at the same point. Each does its own work up to the next meeting (`meet`), which
precedes whatever they do together. A rank that is asked to stop leaves its work and goes straight to that meeting; the
others learn of it there at the latest. Nobody waits for a rank that has left, since nobody gets past that meeting.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from overworld_trainer.ranks import Ranks

POLL_SECONDS = 0.2
"""For how long others are waited for between two checks."""


class InterruptionError(Exception):
    """The update under way is to be thrown away."""


class Stop:
    """Asked to stop, it raises at the next `check` or `meet`."""

    def __init__(self, ranks: Ranks | None = None) -> None:
        self._ranks = ranks or Ranks()
        self._asked = threading.Event()
        self._told = False
        self._met = False
        self._next_look = 0.0

    def ask(self) -> None:
        """Asks to stop; may be called by a signal handler."""
        self._asked.set()

    def asked(self) -> bool:
        """Whether it was asked to stop, on this rank or, as far as is known here, on another one."""
        if self._asked.is_set():
            if not self._told:
                self._told = True
                self._ranks.ask_to_stop()
            return True
        if self._ranks.size > 1 and time.monotonic() > self._next_look:
            self._next_look = time.monotonic() + POLL_SECONDS
            if self._ranks.asked_to_stop():
                self._asked.set()
        return self._asked.is_set()

    def check(self) -> None:
        """Raises InterruptionError if it was asked to stop."""
        if self.asked():
            raise InterruptionError

    def meet(self) -> None:
        """Waits for all ranks. Raises InterruptionError on all of them if one was asked to stop, and RankError."""
        if self._ranks.largest(self.asked())[0]:
            self._met = True
            self._asked.set()
            raise InterruptionError

    def leave(self) -> None:
        """After InterruptionError: leaves work together with all other ranks. Raises RankError."""
        if not self._met:
            self._met = True
            self._ranks.largest(True)

    def alone(self, work: Callable[[], None]) -> None:
        """Has rank 0 do something that takes long, in which it calls `company` again and again; the others wait.

        Raises RankError, and on rank 0 what `work` raises.
        """
        if self._ranks.first:
            work()
            self._accompany(done=True)
        else:
            while not self._accompany(done=False)[1]:
                pass

    def company(self) -> bool:
        """On rank 0, while it works alone: whether a rank was asked to stop. Raises RankError."""
        return self._accompany(done=False)[0]

    def _accompany(self, *, done: bool) -> tuple[bool, bool]:
        asked, finished = self._ranks.largest(self.asked(), done)
        return bool(asked), bool(finished)
