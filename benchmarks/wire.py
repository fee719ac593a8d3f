"""What feeding a trainer takes: bytes of an env step on the wire, and CPU time of the server and of its client.

Each simulator's envs at their default options, 16 slots and one worker, over TCP, random play with resets. Bytes are
counted by a proxy between client and server, gRPC's own and the requests included; CPU time without it.
"""

from __future__ import annotations

import itertools
import os
import random
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import psutil
from overworld import Reset, Session
from overworld.host.process import ServerProcess
from report import Row, finish, parser
from rich.progress import track

ENVS = {
    "gym_cards/EZPoints": "gym_cards",
    "miniworld/OneRoom": "miniworld",
    "alfworld/all": "alfworld",
    "webshop/synthetic": "webshop",
}
SLOTS, ROUNDS, SECONDS, COUNTED = 16, 5, 2.0, 30


class Proxy:
    """Passes what it is sent on to `address`, in both directions, and counts it."""

    def __init__(self, address: str) -> None:
        self.bytes = 0
        host, _, port = address.rpartition(":")
        self._target = host, int(port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            near, _ = self._listener.accept()
            far = socket.create_connection(self._target)
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pass_on, args=(source, sink), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):  # which the other direction has closed
            while data := source.recv(1 << 20):
                self.bytes += len(data)
                sink.sendall(data)
        sink.close()


class Player:
    """Plays all slots of a session at random."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._random = random.Random(0)
        self._seeds = itertools.count(SLOTS)
        self._results = session.reset(range(SLOTS))

    def step(self) -> None:
        """A step of each slot, or a reset of those whose episode is over."""
        self._results = self._session.step([self._move(result) for result in self._results])

    def _move(self, result: Any) -> str | Reset:
        if result.end is not None:
            return Reset(seed=next(self._seeds))
        if actions := result.observation.admissible or self._session.spec.action.vocabulary:
            return str(self._random.choice(actions))
        return f"search[{self._random.choice(result.observation.text.split())}]"  # WebShop's, on its first page

    @property
    def frame_bytes(self) -> float:
        """Of the pixels of one slot's newest observation."""
        return statistics.mean(sum(image.pixels.nbytes for image in r.observation.images) for r in self._results)


def main() -> None:
    """Measures and reports."""
    arguments = parser(__doc__ or "").parse_args()
    finish([row for env in track(ENVS) for row in _rows(env)], arguments.json)


def _rows(env: str) -> Iterator[Row]:
    with ExitStack() as stack:
        server = stack.enter_context(ServerProcess(ENVS[env], arguments=("--workers", "1")))
        proxy = Proxy(server.address)
        counted, timed = (
            Player(stack.enter_context(Session(address, env, SLOTS, shared_memory=False, copy=False)))
            for address in (proxy.address, server.address)
        )
        before = proxy.bytes
        for _ in range(COUNTED):
            counted.step()
        sent = (proxy.bytes - before) / (COUNTED * SLOTS)
        yield Row(
            "bytes of a step",
            env,
            sent / 1e3,
            "kB",
            "its pixels",
            counted.frame_bytes / 1e3,
            counted.frame_bytes / sent,
        )
        rates = [_rates(timed, server.process.pid) for _ in range(ROUNDS)]
        serving, receiving = (statistics.median(side) for side in zip(*rates, strict=True))
        yield Row("a server's steps", env, serving, "steps/CPU-s", "its client's", receiving, serving / receiving)


def _rates(player: Player, server: int) -> tuple[float, float]:
    """Steps per CPU-second of the server, its worker included, and of this process."""
    parent = psutil.Process(server)
    processes = (parent, *parent.children(recursive=True))

    def spent() -> float:
        return sum(sum(process.cpu_times()[:2]) for process in processes)

    steps, theirs, ours, end = 0, spent(), time.process_time(), time.monotonic() + SECONDS
    while time.monotonic() < end:
        player.step()
        steps += SLOTS
    return steps / (spent() - theirs), steps / (time.process_time() - ours)


if __name__ == "__main__":
    os.environ["LP_NUM_THREADS"] = "0"  # as the images set it
    main()
