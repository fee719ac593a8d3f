"""Frames through the bridge to Gymnasium against the stock env in Gymnasium's AsyncVectorEnv, 8 slots on two cores.

Both give one batch of frames per step, reset what has ended, and act at random. The stock env is in a wrapper that
makes its rendered frame the observation. Alternatives run interleaved, in rounds; figures are medians, and CPU-seconds
are those of all processes of an alternative. One more alternative has `Session(copy=False)`, which does not check what
it is shown.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import minigrid  # noqa: F401 - registers its envs
import psutil
from gymnasium.vector import AsyncVectorEnv, VectorEnv
from gymnasium.wrappers import AddRenderObservation
from overworld import Session
from overworld.bridges.gymnasium import OverworldVectorEnv
from overworld.host.process import ServerProcess
from overworld.service import malloc
from report import Row, finish, parser

ENVS = ("CartPole-v1", "FrozenLake-v1", "MiniGrid-DoorKey-5x5-v0", "MountainCar-v0")
SLOTS, WORKERS = 8, 2
ROUNDS, SECONDS = 7, 1.0
WARM_UP = 20
TARGET = 1.0


@dataclass
class Arm:
    """One alternative, and what its rounds gave."""

    envs: VectorEnv[Any, Any, Any]
    processes: Callable[[], list[psutil.Process]]
    rates: list[float] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)

    def play(self, seconds: float) -> None:
        """A round."""
        before, frames, began = self._cpu(), 0, time.perf_counter()
        while (taken := time.perf_counter() - began) < seconds:
            seen, *_ = self.envs.step(self.envs.action_space.sample())
            frames += len(seen)
        self.rates.append(frames / taken)
        self.costs.append((self._cpu() - before) / frames)

    def _cpu(self) -> float:
        return sum(sum(process.cpu_times()[:2]) for process in self.processes())


def stock(name: str) -> gymnasium.Env[Any, Any]:
    """The env with its rendered frame as the observation."""
    return AddRenderObservation(gymnasium.make(name, render_mode="rgb_array"), render_only=True)


@contextlib.contextmanager
def arms(name: str) -> Iterator[dict[str, Arm]]:
    """The alternatives."""
    me = psutil.Process()
    with contextlib.ExitStack() as stack:
        peers = AsyncVectorEnv([lambda: stock(name)] * SLOTS, shared_memory=True, context="spawn")
        stack.callback(peers.close)
        theirs = [psutil.Process(process.pid) for process in peers.processes]
        arguments = ("--workers", str(WORKERS), "--slots", str(2 * SLOTS))
        server = stack.enter_context(ServerProcess(f"gymnasium:{name}", arguments=arguments))
        hosts = psutil.Process(server.process.pid)

        def bridge(copy: bool) -> Arm:
            session = Session(server.address, f"gymnasium/{name}", SLOTS, copy=copy)
            envs = OverworldVectorEnv(session, "view")
            stack.callback(envs.close)
            return Arm(envs, lambda: [me, hosts, *hosts.children(recursive=True)])

        found = {
            "bridge": bridge(True),
            "bridge, no copy": bridge(False),
            "AsyncVectorEnv": Arm(peers, lambda: [me, *theirs]),
        }
        for arm in found.values():
            arm.envs.reset(seed=0)
            arm.envs.action_space.seed(0)
            for _ in range(WARM_UP):
                arm.envs.step(arm.envs.action_space.sample())
        yield found


def main() -> None:
    """Measures all envs."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--envs", nargs="+", default=ENVS)
    asked = arguments.parse_args()
    os.environ.setdefault("OVERWORLD_LOG_LEVEL", "WARNING")
    malloc.keep_freed_memory()  # else most of what a batch costs in this process, in either case, is page faults
    rows: list[Row] = []
    for name in asked.envs:
        with arms(name) as found:
            for _ in range(ROUNDS):
                for arm in found.values():
                    arm.play(SECONDS)
        peer = found.pop("AsyncVectorEnv")
        peer_rate, peer_cost = statistics.median(peer.rates), statistics.median(peer.costs)
        for kind, arm in found.items():
            rate, cost = statistics.median(arm.rates), statistics.median(arm.costs)
            target = TARGET if kind == "bridge" else None
            setting = f"{name}, {SLOTS} slots, {WORKERS} workers"
            rows += [
                Row(kind, setting, rate, "frames/s", "AsyncVectorEnv", peer_rate, rate / peer_rate, target),
                Row(kind, setting, cost * 1e3, "CPU-ms/frame", "AsyncVectorEnv", peer_cost * 1e3, peer_cost / cost),
            ]
    finish(rows, asked.json)


if __name__ == "__main__":
    main()
