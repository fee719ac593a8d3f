"""Calls of an author's code: what came back, and on which of the author's lines."""

from __future__ import annotations

import inspect
import random
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Called:
    """A call of an author's method."""

    name: str
    """As in "Lights.step"."""
    where: str
    """The author's line that returned or raised, as in "lights.py:12"."""
    value: Any = None
    error: BaseException | None = None


class CallTimeoutError(Exception):
    """The author's code did not return in time."""


def call(method: Callable[..., Any], *arguments: Any, seconds: float) -> Called:
    """Calls the author's method, for so many seconds at most where Python can interrupt it."""
    function = getattr(method, "__func__", method)
    code = getattr(function, "__code__", None)
    name = getattr(function, "__qualname__", repr(method))
    file = inspect.getsourcefile(function) if code is not None else None
    line = code.co_firstlineno if code is not None else 0

    def note(frame: FrameType, event: str, _: object) -> None:
        nonlocal line
        if event == "return" and frame.f_code is code:
            line = frame.f_lineno

    before = sys.getprofile()
    with Alarm(seconds):
        try:
            sys.setprofile(note)
            value = method(*arguments)
        except Exception as error:
            sys.setprofile(before)
            return Called(name, _raised(error, file) or _at(file, line), error=error)
        finally:
            sys.setprofile(before)
    return Called(name, _at(file, line), value)


def located(function: Any) -> str:
    """Where a function or class is defined."""
    try:
        return _at(inspect.getsourcefile(function), inspect.getsourcelines(function)[1])
    except (OSError, TypeError):
        return "?"


def disturb_global_chance(seed: int) -> None:
    """Puts Python's and NumPy's global generators into another state: an env must not notice."""
    random.seed(seed)
    np.random.seed(seed)


def _raised(error: BaseException, file: str | None) -> str:
    """The innermost line of the traceback that is in the author's file."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return _at(frames[-1].filename, frames[-1].lineno) if frames else ""


def _at(file: str | None, line: int | None) -> str:
    return f"{Path(file).name}:{line}" if file else "?"


class Alarm:
    """Raises CallTimeoutError in the main thread every so many seconds; in other threads it cannot."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._before: Any = None

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGALRM, self._ring)
            signal.setitimer(signal.ITIMER_REAL, self._seconds, self._seconds)

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, self._before)

    def _ring(self, number: int, frame: FrameType | None) -> None:
        raise CallTimeoutError(f"it did not return within {self._seconds:g} s")
