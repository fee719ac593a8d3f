"""Calls to one env server: which of them are repeated, and for how long."""

from __future__ import annotations

import logging
import random
import threading
import time
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import Message

from overworld.env import EnvSpec
from overworld.errors import Retry, from_rpc_error
from overworld.v1 import env_pb2 as pb
from overworld.wire import spec_from_proto

_logger = logging.getLogger(__name__)

_SERVICE = "/" + pb.DESCRIPTOR.services_by_name["EnvService"].full_name
_CALL_SECONDS = 60.0
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


class ServerLostError(Exception):
    """The server did not answer within the retry budget. It may or may not have executed the call."""


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
        self.address = address
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self._budget = retry_budget
        self._channel = grpc.insecure_channel(address, _OPTIONS)
        self._closed = threading.Event()

    def close(self) -> None:
        """Ends running calls."""
        self._closed.set()
        self._channel.close()

    def info(self) -> ServerInfo:
        """GetServerInfo."""
        data = self.call("GetServerInfo", pb.GetServerInfoRequest())
        message = pb.GetServerInfoResponse.FromString(data)
        return ServerInfo(
            message.instance,
            message.revision,
            tuple(message.features),
            dict(message.versions),
            message.slots_total,
            message.slots_free,
            message.draining,
            {env.id: spec_from_proto(env) for env in message.envs},
        )

    def call(self, method: str, request: Message, budget: float | None = None) -> bytes:
        """The serialised response. Repeats a call that got lost, or that the server asks to repeat later, for `budget`
        seconds (the channel's by default).

        Raises ContractError if the server refuses, ServerLostError when the budget is used up, grpc.RpcError for what
        is neither.
        """
        stub: Any = self._channel.unary_unary(f"{_SERVICE}/{method}", _serialised, bytes)
        budget = self._budget if budget is None else budget
        deadline = time.monotonic() + budget
        pause = _FIRST_PAUSE
        while True:
            try:
                response: bytes = stub(request, timeout=_CALL_SECONDS, metadata=self._metadata)
                return response
            except grpc.RpcError as error:
                refusal = from_rpc_error(error)
                if refusal is not None and refusal.reason.retry is not Retry.LATER:
                    raise refusal from None
                if refusal is None and (error.code() not in _LOST_IN_TRANSIT or self._closed.is_set()):
                    raise
                if time.monotonic() + pause > deadline:
                    if refusal is not None:
                        raise refusal from None
                    raise ServerLostError(
                        f"no answer from the env server at {self.address} within {budget:g} s "
                        f"({error.code().name}: {error.details()}); is it running, and is the address right?"
                    ) from None
                if pause == _FIRST_PAUSE:
                    why: object = refusal or f"{error.code().name}: {error.details()}"
                    _logger.warning("%s %s: %s; trying again for %g s", self.address, method, why, budget)
            self._closed.wait(pause * random.uniform(0.5, 1.0))
            pause = min(pause * 2, _LONGEST_PAUSE)


def _serialised(message: Message) -> bytes:
    return message.SerializeToString()


def server_info(address: str, token: str = "", retry_budget: float = 5.0) -> ServerInfo:
    """Asks the server at `address` who it is. Raises as `Channel.call` does."""
    channel = Channel(address, token, retry_budget)
    try:
        return channel.info()
    finally:
        channel.close()
