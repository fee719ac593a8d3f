"""The policy server as it is, with a decoder thread that its tests can kill or freeze.

SIGUSR1  a SystemExit is raised in the thread, wherever it is
SIGUSR2  the thread stands still for FREEZE_SECONDS

The variable STUCK_SECONDS says after how long the server ends itself then.
"""

import ctypes
import gc
import os
import signal
import sys
import threading
import time
from types import FrameType

from overworld.service.program import run
from overworld_policy.command import main

FREEZE_SECONDS = float(os.environ.get("FREEZE_SECONDS", "13"))


def kill(_signal: int, _frame: FrameType | None) -> None:
    thread = next(thread for thread in threading.enumerate() if thread.name == "decoder")
    assert ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit))


def freeze(_signal: int, _frame: FrameType | None) -> None:
    from overworld_policy.decoder import Decoder

    decoder = next(found for found in gc.get_objects() if isinstance(found, Decoder))
    decoder._inbox.put(lambda: time.sleep(FREEZE_SECONDS))  # type: ignore[arg-type]


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, kill)
    signal.signal(signal.SIGUSR2, freeze)
    if seconds := os.environ.get("STUCK_SECONDS"):
        from overworld_policy import app

        app._STUCK_SECONDS = float(seconds)
    run(main, sys.argv[1:], "frail_policy")
