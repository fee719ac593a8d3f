"""Peers in environments and processes of their own, since their requirements may contradict ours.

A peer's script is told a number of steps per line, plays them in all slots, and answers with the seconds that they took
and the longest of them. One that has a server runs it in another process.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

_HERE = Path(__file__).parent
_READY_SECONDS = 60.0
OPENENV = ("openenv==0.10.0", "numpy")


class Peer:
    """`script play [PORT] SLOTS` in the environment `.venv-<name>`, with `requirements`; it is made if it is missing.

    `serve` are the arguments of `script serve PORT ...`, if there is a server.
    """

    def __init__(
        self, name: str, requirements: Sequence[str], script: str, slots: int, serve: Sequence[object] | None = None
    ) -> None:
        python = environment(name, requirements)
        command = [python, str(_HERE / script)]
        with contextlib.ExitStack() as started:
            port: list[str] = []
            if serve is not None:
                port = [str(_free_port())]
                _start(started, [*command, "serve", *port, *map(str, serve)])
                _wait_for(int(port[0]))
            self._player = _start(started, [*command, "play", *port, str(slots)], pipes=subprocess.PIPE)
            if self._answer() != "ready":
                raise RuntimeError(f"{name}'s client did not connect")
            self._started = started.pop_all()

    def play(self, steps: int) -> tuple[float, float]:
        """How long so many steps of all slots take, and the longest of them. Seconds."""
        assert self._player.stdin is not None
        self._player.stdin.write(f"{steps}\n")
        self._player.stdin.flush()
        taken, longest = self._answer().split()
        return float(taken), float(longest)

    def close(self) -> None:
        """Stops its processes."""
        self._started.close()

    def _answer(self) -> str:
        assert self._player.stdout is not None
        return self._player.stdout.readline().strip()


def openenv(slots: int, height: int, width: int, *, cost_us: int = 0, wait_ms: int = 0) -> Peer:
    """OpenEnv, with a session per slot."""
    serve = (height, width, cost_us, wait_ms)
    return Peer("openenv", OPENENV, "openenv_peer.py", slots, serve)


def dm_env_rpc(slots: int, height: int, width: int, *, cost_us: int = 0) -> Peer:
    """dm_env_rpc, with a stream per slot."""
    serve = (height, width, cost_us)
    return Peer("dm-env-rpc", ["dm-env-rpc==1.1.7", "numpy"], "dm_env_rpc_peer.py", slots, serve)


def envpool(slots: int) -> Peer:
    """EnvPool's Pong: it has simulators of its own only."""
    return Peer("envpool", ["envpool==1.2.5"], "envpool_peer.py", slots)


def environment(name: str, requirements: Sequence[str]) -> str:
    """The interpreter of `.venv-<name>`, which is made if it is missing."""
    folder = _HERE.parent / f".venv-{name}"
    python, installed = folder / "bin" / "python", folder / ".installed"
    if not installed.exists():
        print(f"installing {name} for comparison ...")
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", *requirements]
        subprocess.run(pip, check=True, stderr=subprocess.DEVNULL)
        installed.touch()
    return str(python)


def _start(started: contextlib.ExitStack, command: Sequence[str], pipes: int | None = None) -> subprocess.Popen[str]:
    process = subprocess.Popen(command, stdin=pipes, stdout=pipes, text=True)
    started.callback(process.wait)
    started.callback(process.kill)
    return process


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(port: int) -> None:
    """Until somebody listens there."""
    deadline = time.monotonic() + _READY_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


if __name__ == "__main__":  # for `make test-openenv`
    environment("openenv", OPENENV)
