"""What requests may hold together of something that there is only so much of."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from overworld_policy.errors import ApiError


class Budget:
    """Lets holders in, in their order, as long as they hold at most `bound` together; one alone may hold more.

    Those that hold nothing never wait. Of the others at most `max_waiting` do.
    """

    def __init__(self, bound: int, max_waiting: int) -> None:
        self._bound = bound
        self._max_waiting = max_waiting
        self._held = self._waiting = 0
        self._turn = asyncio.Lock()
        self._freed = asyncio.Event()

    def __repr__(self) -> str:
        return f"Budget({self._held:,} of {self._bound:,} held, {self._waiting} waiting)"

    @contextlib.asynccontextmanager
    async def hold(self, size: int) -> AsyncIterator[None]:
        """Holds that much while this lasts, as soon as it can be had. Raises ApiError if too many are waiting."""
        if size <= 0:
            yield
            return
        await self._take(size)
        try:
            yield
        finally:
            self._held -= size
            self._freed.set()

    async def _take(self, size: int) -> None:
        if self._waiting >= self._max_waiting:
            raise ApiError(429, f"{self._waiting} large requests are waiting; try again soon", code="too_many_requests")
        self._waiting += 1
        try:
            async with self._turn:
                while self._held and self._held + size > self._bound:
                    self._freed.clear()
                    await self._freed.wait()
                self._held += size
        finally:
            self._waiting -= 1
