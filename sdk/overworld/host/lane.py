"""The lanes of a worker. Each does one job at a time; different lanes work at once.

Jobs of one client are done in the order in which they came. Clients that share a lane have a turn each: an env made, or
a command executed.

Lane 0 runs the envs that must not run at the same time. Of the others, one of each kind belongs to each slot that the
worker has room for: a thread, or a place on the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import queue
import threading
import types
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterator
from typing import Any

from overworld.authoring.concurrency import Concurrency, advance, pause
from overworld.host.env_cache import EnvCache
from overworld.host.heartbeat import HeartbeatLine

_logger = logging.getLogger(__name__)

Job = Coroutine[Any, Any, None]


def lane_count(capacity: int) -> int:
    """Lanes of a worker with room for `capacity` slots."""
    return 1 + 2 * capacity


def lane_number(concurrency: Concurrency, place: int, capacity: int) -> int:
    """The lane of the slot at a place, 0 to capacity - 1."""
    if concurrency is Concurrency.SERIAL:
        return 0
    return 1 + place + (capacity if concurrency is Concurrency.ASYNC else 0)


class Lane(ABC):
    """Does jobs. Its envs are made, used and closed by them."""

    def __init__(self, number: int, beats: HeartbeatLine, envs: EnvCache) -> None:
        self.number = number
        self.beats = beats
        self.envs = envs

    @abstractmethod
    def submit(self, job: Job, client: str) -> None:
        """Has the job done after those that were submitted before for this client. Any thread may call this."""

    @property
    def contended(self) -> bool:
        """Whether other clients wait for the turn of this job's client to end."""
        return False

    async def end_turn(self) -> None:  # noqa: B027
        """For jobs: lets the other clients have theirs."""

    def soon(self, call: Callable[[], None]) -> None:
        """For its own jobs: makes a call when those lanes have had their turn that take turns with this one."""
        call()


class Turns:
    """Jobs of clients that have a turn each."""

    def __init__(self) -> None:
        self._jobs: dict[str, deque[Job]] = {}  # by client, in the order of their turns

    def __len__(self) -> int:
        """How many clients have jobs, with the one whose turn it is."""
        return len(self._jobs)

    def add(self, job: Job, client: str) -> None:
        """Adds a job after the client's others."""
        self._jobs.setdefault(client, deque()).append(job)

    def take(self) -> None:
        """Has the next client's job done for one turn. It may add others."""
        client, jobs = next(iter(self._jobs.items()))
        if advance(jobs[0]):
            del jobs[0]
        del self._jobs[client]
        if jobs:
            self._jobs[client] = jobs

    def drop(self) -> None:
        """Forgets all jobs."""
        for jobs in self._jobs.values():
            for job in jobs:
                job.close()
        self._jobs.clear()


class _SharedLane(Lane):
    """A lane whose clients have their turns without an event loop."""

    def __init__(self, number: int, beats: HeartbeatLine, envs: EnvCache, turns: Turns) -> None:
        super().__init__(number, beats, envs)
        self._turns = turns

    @property
    def contended(self) -> bool:
        """As the base class says."""
        return len(self._turns) > 1

    async def end_turn(self) -> None:
        """As the base class says."""
        await pause()


class InlineLane(_SharedLane):
    """Does its jobs on the thread that made it, which takes the `turns`."""

    def submit(self, job: Job, client: str) -> None:
        """Returns at once."""
        self._turns.add(job, client)


class ThreadLane(_SharedLane):
    """Does its jobs on a thread of its own."""

    def __init__(self, number: int, beats: HeartbeatLine, envs: EnvCache) -> None:
        super().__init__(number, beats, envs, Turns())
        self._submitted: queue.SimpleQueue[tuple[Job, str]] = queue.SimpleQueue()
        threading.Thread(target=self._run, daemon=True, name=f"lane-{number}").start()

    def submit(self, job: Job, client: str) -> None:
        """Returns at once."""
        self._submitted.put((job, client))

    def _run(self) -> None:
        with _fatal():
            while True:
                while not self._turns or not self._submitted.empty():
                    self._turns.add(*self._submitted.get())
                self._turns.take()


class LoopInbox:
    """What an event loop is asked to do for its lanes: jobs that come together wake it only once."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._arrived: deque[tuple[AsyncLane, Job]] = deque()
        self._woken = False
        self._calls: set[Callable[[], None]] = set()

    def put(self, lane: AsyncLane, job: Job) -> None:
        """Any thread may call this."""
        self._arrived.append((lane, job))
        if not self._woken:
            self._woken = True
            self.loop.call_soon_threadsafe(self._hand_out)

    def soon(self, call: Callable[[], None]) -> None:
        """On the event loop's thread: makes a call after all that it has in hand, once for all who ask for it."""
        if call not in self._calls:
            self._calls.add(call)
            self.loop.call_soon(self._make, call)

    def _make(self, call: Callable[[], None]) -> None:
        self._calls.remove(call)  # before it is made: what comes now asks for another one
        with _fatal():
            call()

    def _hand_out(self) -> None:
        self._woken = False  # before it looks: what comes now wakes it again
        while self._arrived:
            lane, job = self._arrived.popleft()
            lane.add(job)


class AsyncLane(Lane):
    """Does its jobs on an event loop that it shares with others."""

    def __init__(self, number: int, beats: HeartbeatLine, envs: EnvCache, inbox: LoopInbox) -> None:
        super().__init__(number, beats, envs)
        self._inbox = inbox
        self._jobs: deque[Job] = deque()
        self._task: asyncio.Task[None] | None = None  # while there are jobs

    def submit(self, job: Job, client: str) -> None:
        """Returns at once."""
        self._inbox.put(self, job)

    def soon(self, call: Callable[[], None]) -> None:
        """As `LoopInbox.soon`."""
        self._inbox.soon(call)

    def add(self, job: Job) -> None:
        """As `submit`, on the event loop's thread."""
        self._jobs.append(job)
        if self._task is None:
            self._task = self._inbox.loop.create_task(self._run())

    async def _run(self) -> None:
        with _fatal():
            while self._jobs:
                await _counted(self._jobs.popleft(), self.beats)
            self._task = None


@types.coroutine
def _counted(job: Job, beats: HeartbeatLine) -> Generator[Any, Any, None]:
    """Does the job, and notes whenever it gets hold of the event loop and lets go of it."""
    step, value = job.send, None
    while True:
        beats.turn()
        try:
            awaited = step(value)
        except StopIteration:
            return
        finally:
            beats.turn()
        try:
            value = yield awaited
            step = job.send
        except BaseException as error:  # a cancellation, for one, is the job's to handle
            step, value = job.throw, error


@contextlib.contextmanager
def _fatal() -> Iterator[None]:
    """Ends the process if an env ends its thread, as it would on the main thread; the front then replaces it."""
    try:
        yield
    except GeneratorExit:  # the process ends
        raise
    except (BrokenPipeError, ConnectionResetError):  # the front is gone
        os._exit(0)
    except BaseException:
        _logger.exception("an env ended its thread")
        os._exit(1)
