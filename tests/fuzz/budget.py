"""How long a fuzzer runs, and from which seed. A failure says how to have it again.

FUZZ_SECONDS   that each fuzzer takes, once it has played one seed to its end; `make soak` gives it more
FUZZ_SEED      the seed to begin with; without it each run draws another one
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Iterator

SECONDS = float(os.environ.get("FUZZ_SECONDS", "1"))
AGAIN = "FUZZ_SEED" in os.environ
"""Whether a failure is looked for that is known."""
LONG = SECONDS >= 20 or AGAIN
"""Whether there is time for what takes a second each."""


def seeds(share: float = 1.0) -> Iterator[int]:
    """Seeds for one fuzzer, counted up from the first, as long as its time lasts; one at least."""
    seed = int(os.environ["FUZZ_SEED"]) if AGAIN else random.SystemRandom().randrange(2**32)
    ends = time.monotonic() + SECONDS * share
    yield seed
    while time.monotonic() < ends:
        seed += 1
        yield seed


@contextlib.contextmanager
def reproducible(seed: int) -> Iterator[random.Random]:
    """Chance made of the seed, which is named if what happens within fails."""
    try:
        yield random.Random(seed)
    except BaseException as error:
        error.add_note(f"again with: FUZZ_SEED={seed} FUZZ_SECONDS=0")
        raise
