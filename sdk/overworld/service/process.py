"""Services as child processes that do not outlive the one that started them."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from overworld.errors import ServiceError

_LEASH = "OVERWORLD_LEASH"
_START_SECONDS = 120.0
_STOP_SECONDS = 15.0
_LISTENING = re.compile(r"listening on (\S+)")


class ServiceProcess:
    """`python -m <module> <arguments>`, up to the moment that it says "listening on <address>".

    `address` is that address. What the service says on stderr goes into the file `log`, if there is one. Raises
    ServiceError if it ends instead, or takes two minutes.
    """

    def __init__(
        self, module: str, *arguments: str, log: Path | None = None, environment: Mapping[str, str] | None = None
    ) -> None:
        stderr = None
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
            stderr = log.open("w")
        self.process, self._leash = _start(module, arguments, environment, stdout=subprocess.PIPE, stderr=stderr)
        if stderr is not None:
            stderr.close()
        began = time.monotonic()
        try:
            address, said = self._listen()
        except BaseException:
            self.kill()
            self._let_go()
            raise
        if address is None:
            status = self.process.wait()
            self._let_go()
            words = said if log is None else "\n".join(log.read_text().splitlines()[-10:])
            late = time.monotonic() - began >= _START_SECONDS
            how = f"killed after {_START_SECONDS:g} s" if late else f"status {status}"
            raise ServiceError(f"{module} did not start ({how}): {words.strip()}")
        self.address = address
        # What it says later must go somewhere, or it would block when the pipe is full.
        threading.Thread(target=self._drain, name=f"stdout of {module}", daemon=True).start()

    def __repr__(self) -> str:
        status = self.process.poll()
        state = "running" if status is None else f"ended with status {status}"
        return f"<{type(self).__name__} at {self.address}, process {self.process.pid}, {state}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """SIGTERM, then SIGKILL."""
        stop(self.process)
        _drop(self._leash)
        self._leash = None

    def kill(self) -> None:
        """SIGKILL: a crash."""
        self.process.kill()
        self.process.wait()

    def _let_go(self) -> None:
        """Closes what tied us to a process that did not start."""
        assert self.process.stdout is not None
        self.process.stdout.close()
        _drop(self._leash)
        self._leash = None

    def _listen(self) -> tuple[str | None, str]:
        """The address, and what was said before."""
        killer = threading.Timer(_START_SECONDS, self.process.kill)
        killer.start()
        said = ""
        try:
            assert self.process.stdout is not None
            for line in self.process.stdout:
                said += line
                if match := _LISTENING.search(line):
                    return match[1], said
        finally:
            killer.cancel()
        return None, said

    def _drain(self) -> None:
        assert self.process.stdout is not None
        for _ in self.process.stdout:
            continue
        self.process.stdout.close()


class Ended(NamedTuple):
    """How a program ended, and what it has cost, with those of its children that it waited for."""

    status: int
    cpu_seconds: float


class ProgramProcess:
    """`python -m <module> <arguments>`, on its way to its end. What it says is added to the file `log`."""

    def __init__(self, module: str, *arguments: str, log: Path, environment: Mapping[str, str] | None = None) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as output:
            self._process, self._leash = _start(module, arguments, environment, stdout=output, stderr=subprocess.STDOUT)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._process.args!r}, process {self._process.pid}>"

    def wait(self) -> Ended:
        """Waits for its end; to be called once."""
        _, status, usage = os.wait4(self._process.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        _drop(self._leash)
        return Ended(self._process.returncode, usage.ru_utime + usage.ru_stime)

    def terminate(self) -> None:
        """SIGTERM, if it has not ended."""
        if self._process.returncode is None:  # Popen's own method may take the exit status away from `wait`
            os.kill(self._process.pid, signal.SIGTERM)


def run(module: str, *arguments: str) -> None:
    """Runs `python -m <module> <arguments>` to its end, in view. Raises ServiceError."""
    process, leash = _start(module, arguments)
    try:
        status = process.wait()
    finally:
        stop(process)
        _drop(leash)
    if status != 0:
        raise ServiceError(f"{module} ended with status {status}; what it said is above")


def stop(process: subprocess.Popen[str]) -> None:
    """SIGTERM, then SIGKILL."""
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def follow_parent() -> None:
    """For a service that begins: if one of the above started it, it ends with that process, however that ends."""
    leash = os.environ.pop(_LEASH, "")
    if not leash:
        return
    try:
        fd = int(leash)
        os.fstat(fd)
    except (ValueError, OSError):
        print(f"{_LEASH}={leash} is not meant to be set by hand; it is ignored", file=sys.stderr)
        return

    def wait() -> None:
        os.read(fd, 1)  # returns when the other end is closed
        os._exit(1)

    threading.Thread(target=wait, name="leash", daemon=True).start()


def die_with_parent() -> None:
    """For a worker: asks Linux to kill it with the thread that started it, even if it hangs in C code."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def _start(
    module: str, arguments: Sequence[str], environment: Mapping[str, str] | None = None, **streams: Any
) -> tuple[subprocess.Popen[str], int | None]:
    """The process, and the end of a pipe: the process ends when that is closed, and it closes with this process."""
    theirs, ours = os.pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.DEVNULL,
            env=os.environ | dict(environment or {}) | {_LEASH: str(theirs)},
            pass_fds=(theirs,),
            text=True,
            **streams,
        )
    except BaseException:
        os.close(ours)
        raise
    finally:
        os.close(theirs)
    return process, ours


def _drop(leash: int | None) -> None:
    if leash is not None:
        os.close(leash)
