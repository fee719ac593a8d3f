"""An env server as a child process: for notebooks, tests and benchmarks.

with ServerProcess("gym_cards") as server:
    session = Session(server.address, "gym_cards/EZPoints", slots=8)
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading

_START_SECONDS = 120.0
_STOP_SECONDS = 10.0
_LISTENING = re.compile(r"listening on (\S+)")


class ServerProcess:
    """`overworld serve <envs> <arguments>` on a free port of loopback. `address` is where it listens.

    Raises RuntimeError with the server's own words if it does not start.
    """

    def __init__(self, *envs: str, arguments: tuple[str, ...] = (), token: str = "", port: int = 0) -> None:
        command = [sys.executable, "-m", "overworld.cli", "serve", *envs, "--port", str(port), *arguments]
        environment = os.environ | ({"OVERWORLD_TOKEN": token} if token else {})
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environment, text=True
        )
        killer = threading.Timer(_START_SECONDS, self.process.kill)
        killer.start()
        assert self.process.stdout is not None
        said = []
        for line in self.process.stdout:
            said.append(line)
            if match := _LISTENING.search(line):
                self.address = match[1]
                killer.cancel()
                return
        killer.cancel()
        raise RuntimeError(f"the env server did not start (exit code {self.process.wait()}): {''.join(said).strip()}")

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """SIGTERM, then SIGKILL."""
        self.process.terminate()
        try:
            self.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def kill(self) -> None:
        """SIGKILL: a crash."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
