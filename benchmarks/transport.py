"""Frames over gRPC against frames in process: the same env behind our server, in a loop, in Gymnasium's vector envs,
behind OpenEnv and behind dm_env_rpc; and EnvPool, which serves nothing but its own simulators, with Atari's Pong.

Alternatives run interleaved, in rounds; figures are medians. "cost" is the CPU time of a simulator's step: 0 shows what
moving frames costs, 1100 us is what MiniWorld takes for 224 x 224 without multisampling. With one slot, the floor is
Python's gRPC itself: an empty call, and an empty message on a stream.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from grpc_floor import empty_calls
from noise_env import GymNoise, Noise, NoiseOptions
from overworld import Runner, Session
from overworld.host.process import ServerProcess
from overworld.service import malloc
from peers import Peer, dm_env_rpc, envpool, openenv
from report import CONSOLE, Row, finish, parser
from rich.live import Live
from rich.table import Table

HERE = Path(__file__).parent
MINIWORLD_US = 1100

Step = Callable[[], object]
SETTINGS = [
    (slots, height, width, cost)
    for cost in (0, MINIWORLD_US)
    for slots in (1, 16, 64)
    for height, width in ((60, 80), (224, 224), (300, 300))
]
SERVED_SETTINGS = {(16, 224, 224, 0), (1, 224, 224, 0)}
"""Those in which OpenEnv and dm_env_rpc are measured; EnvPool is where frames have its size, about."""
ENVPOOL_SIZE = (60, 80, 0)
IN_PROCESS_TARGET_SETTING = (64, 300, 300, MINIWORLD_US)
OURS = ("shared", "shared, no copy", "TCP")
PEERS = (
    "in process",
    "SyncVectorEnv",
    "AsyncVectorEnv",
    "OpenEnv",
    "dm_env_rpc",
    "EnvPool",
    "empty call",
    "empty message",
)
ROUNDS, SECONDS_PER_ROUND, PEER_STEPS = 5, 0.15, 5


def in_process(slots: int, options: NoiseOptions) -> Step:
    """A loop over the same env in this process."""
    runners = [Runner(Noise(options)) for _ in range(slots)]
    for runner in runners:
        runner.reset()
    return lambda: np.stack([runner.step("look").observation.images[0].pixels for runner in runners])


@contextlib.contextmanager
def ours(address: str, slots: int, options: NoiseOptions, **arguments: Any) -> Iterator[Step]:
    """Our server."""
    with Session(address, "bench/Noise", slots, options=options.model_dump(), **arguments) as session:
        session.reset(range(slots))
        yield lambda: session.step(["look"] * slots).frames()


@contextlib.contextmanager
def gymnasium_vector(slots: int, options: NoiseOptions, asynchronous: bool) -> Iterator[Step]:
    """Gymnasium's vector envs."""
    makers = [lambda: GymNoise(options.height, options.width, options.cost_us)] * slots
    if asynchronous:
        vector: gymnasium.vector.VectorEnv = gymnasium.vector.AsyncVectorEnv(makers, shared_memory=True)
    else:
        vector = gymnasium.vector.SyncVectorEnv(makers)
    vector.reset()
    actions = np.zeros(slots, int)
    yield lambda: vector.step(actions)
    vector.close()


def measure(alternatives: dict[str, Step], peers: dict[str, Peer]) -> dict[str, float]:
    """Median seconds of one step of all slots, by alternative."""
    times: dict[str, list[float]] = {name: [] for name in alternatives}
    for step in alternatives.values():
        step()
    for _ in range(ROUNDS):
        for name, step in alternatives.items():
            end = time.perf_counter() + SECONDS_PER_ROUND
            while (started := time.perf_counter()) < end:
                step()
                times[name].append(time.perf_counter() - started)
        for name, peer in peers.items():
            times.setdefault(name, []).append(peer.play(PEER_STEPS)[0] / PEER_STEPS)
    return {name: statistics.median(values) for name, values in times.items()}


def compare(address: str, slots: int, height: int, width: int, cost: int) -> dict[str, float]:
    """Runs all alternatives in one setting."""
    options = NoiseOptions(height=height, width=width, cost_us=cost)
    source = np.random.default_rng(0).integers(0, 256, (slots, height, width, 3), np.uint8)
    target = np.empty_like(source)
    with contextlib.ExitStack() as stack:
        alternatives: dict[str, Step] = {
            "copy": lambda: np.copyto(target, source),
            "in process": in_process(slots, options),
            "shared": stack.enter_context(ours(address, slots, options)),
            "shared, no copy": stack.enter_context(ours(address, slots, options, copy=False)),
            "TCP": stack.enter_context(ours(address, slots, options, shared_memory=False)),
            "SyncVectorEnv": stack.enter_context(gymnasium_vector(slots, options, False)),
            "AsyncVectorEnv": stack.enter_context(gymnasium_vector(slots, options, True)),
        }
        peers = {}
        if (slots, height, width, cost) in SERVED_SETTINGS:
            peers["OpenEnv"] = openenv(slots, height, width, cost_us=cost)
            stack.callback(peers["OpenEnv"].close)
            peers["dm_env_rpc"] = dm_env_rpc(slots, height, width, cost_us=cost)
            stack.callback(peers["dm_env_rpc"].close)
        if (height, width, cost) == ENVPOOL_SIZE:
            peers["EnvPool"] = envpool(slots)
            stack.callback(peers["EnvPool"].close)
        if slots == 1:
            alternatives |= stack.enter_context(empty_calls())
        return measure(alternatives, peers)


def rows_of(seconds: dict[str, float], slots: int, height: int, width: int, cost: int) -> Iterator[Row]:
    """The figures of one setting: microseconds per frame above those of a plain copy (and of the simulator)."""
    setting = f"{slots} x {height}x{width}, cost {cost} us"
    per_frame = {name: value / slots * 1e6 for name, value in seconds.items()}
    over_copy = {name: value - per_frame["copy"] for name, value in per_frame.items()}
    for name in OURS:
        for peer in PEERS:
            if peer not in seconds:
                continue
            target = None
            if name == "TCP" and peer == "OpenEnv" and slots == 16:
                target = 5.0
            if name == "shared" and peer == "in process" and (slots, height, width, cost) == IN_PROCESS_TARGET_SETTING:
                target = 1 / 1.25
            ratio = per_frame[peer] / per_frame[name]
            yield Row(name, setting, over_copy[name], "us/frame over copy", peer, over_copy[peer], ratio, target)


def main() -> None:
    """Measures and reports."""
    arguments = parser(__doc__ or "").parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH"))))
    malloc.keep_freed_memory()
    rows: list[Row] = []
    columns = ("in process", *OURS, *PEERS[1:])
    table = Table("setting", *columns, title="microseconds per frame above a plain copy")
    with ServerProcess("noise_env:Noise", arguments=("--slots", "256")) as server, Live(table, console=CONSOLE):
        for setting in SETTINGS:
            seconds = compare(server.address, *setting)
            rows += rows_of(seconds, *setting)
            copy = seconds["copy"]
            cells = (f"{(seconds[name] - copy) / setting[0] * 1e6:.0f}" if name in seconds else "" for name in columns)
            table.add_row("{} x {}x{}, {} us".format(*setting), *cells)
    finish(rows, arguments.json, only_targets=True)


if __name__ == "__main__":
    main()
