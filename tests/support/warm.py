"""Programs that need torch, forked from a process that has imported it: they start at once, and not after 5 CPU-s."""

from __future__ import annotations

import multiprocessing
import os
import re
import runpy
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["overworld_trainer.train", "overworld_policy.app"])


class WarmProcess:
    """`python -m <module> <arguments>`, with as much of subprocess.Popen as tests use.

    What it says on stderr is appended to the file `log`, if there is one. `first` is called before anything else.
    """

    def __init__(
        self,
        module: str,
        *arguments: str,
        log: Path | None = None,
        environment: dict[str, str] | None = None,
        first: Callable[[], None] | None = None,
        stdout: Connection | None = None,
    ) -> None:
        self._process = _context.Process(
            target=_run, args=(module, arguments, os.environ | (environment or {}), stdout, log, first), daemon=True
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, seconds: float) -> int:
        self._process.join(seconds)
        status = self._process.exitcode
        assert status is not None, f"it has not ended within {seconds} s"
        return status

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()
        self._process.join()


class WarmService(WarmProcess):
    """A program that has said "listening on <address>". `address` is that address."""

    def __init__(
        self, module: str, *arguments: str, log: Path | None = None, environment: dict[str, str] | None = None
    ) -> None:
        self._stdout, stdout = _context.Pipe(duplex=False)
        with stdout:
            super().__init__(module, *arguments, log=log, environment=environment, stdout=stdout)
        with open(self._stdout.fileno(), closefd=False) as said:
            found = next((found for line in said if (found := re.search(r"listening on (\S+)", line))), None)
        assert found is not None, f"{module} did not start: status {self.wait(30)}"
        self.address = found[1]

    def stop(self) -> None:
        self.send_signal(signal.SIGTERM)
        self._process.join(15)
        self.kill()
        self._stdout.close()


def _run(
    module: str,
    arguments: tuple[str, ...],
    environment: dict[str, str],
    stdout: Connection | None,
    log: Path | None,
    first: Callable[[], None] | None,
) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(environment)
    if stdout is not None:
        os.dup2(stdout.fileno(), sys.stdout.fileno())
    if log is not None:
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), sys.stderr.fileno())
    if first is not None:
        first()
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
