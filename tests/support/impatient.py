"""`overworld` with an env server that is impatient: what takes it seconds to a minute elsewhere takes 5 s at most.

SIGUSR1 makes its event loop stand still.
"""

import signal
import time
from types import FrameType

from overworld.cli import main
from overworld.host import pool, server, worker_process
from overworld.service import bounds


def hang(_signal: int, _frame: FrameType | None) -> None:
    time.sleep(1000)


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, hang)
    server._STUCK_SECONDS = 5.0
    pool._REPLACE_SECONDS = 1.0
    worker_process._PING_SECONDS = 0.3
    worker_process._BEGIN_SECONDS = 2.0
    bounds.METRICS = bounds.Bound(1, "s", "", "")
    main()
