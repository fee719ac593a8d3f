"""When learning has stopped getting better."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


class Plateau:
    """Watches the returns of recent episodes for gains beyond chance."""

    def __init__(self) -> None:
        self._best = -math.inf
        self._since = 0

    def age(self, returns: Sequence[float], now: int) -> int:
        """How long ago, on the clock that `now` is of, the mean last rose by more than twice its standard error."""
        mean = float(np.mean(returns))
        error = float(np.std(returns)) / math.sqrt(len(returns))
        if mean > self._best + 2 * error:
            self._best, self._since = mean, now
        return now - self._since
