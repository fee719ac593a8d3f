"""MiniWorld beside stock MiniWorld: steps per CPU-second in one process, frames over gRPC against Gymnasium's vector
envs, and memory.

Every candidate runs in a process of its own, all are up at the same time, and they take turns in short rounds; a figure
is the median of the rounds, a ratio the median of the rounds' ratios. All play the same random policy over upstream's
three declared actions, and resets count. Stock is used as its documentation says, without a display.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

# This file has the name of the package that it measures, and Python looks here first.
if sys.path[0] == os.path.dirname(os.path.abspath(__file__)):
    sys.path.append(sys.path.pop(0))

import numpy as np
import psutil
from overworld import Reset, Session
from overworld.host.process import ServerProcess
from report import Row, finish, parser
from rich.progress import track

TASKS = ("Hallway", "OneRoom", "FourRooms", "WallGap")
SIZE = 224
SLOTS = 16
IN_PROCESS_TARGETS = {"fast": 2.3, "msaa": 1.2, "exact": None}
OVER_GRPC_TARGETS = {"fast": 2.0, "msaa": 1.15, "exact": 1.0}
MEMORY_SLOTS, MEMORY_BYTES = 64, 800e6

ROUNDS, ROUND_STEPS = 8, 250
"""In process: every round is about one episode of each candidate."""
WIRE_ROUNDS, WIRE_SECONDS = 15, 0.6

Play = Callable[[], float]
"""Plays one round and returns its rate."""


def stock(task: str) -> Any:
    """Upstream's env, without a display."""
    import pyglet

    pyglet.options["headless"] = True
    import gymnasium
    import miniworld  # noqa: F401 - registers the tasks

    return gymnasium.make(f"MiniWorld-{task}-v0", obs_width=SIZE, obs_height=SIZE)


def play_stock(pipe: Connection, task: str) -> None:
    """A process that plays stock MiniWorld: told a number of steps, it says how many CPU-seconds they took."""
    env = stock(task)
    choices = np.random.default_rng(0)
    env.reset(seed=0)

    def step() -> None:
        _, _, terminated, truncated, _ = env.step(int(choices.integers(3)))
        if terminated or truncated:
            env.reset()

    _answer(pipe, step)


def play_ours(pipe: Connection, task: str, render: str) -> None:
    """The same for ours."""
    import overworld

    runner = overworld.make(f"miniworld/{task}", width=SIZE, height=SIZE, render=render)
    choices = np.random.default_rng(0)
    runner.reset(seed=0)
    seed = 0

    def step() -> None:
        nonlocal seed
        if runner.step(int(choices.integers(3))).end is not None:
            seed += 1
            runner.reset(seed)

    _answer(pipe, step)


def play_vector(pipe: Connection, task: str, asynchronous: bool) -> None:
    """A process that plays a vector env of stock MiniWorld: told some seconds, it says how many steps it made."""
    import gymnasium

    makers = [lambda: stock(task)] * SLOTS
    if asynchronous:
        # Forking a process that has used OpenGL is no good idea, and making the vector env uses it.
        envs: Any = gymnasium.vector.AsyncVectorEnv(makers, shared_memory=True, context="spawn")
    else:
        envs = gymnasium.vector.SyncVectorEnv(makers)
    choices = np.random.default_rng(0)
    envs.reset(seed=0)
    pipe.send("ready")
    while (seconds := pipe.recv()) is not None:
        pipe.send(_rate(lambda: envs.step(choices.integers(3, size=SLOTS)), seconds))
    envs.close()


def _answer(pipe: Connection, step: Callable[[], None]) -> None:
    for _ in range(20):
        step()
    pipe.send("ready")
    while (steps := pipe.recv()) is not None:
        started = time.process_time()
        for _ in range(steps):
            step()
        pipe.send(time.process_time() - started)


def _rate(step: Callable[[], object], seconds: float) -> float:
    """Slot-steps per second of wall time."""
    started = time.perf_counter()
    count = 0
    while (passed := time.perf_counter() - started) < seconds:
        step()
        count += SLOTS
    return count / passed


@contextmanager
def process(target: Callable[..., None], *arguments: Any) -> Iterator[Callable[[Any], Any]]:
    """Runs `target(pipe, *arguments)` in a process; what it gives sends a message and waits for the answer."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=target, args=(theirs, *arguments))
    child.start()
    theirs.close()
    ours.recv()

    def ask(message: Any) -> Any:
        ours.send(message)
        return ours.recv()

    try:
        yield ask
    finally:
        ours.send(None)
        child.join()


def rounds(plays: Mapping[str, Play], count: int, title: str) -> dict[str, list[float]]:
    """Lets all play in turn, `count` times; their rates."""
    rates: dict[str, list[float]] = {name: [] for name in plays}
    for _ in track(range(count), title):
        for name, play in plays.items():
            rates[name].append(play())
    return rates


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the rounds' ratios."""
    return statistics.median(one / other for one, other in zip(ours, theirs, strict=True))


def in_process(task: str) -> Iterator[Row]:
    """Steps per CPU-second, one env in one process."""
    with ExitStack() as stack:
        asks = {"stock": stack.enter_context(process(play_stock, task))}
        for render in IN_PROCESS_TARGETS:
            asks[render] = stack.enter_context(process(play_ours, task, render))
        plays = {name: _steps_per_second(ask) for name, ask in asks.items()}
        rates = rounds(plays, ROUNDS, f"{task}, in process")
    for render, target in IN_PROCESS_TARGETS.items():
        values = statistics.median(rates[render]), statistics.median(rates["stock"])
        yield Row(f"{task}, {render}", f"in process, {SIZE}x{SIZE}", values[0], "steps/CPU-s", "stock", values[1],
                  ratio(rates[render], rates["stock"]), target)  # fmt: skip


def _steps_per_second(ask: Callable[[int], float]) -> Play:
    return lambda: ROUND_STEPS / ask(ROUND_STEPS)


def over_grpc(task: str) -> Iterator[Row]:
    """Steps per second of 16 slots behind our server, against vector envs of 16."""
    peers = {"AsyncVectorEnv": True, "SyncVectorEnv": False}
    with ExitStack() as stack:
        plays: dict[str, Play] = {}
        for peer, asynchronous in peers.items():
            ask = stack.enter_context(process(play_vector, task, asynchronous))
            plays[peer] = lambda ask=ask: ask(WIRE_SECONDS)  # type: ignore[misc]
        server = stack.enter_context(
            ServerProcess("miniworld", arguments=("--workers", "2", "--slots", str(3 * SLOTS)))
        )
        for render in OVER_GRPC_TARGETS:
            options = {"width": SIZE, "height": SIZE, "render": render}
            session = stack.enter_context(Session(server.address, f"miniworld/{task}", SLOTS, options=options))
            plays[render] = _session_play(session)
        rates = rounds(plays, WIRE_ROUNDS, f"{task}, over gRPC")
    for peer in peers:
        # The target is against the better of the two.
        better = statistics.median(rates[peer]) == max(statistics.median(rates[name]) for name in peers)
        for render, target in OVER_GRPC_TARGETS.items():
            values = statistics.median(rates[render]), statistics.median(rates[peer])
            yield Row(f"{task}, {render}", f"{SLOTS} slots over gRPC, 2 workers, {SIZE}x{SIZE}", values[0], "steps/s",
                      peer, values[1], ratio(rates[render], rates[peer]), target if better else None)  # fmt: skip


def _session_play(session: Session) -> Play:
    choices = np.random.default_rng(0)
    seeds = iter(range(10**9))
    results = session.reset([next(seeds) for _ in range(SLOTS)])

    def step() -> None:
        nonlocal results
        actions = choices.integers(3, size=SLOTS).tolist()
        moves = [
            Reset(seed=next(seeds)) if result.end is not None else action
            for result, action in zip(results, actions, strict=True)
        ]
        results = session.step(moves)
        results.frames()

    return lambda: _rate(step, WIRE_SECONDS)


def memory() -> Iterator[Row]:
    """PSS of the server's processes with 64 slots that have played."""
    with ServerProcess("miniworld", arguments=("--workers", "2", "--slots", str(MEMORY_SLOTS))) as server:
        for render in OVER_GRPC_TARGETS:
            options = {"width": SIZE, "height": SIZE, "render": render}
            with Session(server.address, "miniworld/FourRooms", MEMORY_SLOTS, options=options) as session:
                results = session.reset(range(MEMORY_SLOTS))
                for turn in range(20):
                    results = session.step(
                        [turn % 3 if result.end is None else Reset(seed=MEMORY_SLOTS + turn) for result in results]
                    )
                parent = psutil.Process(server.process.pid)
                used = sum(each.memory_full_info().pss for each in (parent, *parent.children(recursive=True)))
            yield Row(f"FourRooms, {render}", f"{MEMORY_SLOTS} slots, 2 workers, {SIZE}x{SIZE}", used / 1e6, "MB PSS",
                      "limit", MEMORY_BYTES / 1e6, MEMORY_BYTES / used, 1.0)  # fmt: skip


def main() -> None:
    """Measures and reports."""
    arguments = parser(__doc__ or "").parse_args()
    os.environ["LP_NUM_THREADS"] = "0"  # for stock, too: threads of its own make it no faster where cores are shared
    rows: list[Row] = []
    for task in TASKS:
        rows += in_process(task)
    for task in TASKS:
        rows += over_grpc(task)
    rows += memory()
    finish(rows, arguments.json)


if __name__ == "__main__":
    main()
