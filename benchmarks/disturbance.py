"""What attacks on a server are compared with, and what is seen beside them."""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

BUSY_LOOP = "a busy loop"


@dataclass
class Seen:
    """What was seen beside one kind of disturbance."""

    seconds: list[float] = field(default_factory=list)
    memory: int = 0
    answers: Counter[str] = field(default_factory=Counter)

    @property
    def p99(self) -> float:
        """Of what the neighbours did, in seconds."""
        return statistics.quantiles(self.seconds, n=100)[98]


@contextlib.contextmanager
def disturbance(attack: Sequence[str]) -> Iterator[list[str]]:
    """A process at nice 19: the Python program `attack`, or one that only loops where that is empty.

    The program prints a line when it has all that it is going to send, and then a word for each answer. Yields a list
    that has these words at the end.
    """
    program = attack or ["-c", "print(flush=True)\nwhile True: pass"]
    process = subprocess.Popen(
        [sys.executable, *program], stdout=subprocess.PIPE, text=True, preexec_fn=lambda: os.nice(19)
    )
    assert process.stdout is not None
    answers: list[str] = []
    try:
        process.stdout.readline()
        yield answers
        if process.poll() is not None:
            raise SystemExit(f"{' '.join(program)} has ended by itself, with status {process.poll()}")
    finally:
        process.terminate()
        answers += process.stdout.read().split()
        process.wait()
