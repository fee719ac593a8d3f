"""How instances of an env may be run: one after another, each on a thread of its own, or all on one event loop."""

from __future__ import annotations

import asyncio
import enum
import functools
import inspect
import threading
import types
from collections.abc import Coroutine, Generator
from types import CoroutineType
from typing import Any, TypeVar, cast

from overworld.authoring.env import Env

T = TypeVar("T")

_METHODS = ("reset", "step", "expert", "caption", "won", "close")
_PAUSE = object()


class Concurrency(enum.IntEnum):
    """What a host may do with many instances of an env."""

    SERIAL = 0
    """Run one at a time, all on one thread: what most simulators need."""
    THREADS = 1
    """Run each on a thread of its own: `Env.thread_safe`."""
    ASYNC = 2
    """Run all on one event loop: methods of the env are coroutine functions."""


def concurrency(env_class: type[Env]) -> Concurrency:
    """What the class allows."""
    if any(inspect.iscoroutinefunction(getattr(env_class, name)) for name in _METHODS):
        return Concurrency.ASYNC
    return Concurrency.THREADS if env_class.thread_safe else Concurrency.SERIAL


async def resolved(value: T | Coroutine[Any, Any, T]) -> T:
    """What a method of an env returned, once it is there."""
    if isinstance(value, CoroutineType):
        value = await value
    return cast(T, value)


def drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """The value of a coroutine that need not wait, without an event loop. Raises TypeError for one that does."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        value: T = stop.value
        return value
    raise _has_to_wait(coroutine)


@types.coroutine
def pause() -> Generator[object, None, None]:
    """Gives way to whatever else the caller of `advance` has to do."""
    yield _PAUSE


def advance(coroutine: Coroutine[Any, Any, object]) -> bool:
    """Runs a coroutine, without an event loop, until it pauses or ends. Returns whether it has ended.

    Raises TypeError for one that waits for anything else.
    """
    try:
        if coroutine.send(None) is _PAUSE:
            return False
    except StopIteration:
        return True
    raise _has_to_wait(coroutine)


def _has_to_wait(coroutine: Coroutine[Any, Any, object]) -> TypeError:
    coroutine.close()
    return TypeError(
        f"a method of the env has to be awaited, and none of {', '.join(_METHODS)} is an `async def`: write it as one"
    )


def wait_for(coroutine: Coroutine[Any, Any, T]) -> T:
    """The value of a coroutine, which runs on the event loop of `start_loop`. The caller may have a loop of its own."""
    return asyncio.run_coroutine_threadsafe(coroutine, _shared_loop()).result()


def start_loop(name: str) -> asyncio.AbstractEventLoop:
    """An event loop that runs on a daemon thread of this name."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True, name=name).start()
    return loop


@functools.cache
def _shared_loop() -> asyncio.AbstractEventLoop:
    return start_loop("async-envs")
