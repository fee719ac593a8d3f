"""What `make chaos` trains with: services that are started again whenever they end, as compose would."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

_PAUSE_SECONDS = 0.5
_ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
"""In an image, too, what is started again finds its modules compiled."""
_APART = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
_TRAINED = 0
_AGAIN = (-signal.SIGKILL, 70, 75, 128 + signal.SIGTERM)
"""Ends of a trainer that asks to be started again; any other one has said why it must not be."""


class Service:
    """A command that is started again when it ends, until `stop`, or until it ends with a status that is not one to
    start it `again` after.

    `starts` counts; what the process says is added to the file `log`.
    """

    def __init__(
        self, name: str, command: Sequence[str], log: Path, *, again: Callable[[int], bool] = lambda status: True
    ) -> None:
        self.name = name
        self.starts = 0
        self.ended: int | None = None
        """The status that was final."""
        self._command = command
        self._log = log
        self._again = again
        self._stopping = False
        self._process: subprocess.Popen[bytes] | None = None
        log.parent.mkdir(parents=True, exist_ok=True)
        self._thread = threading.Thread(target=self._supervise, name=name)
        self._thread.start()

    @property
    def pid(self) -> int | None:
        """The running process; None while there is none."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def signal(self, number: int) -> bool:
        """Sends a signal; whether there was a process to get it. Where it is `apart`, both processes get it."""
        pid = self.pid
        if pid is None:
            return False
        inner = [child for child, parent in _parents() if parent == pid] if self._command[0] == _APART[0] else []
        for receiver in (*inner, pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(receiver, number)
        return True

    def stop(self) -> None:
        """Ends it for good."""
        self._stopping = True
        self.signal(signal.SIGKILL)
        self._thread.join()

    def _supervise(self) -> None:
        while not self._stopping:
            with self._log.open("ab") as log:
                self._process = subprocess.Popen(
                    ["setpriv", "--pdeathsig", "KILL", *self._command],
                    env=_ENVIRONMENT,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
                self.starts += 1
                status = self._process.wait()
            if not self._again(status) and not self._stopping:
                self.ended = status
                return
            if not self._stopping:
                time.sleep(_PAUSE_SECONDS)


def python(*arguments: str) -> list[str]:
    """A command of this Python's."""
    return [sys.executable, "-m", *arguments]


def apart(command: Sequence[str]) -> list[str]:
    """The command with process numbers of its own, as in a container: its memory cannot be mapped from outside."""
    return [*_APART, *command]


def trainer(command: Sequence[str], log: Path) -> Service:
    """A trainer, until it has trained or gives up."""
    return Service("trainer", command, log, again=_AGAIN.__contains__)


def evaluator(command: Sequence[str], log: Path, checkpoint: Path) -> Service:
    """An evaluation of a checkpoint, which begins when that is there, until it has been finished."""
    wait = f'until test -e "{checkpoint}/manifest.json"; do sleep 0.2; done; exec "$@"'
    return Service("evaluator", ["sh", "-c", wait, "sh", *command], log, again=bool)


def has_trained(service: Service) -> bool:
    """Whether the trainer has finished. Raises RuntimeError if it has given up."""
    if service.ended is None:
        return False
    if service.ended != _TRAINED:
        raise RuntimeError(f"the trainer ended with status {service.ended}, which says: do not start me again")
    return True


def workers_of(service: Service) -> list[int]:
    """The workers of an env server, by process number."""
    if service.pid is None:
        return []
    parents = dict(_parents())
    return [pid for pid in parents if service.pid in _line(pid, parents) and "overworld.host.worker" in _command(pid)]


def _line(pid: int, parents: dict[int, int]) -> Iterator[int]:
    """The process's ancestors."""
    while pid := parents.get(pid, 0):
        yield pid


def _parents() -> Iterator[tuple[int, int]]:
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                status = Path("/proc", name, "stat").read_text()
            except (FileNotFoundError, ProcessLookupError):  # it has just ended
                continue
            yield int(name), int(status.rpartition(")")[2].split()[1])


def _command(pid: int) -> str:
    try:
        return Path("/proc", str(pid), "cmdline").read_text().replace("\0", " ")
    except (FileNotFoundError, ProcessLookupError):
        return ""
