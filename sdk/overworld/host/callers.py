"""Who calls: names by token, what each may take of the server, and what it has taken."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from overworld.errors import ContractError, Reason
from overworld.host.metrics import ServerMetrics
from overworld.service import bounds
from overworld.service.tokens import TokenFile

_ANYONE, _THE_CLIENT = "anyone", "client"
"""Names where there are none: without a token, and with one for all."""


class Quota(BaseModel):
    """What the owner of a token may take at a time."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    slots: int | None = Field(default=None, ge=0, description="slots of all sessions together; null: all there are")
    calls: int = Field(default=int(bounds.CALLS), ge=1, description="calls under way")
    request_bytes: int = Field(
        default=int(bounds.REQUESTS), ge=1, description="bytes of the requests of calls under way"
    )


class Share:
    """So many bytes, for those who wait their turn. Who asks for more than there are gets them when all are there."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._taken = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    def __repr__(self) -> str:
        return f"<Share: {self._taken:,} of {self._size:,} bytes taken, {len(self._waiting)} wait>"

    async def take(self, size: int) -> None:
        """Waits until there are so many bytes, and until all have got theirs who asked earlier."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        self._serve()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._serve()  # it may have been the one that the next ones waited for
            else:
                self.give_back(size)
            raise

    def give_back(self, size: int) -> None:
        """The inverse of `take`."""
        self._taken -= size
        self._serve()

    def _serve(self) -> None:
        while self._waiting:
            size, turn = self._waiting[0]
            if not turn.cancelled():
                if self._taken and self._taken + size > self._size:
                    return
                self._taken += size
                turn.set_result(None)
            self._waiting.popleft()


class Caller:
    """A client by its name, with what it has taken."""

    def __init__(self, name: str, quota: Quota, metrics: ServerMetrics) -> None:
        self.name = name
        self._quota = quota
        self._slots = self._calls = self._bytes = 0
        self._held = metrics.client_slots.labels(name)
        self._received = metrics.client_received_bytes.labels(name)
        self.sent = metrics.client_sent_bytes.labels(name)
        """Counts bytes of Step responses."""
        self.responses = Share(bounds.FRAMES)
        """For the frames of responses that are made or sent."""
        self._receiving = asyncio.Semaphore(bounds.RECEIVED)

    def __repr__(self) -> str:
        return f"<Caller {self.name}: {self._slots} slots, {self._calls} calls, {self._bytes} bytes>"

    def free(self, slots: int) -> int:
        """How many of so many free slots it may take."""
        return slots if self._quota.slots is None else max(min(slots, self._quota.slots - self._slots), 0)

    def take(self, slots: int) -> None:
        """Counts the slots of a session. Raises ContractError if they are too many."""
        bound = self._quota.slots
        if bound is not None and self._slots + slots > bound:
            raise self._exceeded(f"holds {self._slots} slots and asks for {slots} more", f"{bound} slots")
        self.hold(slots)

    def hold(self, slots: int) -> None:
        """Counts slots that it has; negative where it has given them back."""
        self._slots += slots
        self._held.set(self._slots)

    async def receive(self) -> Callable[[], None]:
        """Waits until a request may be received for it. What it gives is to be called when the request is there.

        A request that takes too long ends the running task, and so its call.
        """
        await self._receiving.acquire()
        task = asyncio.current_task()
        assert task is not None
        late = asyncio.get_running_loop().call_later(bounds.RECEIVING, task.cancel)
        received = False

        def done(_: object = None) -> None:
            nonlocal received
            if not received:
                received = True
                late.cancel()
                self._receiving.release()

        task.add_done_callback(done)
        return done

    @contextlib.contextmanager
    def calling(self, size: int) -> Iterator[None]:
        """A call with a request of so many bytes, while this lasts. Raises ContractError if they are too many."""
        quota = self._quota
        self._received.inc(size)
        if self._calls >= quota.calls:
            raise self._exceeded(f"has {self._calls} calls under way", f"{quota.calls} calls")
        if self._bytes + size > quota.request_bytes:
            what = f"has requests of {self._bytes:,} bytes under way and sends {size:,} more"
            raise self._exceeded(what, f"{quota.request_bytes:,} bytes")
        self._calls += 1
        self._bytes += size
        try:
            yield
        finally:
            self._calls -= 1
            self._bytes -= size

    def _exceeded(self, what: str, bound: str) -> ContractError:
        return ContractError(
            Reason.QUOTA_EXCEEDED,
            f"{self.name} {what}; its quota on this server is {bound} at a time: wait, take less, or have it raised",
        )


class Callers:
    """The clients of a server.

    Each is known by a token in the file `tokens`, or all by one `token`; with neither, anyone may call. `quotas` are by
    name, `quota` is that of all others.
    """

    def __init__(
        self, token: str, tokens: Path | None, *, quota: Quota, quotas: Mapping[str, Quota], metrics: ServerMetrics
    ) -> None:
        self._token = token
        self._tokens = TokenFile(tokens) if tokens else None
        self._quota = quota
        self._quotas = {name.lower(): own for name, own in quotas.items()}
        self._metrics = metrics
        self._callers: dict[str, Caller] = {}

    def __repr__(self) -> str:
        return f"<Callers: {self._tokens or ('one token' if self._token else 'no token')}>"

    def identify(self, authorization: str) -> Caller:
        """Whose call it is that has this header. Raises ContractError."""
        kind, _, token = authorization.partition(" ")
        name = self._name(token if kind.lower() == "bearer" else "")
        if name is None:
            raise (
                ContractError(Reason.TOKEN_WRONG, "the bearer token is not this server's; check OVERWORLD_TOKEN")
                if authorization
                else ContractError(Reason.TOKEN_MISSING, "this server asks for a bearer token; set OVERWORLD_TOKEN")
            )
        if name not in self._callers:
            self._callers[name] = Caller(name, self._quotas.get(name, self._quota), self._metrics)
        return self._callers[name]

    def refresh(self) -> None:
        """Reads the tokens again if they have changed, and says so if they cannot be used."""
        if self._tokens is not None:
            self._tokens.owner("")

    def _name(self, sent: str) -> str | None:
        if self._tokens is not None:
            return self._tokens.owner(sent)
        if not self._token:
            return _ANYONE
        return _THE_CLIENT if hmac.compare_digest(sent.encode(), self._token.encode()) else None


current: ContextVar[Caller] = ContextVar("caller")
"""Whose call is being answered."""
received: ContextVar[Callable[[], None]] = ContextVar("received")
"""To be called when its request is there."""
