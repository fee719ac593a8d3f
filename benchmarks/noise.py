"""Pictures of noise and CPU time to waste: what every candidate of the transport benchmark serves."""

from __future__ import annotations

import functools
import time

import numpy as np
from numpy.typing import NDArray

PICTURES = 4


@functools.cache
def bank(height: int, width: int) -> NDArray[np.uint8]:
    """Random pictures, uint8 [pictures, height, width, 3]."""
    return np.random.default_rng(0).integers(0, 256, (PICTURES, height, width, 3), np.uint8)


def spin(seconds: float) -> None:
    """Uses that much CPU time, also when others use the core."""
    if seconds:
        end = time.thread_time() + seconds
        while time.thread_time() < end:
            pass
