"""Calls to one env server: which were lost, which were refused, and for how long to try again."""

from __future__ import annotations

import contextlib
import itertools
import logging
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message

from overworld.authoring.env import EnvSpec
from overworld.client.endpoint import Endpoint
from overworld.contract.status import DOMAIN, from_rpc_error
from overworld.contract.wire import spec_from_proto
from overworld.errors import (
    CallFailedError,
    ContractError,
    Reason,
    Retry,
    ServerBrokenError,
    ServerLostError,
    ServerStuckError,
)
from overworld.service.credentials import Credentials
from overworld.v1 import env_pb2 as pb

_logger = logging.getLogger(__name__)

_SERVICE = "/" + pb.DESCRIPTOR.services_by_name["EnvService"].full_name
_CALL_SECONDS = 20.0  # then the server is asked whether it is there, and the call is repeated, which joins it
_HANG_SECONDS = 60.0
_PING_SECONDS = 5.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0
_LOST_IN_TRANSIT = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,  # by a server that ends, of calls that it has not begun
)

_DEFAULT_KEEPALIVE_SECONDS = 300.0  # what gRPC's servers put up with, if they are not told otherwise
_LEAST_KEEPALIVE_SECONDS = 10.0

_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # Notice a link that died within seconds, where the server allows that; elsewhere it is found by asking again.
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 0),  # gRPC's servers put up with one ping in 2 hours then
    ("grpc.http2.max_pings_without_data", 0),
    # Find a restarted server soon.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.enable_retries", 0),  # gRPC's own retries would repeat calls that must not be
]


_connections = itertools.count(1)
_keepalives: dict[str, float] = {}
"""What servers have said, by address: the next channel need not connect twice to comply with it."""


class CallLostError(Exception):
    """A call got no answer; it is worth trying again.

    `late`: it was given up because it took too long; `explained`: the message says what is to be done.
    """

    def __init__(self, message: str, *, late: bool = False, explained: bool = False) -> None:
        super().__init__(message)
        self.late = late
        self.explained = explained


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ServerInfo:
    """What a server says about itself: the contract's GetServerInfoResponse."""

    instance: str
    revision: int
    features: tuple[str, ...]
    versions: dict[str, str]
    slots_total: int
    slots_free: int
    draining: bool
    envs: dict[str, EnvSpec]

    def __repr__(self) -> str:
        state = ", draining" if self.draining else ""
        return f"<ServerInfo: {', '.join(self.envs)}; {self.slots_free} of {self.slots_total} slots free{state}>"


class Channel:
    """A connection to the server at "host:port". The other arguments are those of `Session`.

    Raises ServerUntrustedError for one that a registry names and that cannot prove that the token is meant for it.
    """

    def __init__(
        self, address: str, credentials: Credentials, retry_budget: float, step_timeout: float | None = None
    ) -> None:
        self.address = address
        self._endpoint = Endpoint(address, credentials)
        self.closed = threading.Event()
        self._connecting = threading.Lock()
        self._budget = retry_budget
        self._limit = step_timeout
        self._keepalive = _keepalives.get(address, _DEFAULT_KEEPALIVE_SECONDS)
        self._connection = 0
        self._channel = self._connect()

    def __repr__(self) -> str:
        return f"<Channel to {self.address}{', closed' if self.closed.is_set() else ''}>"

    def close(self) -> None:
        """Ends running calls."""
        with self._connecting:
            self.closed.set()
            self._channel.close()

    def attempt(self, method: str, request: Message, timeout: float = _CALL_SECONDS) -> bytes:
        """The serialised response to one call.

        Raises CallLostError, ContractError if the server refuses, and CallFailedError for any other failure.
        """
        channel = self._channel
        try:
            stub: Any = channel.unary_unary(f"{_SERVICE}/{method}", _serialised, bytes)
            response: bytes = stub(request, timeout=timeout, metadata=self._metadata())
        except grpc.RpcError as error:
            refusal = from_rpc_error(error)
            if refusal is not None:
                tokens, name = self._endpoint.credentials.tokens, self._endpoint.name
                if refusal.reason is Reason.TOKEN_MISSING and tokens is not None:
                    raise ContractError(
                        refusal.reason,
                        f"{self.address} asks for a token, and {tokens.path} has none for {name}: add a line "
                        f"`{name}: token`",
                    ) from None
                raise refusal from None
            hung_up = self.closed.is_set() or channel is not self._channel
            if error.code() in _LOST_IN_TRANSIT or hung_up:
                late = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
                self._renew_certificates(channel)
                why = "" if late or hung_up else self._endpoint.diagnose(str(error.details()))
                message = why or f"{error.code().name}: {error.details()}"
                raise CallLostError(message, late=late, explained=bool(why)) from None
            raise CallFailedError(
                f"{self.address} answered {method} with {error.code().name} ({error.details()}), which is not an error "
                f"of {DOMAIN}: check that an env server listens there, and read its log"
            ) from None
        except ValueError as error:  # gRPC's way to say that the channel was closed by another thread
            raise CallLostError(str(error)) from None
        return response

    def call(self, method: str, request: Message, budget: float | None = None) -> bytes:
        """As `attempt`, but tries again for `budget` seconds (the channel's by default).

        It does so when the call is lost, or when the server asks to come back later. Raises ServerLostError instead of
        CallLostError, and ServerStuckError.
        """
        backoff = self.backoff(method, budget)
        while True:
            try:
                return self.attempt(method, request, min(backoff.patience, max(backoff.budget, _PING_SECONDS)))
            except CallLostError as error:
                backoff.wait(error)
            except ContractError as error:
                if error.reason.retry is not Retry.LATER:
                    raise
                backoff.wait(error)

    def backoff(self, method: str, budget: float | None = None) -> Backoff:
        """Pauses between attempts of a call."""
        return Backoff(self, method, self._budget if budget is None else budget, self._limit)

    def ask(self, budget: float | None = None) -> pb.GetServerInfoResponse:
        """GetServerInfo as it was answered. Raises ServerBrokenError, and what `call` raises."""
        data = self.call("GetServerInfo", pb.GetServerInfoRequest(), budget)
        with self.reading("GetServerInfo"):
            return pb.GetServerInfoResponse.FromString(data)

    def answers(self) -> bool:
        """Whether the server answers within seconds. If not, the next call makes a new connection."""
        asked = self._channel
        try:
            self.attempt("GetServerInfo", pb.GetServerInfoRequest(), _PING_SECONDS)
        except CallLostError as error:
            if error.late:  # gRPC takes a link that swallows everything for a good one
                self._reconnect(asked, next(_connections))
            return False
        return True

    def keep_alive(self, info: pb.GetServerInfoResponse) -> None:
        """Pings as often from now on as the server says that it puts up with."""
        seconds = info.keepalive.seconds + info.keepalive.nanos / 1e9
        keepalive = max(seconds, _LEAST_KEEPALIVE_SECONDS) if seconds > 0 else _DEFAULT_KEEPALIVE_SECONDS
        if keepalive != self._keepalive:
            self._keepalive = _keepalives[self.address] = keepalive
            self._reconnect(self._channel, self._connection)

    def info(self, budget: float | None = None) -> ServerInfo:
        """GetServerInfo. Raises as `ask`."""
        message = self.ask(budget)
        with self.reading("GetServerInfo"):
            envs = {env.id: spec_from_proto(env) for env in message.envs}
        return ServerInfo(
            instance=message.instance,
            revision=message.revision,
            features=tuple(message.features),
            versions=dict(message.versions),
            slots_total=message.slots_total,
            slots_free=message.slots_free,
            draining=message.draining,
            envs=envs,
        )

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        token = self._endpoint.token
        return (("authorization", f"Bearer {token}"),) if token else ()

    def _connect(self) -> grpc.Channel:
        return self._endpoint.connect(
            [
                *_OPTIONS,
                ("grpc.keepalive_time_ms", min(int(self._keepalive * 1000), 2**31 - 1)),
                ("overworld.connection", self._connection),  # channels with equal options share a connection
            ]
        )

    def _renew_certificates(self, left: grpc.Channel) -> None:
        """After a lost call: gRPC would connect again with the certificates that it was given, however old."""
        if self._endpoint.outdated:
            self._reconnect(left, self._connection)

    def _reconnect(self, left: grpc.Channel, connection: int) -> None:
        """Hangs up and connects again, unless another thread has done so since the channel was `left`."""
        with self._connecting:
            if self._channel is not left or self.closed.is_set():
                return
            self._connection = connection
            self._channel = self._connect()
        left.close()  # its calls are lost and repeated

    @contextlib.contextmanager
    def reading(self, method: str) -> Iterator[None]:
        """Reports an answer to `method` that cannot be read within this context as ServerBrokenError."""
        try:
            yield
        except (DecodeError, LookupError, RecursionError, ValueError) as error:
            raise ServerBrokenError(f"{self.address} answered {method} in a way that makes no sense: {error}") from None


class Backoff:
    """Growing pauses between attempts, until the server has been silent for the whole budget.

    A server that answers other calls is waited for, up to `limit` seconds if there is a limit.
    """

    def __init__(self, channel: Channel, method: str, budget: float, limit: float | None) -> None:
        self.budget = budget
        self._limit = limit
        self._channel = channel
        self._method = method
        self._deadline = time.monotonic() + budget
        self._pause = _FIRST_PAUSE
        self._since = self._told = time.monotonic()

    @property
    def patience(self) -> float:
        """Seconds for which the next attempt should wait for its answer."""
        if self._limit is None:
            return _CALL_SECONDS
        return min(_CALL_SECONDS, max(self._since + self._limit - time.monotonic(), _FIRST_PAUSE))

    def wait(self, error: CallLostError | ContractError) -> None:
        """Pauses after a failed attempt.

        Raises when the budget is used up: ServerLostError after a lost call, or the refusal itself. A call that was
        given up because it took too long does not count against the budget while the server answers others, but
        against the limit: ServerStuckError.
        """
        channel = self._channel
        if isinstance(error, CallLostError) and error.late and channel.answers():
            self._check_limit()
            self._deadline, self._pause = time.monotonic() + self.budget, _FIRST_PAUSE
            return
        self._since = self._told = time.monotonic() + self._pause  # it may have to begin again
        if time.monotonic() + self._pause > self._deadline:
            if isinstance(error, ContractError):
                raise error
            if error.explained:
                raise ServerLostError(f"{error} (tried for {self.budget:g} s)")
            raise ServerLostError(
                f"no answer from the env server at {channel.address} within {self.budget:g} s ({error}); is it "
                "running, and is the address right?"
            )
        if self._pause == _FIRST_PAUSE:
            _logger.warning("%s %s: %s; trying again for %g s", channel.address, self._method, error, self.budget)
        channel.closed.wait(self._pause * random.uniform(0.5, 1.0))
        self._pause = min(self._pause * 2, _LONGEST_PAUSE)

    def _check_limit(self) -> None:
        """Says every minute that the call is still waited for, until its limit."""
        now = time.monotonic()
        waited = now - self._since
        limit = "no step_timeout is set" if self._limit is None else f"step_timeout is {self._limit:g} s"
        running = f"{self._channel.address} answers, but has not finished {self._method} for {waited:.0f} s ({limit})"
        if self._limit is not None and waited >= self._limit:
            raise ServerStuckError(f"{running}: see the server's log for what holds up its simulator, or wait longer")
        if now - self._told >= _HANG_SECONDS:
            self._told = now
            _logger.warning("%s; waiting", running)


def server_info(
    address: str, token: str = "", retry_budget: float = 5.0, *, credentials: Credentials | None = None
) -> ServerInfo:
    """What the server at `address` says about itself. Raises as `Channel.info` does."""
    channel = Channel(address, credentials or Credentials(token=token), retry_budget)
    try:
        return channel.info()
    finally:
        channel.close()


def _serialised(message: Message) -> bytes:
    return message.SerializeToString()
