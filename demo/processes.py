"""How the demo's own process ends, and what all of its processes have cost."""

from __future__ import annotations

import os
import signal
from types import TracebackType


class EndingOnSignals:
    """Within this context SIGTERM ends the program as Ctrl-C does; while it cleans up, neither can interrupt it."""

    def __enter__(self) -> None:
        signal.signal(signal.SIGTERM, self._interrupt)
        signal.signal(signal.SIGINT, self._interrupt)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)

    @staticmethod
    def _interrupt(number: int, _: object) -> None:
        for one in (signal.SIGTERM, signal.SIGINT):
            signal.signal(one, signal.SIG_IGN)
        raise KeyboardInterrupt(signal.Signals(number).name)


def cpu_seconds() -> float:
    """CPU time of this process and of all its descendants that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
