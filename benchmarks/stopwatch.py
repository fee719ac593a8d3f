"""How peers of the transport benchmark time themselves."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np


def answer(step: Callable[[], object]) -> None:
    """Steps once. Then reads a number of steps per line; answers with the seconds they took and the longest of them."""
    step()
    print("ready", flush=True)
    for line in sys.stdin:
        times = [time.perf_counter()]
        for _ in range(int(line)):
            step()
            times.append(time.perf_counter())
        print(times[-1] - times[0], max(np.diff(times)), flush=True)
