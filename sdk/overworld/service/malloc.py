"""Tells glibc what to do with freed memory: keep it, in processes that move large messages, or give it back.

By default glibc maps a new region for each block above 128 KB and unmaps it when freed; the page faults dominate gRPC
messages with frames: where freed memory is kept, a 17 MB response takes 17 ms instead of 47.

It also raises that threshold to the largest block freed so far, and has up to eight arenas per core, each of which
keeps what it once held. A server whose clients choose how much it takes is left with the sum of their largest requests.
What is freed between blocks in use stays all the same, until somebody asks for it: 370 MB after a request with three
pictures of 16 megapixels.
"""

from __future__ import annotations

import asyncio
import ctypes
import sys
from collections.abc import Callable, Mapping

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8
_KEEP_BYTES = 512 << 20
_LARGE_BYTES, _SPARE_BYTES, _ARENAS = 4 << 20, 16 << 20, 2
_TRIM_SECONDS = 1.0


def keep_freed_memory() -> None:
    """Affects the whole process, so programs call it and libraries do not. Does nothing without glibc."""
    _set({_M_MMAP_THRESHOLD: _KEEP_BYTES, _M_TRIM_THRESHOLD: _KEEP_BYTES, _M_TOP_PAD: 16 << 20})


def give_freed_memory_back() -> None:
    """The opposite, for the whole process. To be called before it has threads. Does nothing without glibc."""
    _set({_M_MMAP_THRESHOLD: _LARGE_BYTES, _M_TRIM_THRESHOLD: _SPARE_BYTES, _M_ARENA_MAX: _ARENAS})


async def keep_trimming() -> None:
    """Gives back what `give_freed_memory_back` leaves, again and again: .2 ms a time, 3 ms where there is much."""
    while True:
        await asyncio.sleep(_TRIM_SECONDS)
        await asyncio.to_thread(trim)


def trim() -> None:
    """Gives back all freed pages, whatever is kept otherwise. Does nothing without glibc."""
    malloc_trim = _function("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(0)


def _set(parameters: Mapping[int, int]) -> None:
    mallopt = _function("mallopt")
    if mallopt is not None:
        for parameter, value in parameters.items():
            mallopt(parameter, value)


def _function(name: str) -> Callable[..., int] | None:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
