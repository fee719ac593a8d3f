"""Simulators that wait: 512 slots whose step takes 1 s, with 224 x 224 frames, server and client together on two cores.

As one session of 512 slots and as 64 of 8, over shared memory and TCP, on threads and on an event loop; and how long
1,000 slots take to open. The peer is OpenEnv with as many sessions, whose observations are JSON over WebSockets. A time
is that of one slot's step as the client sees it, from the call to the checked pixels; P99 is over all of them. One step
of each session warms up.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
from overworld import Session
from overworld.host.process import ServerProcess
from overworld.service import malloc
from peers import openenv
from report import Row, finish, parser

HERE = Path(__file__).parent
CORES = 2
SLOTS, STEPS, WAIT = 512, 20, 1.0
SIZE = 224
P99_SECONDS = 1.2
CPU_SECONDS = CORES * (P99_SECONDS - WAIT)
"""What the cores have for a step beyond the wait: the figure that does not depend on what else runs there."""
OPENING_SLOTS, OPENING_SECONDS = 1000, 2.0
ENVS = {"threads": "WaitingNoise", "async": "AsyncNoise"}
PEER_STEPS = 2


@contextlib.contextmanager
def opened(address: str, env: str, count: int, slots: int, *, shared_memory: bool) -> Iterator[list[Session]]:
    """So many sessions of so many slots each."""
    options = {"height": SIZE, "width": SIZE, "seconds": WAIT}

    def session(_: int) -> Session:
        return Session(address, f"bench/{env}", slots, options=options, shared_memory=shared_memory)

    with ThreadPoolExecutor(16) as threads:
        sessions = list(threads.map(session, range(count)))
    yield sessions
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(Session.close, sessions))


def play(session: Session) -> tuple[list[float], int]:
    """How long each step of the session took, and how many of its slots' steps were answered with a picture."""
    session.step(["look"] * len(session))
    seconds, answered = [], 0
    for _ in range(STEPS):
        began = time.perf_counter()
        results = session.step(["look"] * len(session))
        seconds.append(time.perf_counter() - began)
        answered += sum(result.error is None and len(result.observation.images) == 1 for result in results)
    return seconds, answered


def measure(address: str, env: str, count: int, *, shared_memory: bool) -> tuple[float, float, float]:
    """Median and P99 of the seconds that a slot's step takes, and the share of them that was answered."""
    slots = SLOTS // count
    with (
        opened(address, env, count, slots, shared_memory=shared_memory) as sessions,
        ThreadPoolExecutor(count) as threads,
    ):
        list(threads.map(lambda session: session.reset(range(slots)), sessions))
        played = list(threads.map(play, sessions))
    times = [seconds for one, _ in played for seconds in one]  # each is that of `slots` steps
    answered = sum(answered for _, answered in played) / (SLOTS * STEPS)
    return statistics.median(times), float(np.percentile(times, 99, method="higher")), answered


def cpu_seconds(server: psutil.Process) -> float:
    """What client, front and workers have used so far."""
    processes = [psutil.Process(), server, *server.children()]
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def opening(address: str, count: int) -> float:
    """Seconds until so many sessions with OPENING_SLOTS slots in all are open."""
    began = time.perf_counter()
    with opened(address, "WaitingNoise", count, OPENING_SLOTS // count, shared_memory=True):
        return time.perf_counter() - began


def main() -> None:
    """Measures and reports."""
    arguments = parser(__doc__ or "").parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])  # of the servers, too, which inherit it
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH"))))
    malloc.keep_freed_memory()
    rows: list[Row] = []
    peer = openenv(SLOTS, SIZE, SIZE, wait_ms=int(WAIT * 1000))
    try:
        _, peer_p99 = peer.play(PEER_STEPS)
    finally:
        peer.close()
    server_arguments = ("--workers", str(CORES), "--slots", str(OPENING_SLOTS))
    with ServerProcess("noise_env:WaitingNoise", "noise_env:AsyncNoise", arguments=server_arguments) as server:
        process = psutil.Process(server.process.pid)
        for count in (1, OPENING_SLOTS // 8):
            seconds = opening(server.address, count)
            rows.append(limit(f"{OPENING_SLOTS} slots opened", f"{count} sessions", seconds, OPENING_SECONDS))
        for kind, env in ENVS.items():
            for count in (1, SLOTS // 8):
                for shared_memory in (True, False):
                    used = cpu_seconds(process)
                    median, p99, answered = measure(server.address, env, count, shared_memory=shared_memory)
                    used = (cpu_seconds(process) - used) / (STEPS + 2)
                    transport = "shared memory" if shared_memory else "TCP"
                    setting = f"{count} x {SLOTS // count} slots, {transport}, {kind}"
                    rows.append(Row("median of a step", setting, median, "s", "the wait alone", WAIT, WAIT / median))
                    rows.append(limit("P99 of a step", setting, p99, P99_SECONDS))
                    rows.append(limit("CPU of a step of all slots", setting, used, CPU_SECONDS))
                    rows.append(Row("P99 of a step", setting, p99, "s", "OpenEnv", peer_p99, peer_p99 / p99))
                    rows.append(Row("answered", setting, answered, "", "all", 1.0, answered, 1.0))
    finish(rows, arguments.json)


def limit(name: str, setting: str, seconds: float, most: float) -> Row:
    """A figure that has a limit."""
    return Row(name, setting, seconds, "s", "limit", most, most / seconds, 1.0)


if __name__ == "__main__":
    main()
