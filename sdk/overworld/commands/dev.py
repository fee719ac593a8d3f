"""`overworld dev ENV ...`: an env server for its author, started again after each change of the project's files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from overworld.errors import ServiceError
from overworld.host.config import ServerConfig
from overworld.host.process import ServerProcess
from overworld.service.watched_folder import WatchedFolder

_POLL_SECONDS = 0.3
_LOAD_SECONDS = 60.0


class DevConfig(ServerConfig):
    """Serves a project's envs, and serves them again after each change of the files in the current folder.

    New code is first loaded on trial. If that fails, the error is shown and the code that worked last stays in service.
    Otherwise the server drains for `grace` seconds and another one takes its place; clients replay their episodes.
    """

    grace: float = Field(default=1.0, ge=0, le=10, description="seconds that running sessions get at a change")


def main(arguments: Sequence[str]) -> int:
    """Serves until a signal."""
    config = DevConfig.load(arguments, "overworld dev")
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    # Python takes a compiled file for that of a source of the same second and size, though it may have changed in it.
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    folder = WatchedFolder(Path.cwd())
    server = _Served(config, arguments)
    server.reload()
    try:
        while not stopping.wait(_POLL_SECONDS):
            if paths := folder.changed():
                _say(f"changed: {', '.join(map(str, paths[:5]))}{', ...' if len(paths) > 5 else ''}")
                server.reload()
            server.look()
    finally:
        server.stop()
    return 0


class _Served:
    """The server, if there is one."""

    def __init__(self, config: DevConfig, arguments: Sequence[str]) -> None:
        self._envs = config.envs
        self._arguments = (*arguments, f"--grace={config.grace}")  # the last one of a setting decides
        self._port = config.port
        self._process: ServerProcess | None = None
        self._since = ""

    def reload(self) -> None:
        """Has a new server take the place of the old one, unless the new code cannot be loaded."""
        if error := _loading_error(self._envs):
            print(error, file=sys.stderr)
            still = f"; the code of {self._since} is still served" if self._process else ""
            _say(f"this code cannot be served{still}. Waiting for a change")
            return
        self.stop()
        try:
            self._process = ServerProcess(arguments=(*self._arguments, f"--port={self._port}"))
        except ServiceError:  # it has said why, on the stderr that it shares with this process
            _say("the server did not start. Waiting for a change")
            return
        self._since = time.strftime("%H:%M:%S")
        self._port = int(self._process.address.rpartition(":")[2])
        _say(f"{' '.join(self._envs)}, watching {Path.cwd()}, listening on {self._process.address}")

    def look(self) -> None:
        """Notices a server that has ended by itself."""
        if self._process and (status := self._process.process.poll()) is not None:
            self.stop()
            _say(f"the server ended with status {status}. Waiting for a change")

    def stop(self) -> None:
        """Drains the server and ends it."""
        if self._process:
            self._process.stop()
            self._process = None


def _loading_error(envs: Sequence[str]) -> str:
    """What keeps a new process from loading the envs; empty if nothing does."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "overworld.authoring.trial", *envs],
            capture_output=True,
            text=True,
            timeout=_LOAD_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"{' '.join(envs)} was not imported within {_LOAD_SECONDS:g} s"
    if not done.returncode:
        return ""
    return done.stderr.rstrip() or f"importing {' '.join(envs)} ended the process with status {done.returncode}"


def _say(text: str) -> None:
    print(f"overworld dev: {text}", flush=True)
