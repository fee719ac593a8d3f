"""Calls to one env server: what is lost, what is refused, and for how long it is worth trying again."""

from __future__ import annotations

import logging
import random
import threading
import time
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message

from overworld.authoring.env import EnvSpec
from overworld.contract.status import from_rpc_error
from overworld.contract.wire import spec_from_proto
from overworld.errors import ContractError, Retry, ServerBrokenError, ServerLostError
from overworld.v1 import env_pb2 as pb

_logger = logging.getLogger(__name__)

_SERVICE = "/" + pb.DESCRIPTOR.services_by_name["EnvService"].full_name
_CALL_SECONDS = 60.0
_PING_SECONDS = 5.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0
_LOST_IN_TRANSIT = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)

_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # Notice a peer that froze or a link that died within seconds, not minutes.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # Find a restarted server soon.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.enable_retries", 0),  # gRPC's own retries would repeat calls that must not be
]


class CallLostError(Exception):
    """A call got no answer; it is worth trying again. `late`: it was given up since it took long."""

    def __init__(self, message: str, *, late: bool = False) -> None:
        super().__init__(message)
        self.late = late


@dataclass(frozen=True, slots=True)
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


class Channel:
    """A connection to the server at "host:port"."""

    def __init__(self, address: str, token: str, retry_budget: float) -> None:
        if not token.isascii() or not token.isprintable():
            raise ValueError("a token is printable ASCII; check OVERWORLD_TOKEN for line ends")
        self.address = address
        self.closed = threading.Event()
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self._budget = retry_budget
        self._channel = grpc.insecure_channel(address, _OPTIONS)

    def close(self) -> None:
        """Ends running calls."""
        self.closed.set()
        self._channel.close()

    def attempt(self, method: str, request: Message, timeout: float = _CALL_SECONDS) -> bytes:
        """The serialised response to one call.

        Raises CallLostError; ContractError if the server refuses; grpc.RpcError for what is neither.
        """
        try:
            stub: Any = self._channel.unary_unary(f"{_SERVICE}/{method}", _serialised, bytes)
            response: bytes = stub(request, timeout=timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            refusal = from_rpc_error(error)
            if refusal is not None:
                raise refusal from None
            if error.code() in _LOST_IN_TRANSIT or self.closed.is_set():
                late = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
                raise CallLostError(f"{error.code().name}: {error.details()}", late=late) from None
            raise
        except ValueError as error:  # gRPC's way to say that the channel was closed by another thread
            raise CallLostError(str(error)) from None
        return response

    def call(self, method: str, request: Message, budget: float | None = None) -> bytes:
        """As `attempt`, but tries again for `budget` seconds (the channel's by default).

        It does so when the call gets lost, or when the server asks to come back later. Raises ServerLostError instead
        of CallLostError.
        """
        backoff = self.backoff(method, budget)
        while True:
            try:
                return self.attempt(method, request, min(_CALL_SECONDS, max(backoff.budget, _PING_SECONDS)))
            except CallLostError as error:
                backoff.wait(error)
            except ContractError as error:
                if error.reason.retry is not Retry.LATER:
                    raise
                backoff.wait(error)

    def backoff(self, method: str, budget: float | None = None) -> Backoff:
        """Pauses between attempts of a call."""
        return Backoff(self, method, self._budget if budget is None else budget)

    def info(self, budget: float | None = None) -> ServerInfo:
        """GetServerInfo. Raises ServerBrokenError, and what `call` raises."""
        data = self.call("GetServerInfo", pb.GetServerInfoRequest(), budget)
        try:
            message = pb.GetServerInfoResponse.FromString(data)
            envs = {env.id: spec_from_proto(env) for env in message.envs}
        except (DecodeError, ValueError) as error:
            raise ServerBrokenError(f"{self.address} describes itself in a way that makes no sense: {error}") from None
        return ServerInfo(
            message.instance,
            message.revision,
            tuple(message.features),
            dict(message.versions),
            message.slots_total,
            message.slots_free,
            message.draining,
            envs,
        )


class Backoff:
    """Growing pauses between attempts, until nothing has been heard of the server for the budget."""

    def __init__(self, channel: Channel, method: str, budget: float) -> None:
        self.budget = budget
        self._channel = channel
        self._method = method
        self._deadline = time.monotonic() + budget
        self._pause = _FIRST_PAUSE

    def wait(self, error: CallLostError | ContractError) -> None:
        """Pauses after a failed attempt.

        Raises when the budget is used up: ServerLostError after a lost call, or the refusal itself. A call that was
        given up since it took long does not count against the budget while the server answers others.
        """
        channel = self._channel
        if isinstance(error, CallLostError) and error.late and self._answers():
            self._deadline, self._pause = time.monotonic() + self.budget, _FIRST_PAUSE
            return
        if time.monotonic() + self._pause > self._deadline:
            if isinstance(error, ContractError):
                raise error
            raise ServerLostError(
                f"no answer from the env server at {channel.address} within {self.budget:g} s ({error}); is it "
                "running, and is the address right?"
            )
        if self._pause == _FIRST_PAUSE:
            _logger.warning("%s %s: %s; trying again for %g s", channel.address, self._method, error, self.budget)
        channel.closed.wait(self._pause * random.uniform(0.5, 1.0))
        self._pause = min(self._pause * 2, _LONGEST_PAUSE)

    def _answers(self) -> bool:
        try:
            self._channel.attempt("GetServerInfo", pb.GetServerInfoRequest(), _PING_SECONDS)
        except CallLostError:
            return False
        return True


def server_info(address: str, token: str = "", retry_budget: float = 5.0) -> ServerInfo:
    """Asks the server at `address` who it is. Raises as `Channel.info` does."""
    channel = Channel(address, token, retry_budget)
    try:
        return channel.info()
    finally:
        channel.close()


def _serialised(message: Message) -> bytes:
    return message.SerializeToString()
