"""Envs whose instances are independent: they wait at the same time, on threads or on an event loop."""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time

from overworld import ActionSpec, End, Env, EnvSpec, Expert, Image, Observation, Options, Transition
from pydantic import Field

ACTIONS = ("up", "down", "crash", "exit", "hang", "block", "hide", "raise", "cancel", "meet")


class WaitOptions(Options):
    seconds: float = Field(default=0.0, ge=0)
    folder: str = Field(default="", description="where a process that crashes leaves a file, so that it happens once")
    party: int = Field(default=1, ge=1, description="how many steps must run at once for `meet` to end")


class _Counter(Env):
    """Counts. The picture and the text show the count and the episode's random numbers."""

    options_model = WaitOptions
    options: WaitOptions

    def _begin(self, seed: int) -> Observation:
        self._count = 0
        self._random = random.Random(seed)
        return self._look()

    def _move(self, action: str) -> Transition:
        if action == "crash":
            os._exit(3)
        if action == "exit":
            raise SystemExit(4)
        if action == "raise":
            raise RuntimeError("boom")
        self._count += {"up": 1, "down": -1}.get(action, 0)
        end = End.TASK if self._count == 3 else None
        return Transition(self._look(), float(self._count), end, None if end is None else True)

    def _look(self) -> Observation:
        chance = self._random.randrange(200)
        canvas = self.canvas("view", 16, 16)
        canvas[...] = chance
        canvas[0, 0] = self._count + 10
        return Observation((Image("view", canvas), f"count {self._count}, chance {chance}"))


class Threaded(_Counter):
    """Its instances may run on threads. Each notices if it is not always on the same one."""

    thread_safe = True
    spec = EnvSpec(
        id="waiting/Threaded", task="Count.", success="the count is 3", action=ActionSpec(ACTIONS), has_expert=True
    )
    _met = threading.Condition()
    _present = 0

    def __init__(self, options: WaitOptions) -> None:
        super().__init__(options)
        self._thread = threading.get_ident()

    def reset(self, seed: int, split: str, task: int | None) -> Observation:
        self._check()
        time.sleep(self.options.seconds)
        return self._begin(seed)

    def step(self, action: str) -> Transition:
        self._check()
        time.sleep(self.options.seconds)
        if action == "hang":
            time.sleep(1000)
        if action == "meet":
            with self._met:
                Threaded._present += 1
                self._met.notify_all()
                assert self._met.wait_for(lambda: Threaded._present % self.options.party == 0, timeout=20)
        return self._move(action)

    def expert(self) -> Expert:
        return Expert("up", "One more.")

    def close(self) -> None:
        self._check()

    def _check(self) -> None:
        assert threading.get_ident() == self._thread


class Async(_Counter):
    """Its instances run on one event loop."""

    spec = EnvSpec(
        id="waiting/Async", task="Count.", success="the count is 3", action=ActionSpec(ACTIONS), has_expert=True
    )

    def __init__(self, options: WaitOptions) -> None:
        super().__init__(options)
        self._lock = asyncio.Lock()

    async def reset(self, seed: int, split: str, task: int | None) -> Observation:
        await asyncio.sleep(self.options.seconds)
        return self._begin(seed)

    async def step(self, action: str) -> Transition:
        async with self._lock:  # of the loop on which it is first used
            await asyncio.sleep(self.options.seconds)
        if action == "hang":
            while True:  # comes back to the event loop, but not to an end
                await asyncio.sleep(0.05)
        if action == "block":
            time.sleep(1000)
        if action == "hide":
            await asyncio.create_task(self._block())
        if action == "cancel":
            raise asyncio.CancelledError("enough")
        return self._move(action)

    async def expert(self) -> Expert:
        await asyncio.sleep(0)
        return Expert("up", "One more.")

    async def won(self) -> bool:
        await asyncio.sleep(0)
        return self._count == 2

    async def _block(self) -> None:
        time.sleep(1000)


class Serial(Threaded):
    """The same, one at a time."""

    thread_safe = False
    spec = EnvSpec(
        id="waiting/Serial", task="Count.", success="the count is 3", action=ActionSpec(ACTIONS), has_expert=True
    )


ENVS = tuple(f"{__name__}:{env.__name__}" for env in (Threaded, Async, Serial))
