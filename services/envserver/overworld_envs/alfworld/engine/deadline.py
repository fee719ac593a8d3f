"""A time limit for code that never checks the clock, such as upstream's translator."""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Iterator


class TimeLimitError(Exception):
    """The block took longer than its deadline."""


@contextlib.contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Interrupts the block with a TimeLimitError after `seconds`. Works for Python code, on any thread."""
    thread = threading.get_ident()
    guard = threading.Lock()
    running, sent = True, False

    def interrupt() -> None:
        nonlocal sent
        with guard:
            if running:
                sent = True
                send(TimeLimitError)

    def send(exception: type[BaseException] | None) -> None:
        argument = None if exception is None else ctypes.py_object(exception)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), argument)

    timer = threading.Timer(seconds, interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        with guard:
            running = False
            if sent:
                send(None)  # withdraws it if it has not arrived yet: it must not arrive later
    if sent:
        raise TimeLimitError
