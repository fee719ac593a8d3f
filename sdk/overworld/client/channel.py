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
from overworld.contract import checksum
from overworld.contract.checksum import CorruptedError
from overworld.contract.status import DOMAIN, from_rpc_error
from overworld.contract.wire import spec_from_proto
from overworld.errors import (
    CallFailedError,
    ContractError,
    Reason,
    Retry,
    ServerBrokenError,
    ServerError,
    ServerLostError,
    ServerStuckError,
)
from overworld.service.credentials import Credentials
from overworld.v1 import env_pb2 as pb

_logger = logging.getLogger(__name__)

_SERVICE = "/" + pb.DESCRIPTOR.services_by_name["EnvService"].full_name
_CALL_SECONDS = 20.0  # then the server is asked whether it is there, and the call is repeated, which joins it
_FIRST_CALL_SECONDS = 5.0  # so long at first: on a link that is up, too, a request may have got lost
_HANG_SECONDS = 60.0
_PING_SECONDS = 5.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0
_MAX_SPOILT = 5
"""After so many answers to a call that may have been spoilt on the way, the server is taken at its word."""
_LOST_IN_TRANSIT = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,  # by a server that ends, of calls that it has not begun
)

_DEFAULT_KEEPALIVE_SECONDS = 300.0  # what gRPC's servers put up with, if they are not told otherwise
_LEAST_KEEPALIVE_SECONDS = 3.0

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
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # gRPC's limit on an attempt to connect, whatever its name says: on a slow link several round trips are needed.
    ("grpc.min_reconnect_backoff_ms", 2_000),
    ("grpc.enable_retries", 0),  # gRPC's own retries would repeat calls that must not be
]


_connections = itertools.count(1)
_keepalives: dict[str, float] = {}
"""What servers have said, by address: the next channel need not connect twice to comply with it."""


class CallLostError(Exception):
    """A call got no answer; it is worth trying again.

    `late`: it was given up because it took too long; `explained`: the message says what is to be done; `spoilt`: what
    came makes no sense, and is raised if that happens again and again: bits may have flipped on the way.
    """

    def __init__(
        self,
        message: str,
        *,
        late: bool = False,
        explained: bool = False,
        spoilt: ContractError | ServerError | None = None,
    ) -> None:
        super().__init__(message)
        self.late = late
        self.explained = explained
        self.spoilt = spoilt


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
        self._accepted = False  # the server has answered: the token is right
        self.checksums = False
        """Whether the server's answers have checksums. Found out by `ask`."""
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

        Raises CallLostError, also for what may have been spoilt on the way, and ContractError if the server refuses.
        """
        channel = self._channel
        data = request.SerializeToString()
        try:
            stub: Any = channel.unary_unary(f"{_SERVICE}/{method}", bytes, bytes)
            response: bytes | None = stub(data, timeout=timeout, metadata=self._metadata(method, data))
        except grpc.RpcError as error:
            raise self._failure(method, channel, error) from None
        except ValueError as error:  # gRPC's way to say that the channel was closed by another thread
            raise CallLostError(str(error)) from None
        if response is None:  # bits of a frame's header flipped: gRPC takes the end of the call for all of the answer
            raise self._spoilt(channel, ServerBrokenError(f"{self.address} answered {method} without a message"))
        self._accepted = True
        if self.checksums and method in ("Open", "Close"):  # the others' answers are checked where they are read
            with self.reading(method):
                checksum.check_response(method, response)
        return response

    def _failure(self, method: str, channel: grpc.Channel, error: grpc.RpcError) -> Exception:
        """What is to be raised for a call that failed."""
        refusal = from_rpc_error(error)
        if refusal is not None:
            tokens, name = self._endpoint.credentials.tokens, self._endpoint.name
            if refusal.reason is Reason.TOKEN_MISSING and tokens is not None:
                refusal = ContractError(
                    refusal.reason,
                    f"{self.address} asks for a token, and {tokens.path} has none for {name}: add a line "
                    f"`{name}: token`",
                )
            header = self._accepted and refusal.reason in (Reason.TOKEN_MISSING, Reason.TOKEN_WRONG)
            return self._spoilt(channel, refusal) if header or refusal.reason is Reason.CORRUPTED else refusal
        hung_up = self.closed.is_set() or channel is not self._channel
        if error.code() in _LOST_IN_TRANSIT or hung_up:
            late = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            self._renew_certificates(channel)
            why = "" if late or hung_up else self._endpoint.diagnose(str(error.details()))
            message = why or f"{error.code().name}: {error.details()}"
            return CallLostError(message, late=late, explained=bool(why))
        failure = CallFailedError(
            f"{self.address} answered {method} with {error.code().name} ({error.details()}), which is not an error "
            f"of {DOMAIN}: check that an env server listens there, and read its log"
        )
        return self._spoilt(channel, failure)

    def _spoilt(self, channel: grpc.Channel, error: ContractError | ServerError) -> CallLostError:
        """A call whose answer may have been spoilt on the way. What headers refer to may be spoilt for good: the next
        call makes a new connection.
        """
        self._reconnect(channel, next(_connections))
        return CallLostError(str(error), spoilt=error)

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
        backoff = self.backoff("GetServerInfo", budget)
        while True:
            data = self.call("GetServerInfo", pb.GetServerInfoRequest(), budget)
            try:
                with self.reading("GetServerInfo"):
                    info = _server_info(data)
                    self.checksums = checksum.FEATURE in info.features
                    return info
            except CallLostError as error:
                backoff.wait(error)

    def answers(self) -> bool:
        """Whether the server answers within seconds, over a new connection if not over this one."""
        for _ in range(2):
            asked = self._channel
            try:
                self.attempt("GetServerInfo", pb.GetServerInfoRequest(), _PING_SECONDS)
                return True
            except CallLostError as error:
                if not error.late:
                    return False
                self._reconnect(asked, next(_connections))  # gRPC takes a link that swallows everything for a good one
        return False

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

    def _metadata(self, method: str, data: bytes) -> tuple[tuple[str, str], ...]:
        token = self._endpoint.token
        metadata = (("authorization", f"Bearer {token}"),) if token else ()
        return (*metadata, (checksum.HEADER, checksum.request_checksum(method, data))) if self.checksums else metadata

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
        """Reports an answer to `method` that cannot be read within this context as ServerBrokenError, and one that was
        spoilt on the way as CallLostError.
        """
        channel = self._channel
        try:
            yield
        except CorruptedError as error:
            broken = ServerBrokenError(f"{self.address} answered {method} in a way that makes no sense: {error}")
            raise self._spoilt(channel, broken) from None
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
        self._spoilt = 0
        self._longest = _FIRST_CALL_SECONDS
        self._since = self._told = time.monotonic()

    @property
    def patience(self) -> float:
        """Seconds for which the next attempt should wait for its answer."""
        longest = min(self._longest, _CALL_SECONDS)
        if self._limit is None:
            return longest
        return min(longest, max(self._since + self._limit - time.monotonic(), _FIRST_PAUSE))

    def wait(self, error: CallLostError | ContractError) -> None:
        """Pauses after a failed attempt.

        Raises when the budget is used up: ServerLostError after a lost call, or the refusal itself; and what came of a
        call that was spoilt again and again. A call that was
        given up because it took too long does not count against the budget while the server answers others, but
        against the limit: ServerStuckError.
        """
        channel = self._channel
        if isinstance(error, CallLostError) and error.spoilt is not None:
            self._spoilt += 1
            if self._spoilt == _MAX_SPOILT:
                raise error.spoilt
            _logger.warning("%s %s: %s; trying again", channel.address, self._method, error)
            return
        self._spoilt = 0
        if isinstance(error, CallLostError) and error.late:
            self._longest *= 2
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


def _server_info(data: bytes) -> pb.GetServerInfoResponse:
    """Raises CorruptedError if its bytes changed on the way."""
    try:
        info = pb.GetServerInfoResponse.FromString(data)
    except DecodeError as error:
        raise CorruptedError(str(error)) from None
    if info.HasField("checksum") or checksum.FEATURE in info.features:
        checksum.check_response("GetServerInfo", data)
    return info
