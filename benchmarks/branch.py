"""A branch at turn 50 of MiniWorld: one slot and 32, on a warm server, against playing the actions one by one.

The peers are stock MiniWorld in Gymnasium, in a process of its own, which resets and steps once for each slot, and the
same server, stepped one turn at a time in all slots. All take turns; a figure is the median of the rounds.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psutil
from overworld import Reset
from overworld.evaluation.branching import Branching
from overworld.evaluation.episodes import action_of
from overworld.host.process import ServerProcess
from report import Row, finish, parser
from wanderer import wandered

TASKS = ("Hallway", "WallGap")
TURN = 50
ROUNDS = 5
LIMITS = {1: 0.05, 32: 0.5}
OPTIONS = {"max_turns": 120}
EPISODES = 8

_stock: Any = None


def open_stock(task: str) -> None:
    """Makes the stock env in a process of its own."""
    global _stock
    import pyglet

    pyglet.options["headless"] = True
    import gymnasium
    import miniworld  # noqa: F401 - registers the tasks

    _stock = gymnasium.make(f"MiniWorld-{task}-v0")


def step_stock(seed: int, actions: Sequence[int | None], slots: int) -> float:
    """Seconds until the stock env has been there once for each slot; None stands for a skipped turn."""
    started = time.perf_counter()
    for _ in range(slots):
        _stock.reset(seed=seed)
        for action in actions:
            if action is not None:
                _stock.step(action)
    return time.perf_counter() - started


def seconds(act: Callable[[], object]) -> float:
    """How long it takes."""
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


def cpu_seconds() -> float:
    """Of this process and the server."""
    own = psutil.Process()
    return sum(sum(process.cpu_times()[:2]) for process in (own, *own.children(recursive=True)))


def rows(task: str, folder: Path) -> list[Row]:
    """Branches in one task."""
    found: list[Row] = []
    env = f"miniworld/{task}"
    with ServerProcess("miniworld", arguments=("--slots", "64")) as server:
        kept = wandered(server.address, env, OPTIONS, EPISODES, folder)
        number = next(number for number, episode in enumerate(kept) if len(episode.turns) > TURN)
        with (
            get_context("spawn").Pool(1, open_stock, (task,)) as pool,
            Branching(kept, [server.address], max(LIMITS)) as branching,
        ):
            point = branching.point(number, TURN)
            turns = point.episode.turns[:TURN]
            vocabulary = kept.spec.action.vocabulary
            stock = [None if one.executed is None else vocabulary.index(str(one.executed)) for one in turns]

            def step_by_step(slots: int) -> None:
                branching.fleet.step([Reset(point.episode.seed)] * slots)
                for turn in turns:
                    branching.fleet.step([action_of(turn.action)] * slots)

            for slots, limit in LIMITS.items():
                times: dict[str, list[float]] = {"branch": [], "stock": [], "step by step": []}
                used = 0.0
                for _ in range(ROUNDS):
                    before = cpu_seconds()
                    times["branch"].append(seconds(lambda slots=slots: branching.take_up([point] * slots)))  # type: ignore[misc]
                    used += cpu_seconds() - before
                    times["step by step"].append(seconds(lambda slots=slots: step_by_step(slots)))  # type: ignore[misc]
                    times["stock"].append(pool.apply(step_stock, (point.episode.seed, stock, slots)))
                value = statistics.median(times["branch"])
                setting = f"{task}, {slots} slots"
                found.append(Row("branch", setting, value, "s", "limit", limit, limit / value, 1.0))
                for peer, name in (("stock", "stock, in process"), ("step by step", "over gRPC, step by step")):
                    own = statistics.median(times[peer])
                    ratio = statistics.median(b / a for a, b in zip(times["branch"], times[peer], strict=True))
                    found.append(Row("branch", setting, value, "s", name, own, ratio))
                found.append(Row("CPU of a branch", setting, used / ROUNDS, "s", "limit", limit, limit * ROUNDS / used))
            confirmed = [seconds(lambda: branching.point(number, TURN)) for _ in range(ROUNDS)]
            value = statistics.median(confirmed)
            found.append(Row("confirming what led there", f"{task}, once", value, "s", "limit", 0.5, 0.5 / value))
    return found


def main() -> None:
    """Measures and reports."""
    arguments = parser(__doc__ or "").parse_args()
    with tempfile.TemporaryDirectory() as made:
        finish([row for task in TASKS for row in rows(task, Path(made) / task)], arguments.json)


if __name__ == "__main__":
    main()
