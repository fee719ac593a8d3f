"""Tells glibc to keep freed memory for processes that move large messages.

By default glibc maps a new region for each block above 128 KB and unmaps it when freed; the page faults dominate gRPC
messages with frames: with this, a 17 MB response takes 17 ms instead of 47.
"""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_KEEP_BYTES = 512 << 20


def keep_freed_memory() -> None:
    """Affects the whole process, so programs call it and libraries do not. Does nothing without glibc."""
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _KEEP_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEEP_BYTES)
        mallopt(_M_TOP_PAD, 16 << 20)
