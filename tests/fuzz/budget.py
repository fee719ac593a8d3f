"""How long a fuzzer runs, and from which seed. A failure says how to have it again.

FUZZ_SECONDS   what all fuzzers together take at most, shared among them; `make soak` gives an hour
FUZZ_SEED      the seed to begin with; without it each run draws another one
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Iterator

SECONDS = float(os.environ.get("FUZZ_SECONDS", "6"))
LONG = SECONDS >= 60
"""Whether there is time for what takes seconds each."""


class Budget:
    """Seeds for one fuzzer, as long as its share of the time lasts; one at least."""

    def __init__(self, share: float) -> None:
        self._seconds = SECONDS * share
        self._first = int(os.environ.get("FUZZ_SEED") or random.SystemRandom().randrange(2**32))

    def seeds(self) -> Iterator[int]:
        """Counted up from the first."""
        ends = time.monotonic() + self._seconds
        yield self._first
        while time.monotonic() < ends:
            self._first += 1
            yield self._first


@contextlib.contextmanager
def reproducible(seed: int) -> Iterator[random.Random]:
    """Chance made of the seed, which is named if what happens within fails."""
    try:
        yield random.Random(seed)
    except BaseException as error:
        error.add_note(f"again with: FUZZ_SEED={seed} FUZZ_SECONDS=0")
        raise
