"""`overworld` with an env server that is impatient: what takes it seconds to a minute elsewhere takes 2 s at most."""

from overworld.cli import main
from overworld.host import pool, worker_process
from overworld.service import bounds

if __name__ == "__main__":
    pool._REPLACE_SECONDS = 1.0
    worker_process._PING_SECONDS = 0.3
    worker_process._BEGIN_SECONDS = 2.0
    bounds.METRICS = bounds.Bound(1, "s", "", "")
    main()
