"""Frames of each simulator as LZ4, raw, and through shared memory: bytes, and frames/s on loopback and on slow links.

The frames are those that the simulator's expert sees. They are recorded first and served again, so that moving them is
all that is measured. A slow link is a proxy that lets so many bits per second through.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# Files here have the names of packages that simulators import, and Python looks here first.
if sys.path[0] == os.path.dirname(os.path.abspath(__file__)):
    sys.path.append(sys.path.pop(0))

import numpy as np
from link import Link
from overworld import Session, make
from overworld.host.process import ServerProcess
from overworld.service import malloc
from report import Row, finish, parser
from rich.progress import track

HERE = Path(__file__).parent
ENVS: dict[str, dict[str, Any]] = {
    "gym_cards/EZPoints": {},
    "gym_cards/Blackjack": {},
    "miniworld/FourRooms": {"width": 224, "height": 224},
    "alfworld/all": {},
    "webshop/human": {},
}
FRAMES, SLOTS = 64, 16
LINKS = {"100 Mbit/s": 1e8, "1 Gbit/s": 1e9, "loopback": 0.0}
ROUNDS, SECONDS = 3, 0.7
SLOW_TARGET = 1.3


def record(env_id: str, path: Path) -> tuple[int, ...]:
    """Writes the frames of some episodes to a file; their shape."""
    runner = make(env_id, expert=True, **ENVS[env_id])
    frames: list[Any] = []
    seed = 0
    result = runner.reset(seed)
    while len(frames) < FRAMES:
        frames.append(result.observation.images[0].pixels.copy())
        if result.end is None and result.expert is not None:
            result = runner.step(result.expert.action)
        else:
            seed += 1
            result = runner.reset(seed)
    runner.close()
    np.save(path, np.stack(frames))
    return tuple(frames[0].shape)


def play(session: Session, seconds: float) -> float:
    """Frames per second."""
    began = time.perf_counter()
    steps = 0
    while time.perf_counter() < began + seconds or not steps:
        session.step(["look"] * SLOTS)
        steps += 1
    return steps * SLOTS / (time.perf_counter() - began)


def compare(address: str, path: Path) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """Median frames/s by link and transport, and bytes per frame by transport."""
    kinds: dict[str, dict[str, Any]] = {
        "inline": {"shared_memory": False},
        "LZ4": {"shared_memory": False, "compress": True},
    }
    rates: dict[str, dict[str, float]] = {}
    sizes: dict[str, float] = {}
    for name, bits in LINKS.items():
        with contextlib.ExitStack() as stack:
            link = Link(address, bits)
            stack.callback(link.close)
            reached = link.address if bits else address
            candidates = dict(kinds) if bits else kinds | {"shared memory": {"shared_memory": True}}
            sessions = {
                kind: stack.enter_context(
                    Session(reached, "bench/Recorded", SLOTS, options={"file": str(path)}, **arguments)
                )
                for kind, arguments in candidates.items()
            }
            for session in sessions.values():
                session.reset(range(SLOTS))
            if bits and not sizes:
                for kind, session in sessions.items():
                    before = link.received
                    for _ in range(FRAMES // SLOTS):
                        session.step(["look"] * SLOTS)
                    sizes[kind] = (link.received - before) / FRAMES
            played: dict[str, list[float]] = {kind: [] for kind in sessions}
            for _ in range(ROUNDS):
                for kind, session in sessions.items():
                    played[kind].append(play(session, SECONDS))
            rates[name] = {kind: statistics.median(values) for kind, values in played.items()}
    return rates, sizes


def main() -> None:
    """Measures and reports."""
    arguments = parser(__doc__ or "").parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH"))))
    malloc.keep_freed_memory()
    rows: list[Row] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        ServerProcess("noise_env:Recorded", arguments=("--slots", str(3 * SLOTS))) as server,
    ):
        for env_id in track(ENVS, description="simulators"):
            path = Path(folder) / f"{env_id.replace('/', '-')}.npy"
            height, width, _ = record(env_id, path)
            rates, sizes = compare(server.address, path)
            setting = f"{env_id} {SLOTS} x {height}x{width}"
            lz4, inline = sizes["LZ4"], sizes["inline"]
            rows.append(Row("LZ4", setting, lz4, "bytes/frame", "inline", inline, inline / lz4))
            for link, by_kind in rates.items():
                lz4 = by_kind["LZ4"]
                for peer in ("inline", "shared memory"):
                    if peer in by_kind:
                        target = SLOW_TARGET if link == "100 Mbit/s" else None
                        ratio = lz4 / by_kind[peer]
                        rows.append(
                            Row("LZ4", f"{setting}, {link}", lz4, "frames/s", peer, by_kind[peer], ratio, target)
                        )
    finish(rows, arguments.json)


if __name__ == "__main__":
    main()
