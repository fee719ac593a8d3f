"""A connection to the server under check: raw bytes to and fro, calls with deadlines, answers with bounds."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from overworld.check.findings import shortened, shown
from overworld.client.endpoint import Endpoint
from overworld.contract import checksum
from overworld.contract.frames import split_response
from overworld.contract.status import DOMAIN
from overworld.v1 import env_pb2 as pb

SERVICE = pb.DESCRIPTOR.services_by_name["EnvService"].full_name
_MAX_ANSWER_BYTES = 256 << 20
_STATUS_KEY = "grpc-status-details-bin"

RESPONSES: dict[str, type[Message]] = {
    "GetServerInfo": pb.GetServerInfoResponse,
    "Open": pb.OpenResponse,
    "Step": pb.StepResponse,
    "Close": pb.CloseResponse,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A call that failed. `reason` is that of its ErrorInfo, empty if it has none."""

    code: str
    message: str
    reason: str = ""
    domain: str = ""
    problem: str = ""
    """What is wrong with its google.rpc.Status; empty if nothing is."""

    def __str__(self) -> str:
        return f"{self.code} {self.reason or 'without a reason'}: {shortened(self.message, 200)}"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answer:
    """What came back: a response or a refusal."""

    method: str
    request: Message | bytes
    response: Any = None
    refusal: Refusal | None = None
    seconds: float
    data: bytes = b""
    """The response as it came."""

    @property
    def size(self) -> int:
        """Bytes of the response."""
        return len(self.data)

    @property
    def corrupted(self) -> str:
        """What is wrong with the response's checksum; empty if nothing is, or if it has none."""
        try:
            if isinstance(self.response, pb.StepResponse):
                split_response(self.data)
            elif self.response.HasField("checksum"):
                checksum.check_response(self.method, self.data)
        except checksum.CorruptedError as error:
            return str(error)
        return ""

    @property
    def sent(self) -> str:
        """The call in one line."""
        return f"{self.method} {shown(self.request)}"

    @property
    def came(self) -> str:
        """The answer in one line."""
        return str(self.refusal) if self.refusal is not None else shown(self.response)

    @property
    def commands(self) -> int:
        """How many commands were sent."""
        return len(self.request.commands) if isinstance(self.request, pb.StepRequest) else 0

    @property
    def late(self) -> bool:
        """Whether nothing came before the deadline."""
        return self.refusal is not None and self.refusal.code == "DEADLINE_EXCEEDED" and not self.refusal.reason

    @property
    def lost(self) -> bool:
        """Whether the connection failed."""
        return self.refusal is not None and self.refusal.code == "UNAVAILABLE" and not self.refusal.reason


class Running:
    """A call under way."""

    def __init__(self, method: str, request: Message | bytes, future: Any, inspect: Callable[[Answer], None]) -> None:
        self._method, self._request, self._future, self._inspect = method, request, future, inspect
        self._started = time.monotonic()
        self._ended = 0.0
        future.add_done_callback(self._note_end)

    def _note_end(self, _: object) -> None:
        self._ended = time.monotonic()

    @property
    def done(self) -> bool:
        """Whether it has been answered."""
        return bool(self._future.done())

    def cancel(self) -> None:
        """Hangs up."""
        self._future.cancel()

    def wait(self) -> Answer:
        """Its answer, at its deadline at the latest."""
        answer = self._answer()
        self._inspect(answer)
        return answer

    def _answer(self) -> Answer:
        refusal, response, data = None, None, b""
        try:
            data = self._future.result()
            response = RESPONSES[self._method].FromString(data)
        except grpc.FutureCancelledError:
            refusal = Refusal(code="CANCELLED", message="given up by the checker")
        except grpc.RpcError as error:
            refusal = _refusal(error)
        except DecodeError:
            refusal = Refusal(code="OK", message=f"the answer is not a {RESPONSES[self._method].DESCRIPTOR.name}")
        return Answer(
            method=self._method,
            request=self._request,
            response=response,
            refusal=refusal,
            seconds=(self._ended or time.monotonic()) - self._started,
            data=data,
        )


class Wire:
    """A connection to an endpoint. `inspect` is called with each answer of the contract's calls."""

    def __init__(
        self,
        endpoint: Endpoint,
        token: str,
        timeout: float,
        inspect: Callable[[Answer], None] = lambda answer: None,
        options: Sequence[tuple[str, int]] = (),
    ) -> None:
        self.endpoint = endpoint
        self.address = endpoint.address
        self.token = token
        self.timeout = timeout
        self.inspect = inspect
        # A pool of its own: else gRPC shares the connection with other channels, and one of the checks closes its own.
        bounds = [
            ("grpc.max_receive_message_length", _MAX_ANSWER_BYTES),
            ("grpc.max_send_message_length", -1),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_retries", 0),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 500),
        ]
        self.channel = endpoint.connect([*bounds, *options])

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Of every call but those of health."""
        return (("authorization", f"Bearer {self.token}"),) if self.token else ()

    def another(self, *, token: str | None = None, options: Sequence[tuple[str, int]] = ()) -> Wire:
        """One more connection to the same endpoint, with the same token unless another is given."""
        return Wire(self.endpoint, self.token if token is None else token, self.timeout, self.inspect, options)

    def close(self) -> None:
        """Hangs up."""
        self.channel.close()

    def start(
        self, method: str, request: Message | bytes, timeout: float | None = None, *, header: str = ""
    ) -> Running:
        """Sends a call; `header` is its checksum."""
        data = request if isinstance(request, bytes) else request.SerializeToString()
        stub: Any = self.channel.unary_unary(f"/{SERVICE}/{method}")
        metadata = (*self.metadata, (checksum.HEADER, header)) if header else self.metadata
        future = stub.future(data, timeout=self.timeout if timeout is None else timeout, metadata=metadata)
        return Running(method, request, future, self.inspect)

    def call(self, method: str, request: Message | bytes, timeout: float | None = None, *, header: str = "") -> Answer:
        """Sends a call and waits for its answer."""
        return self.start(method, request, timeout, header=header).wait()


def _refusal(error: Any) -> Refusal:
    code, message = error.code().name, error.details() or ""
    found = [value for key, value in error.trailing_metadata() or () if key == _STATUS_KEY]
    if len(found) != 1:
        return Refusal(code=code, message=message, problem=f"its metadata hold {len(found)} of {_STATUS_KEY}")
    try:
        status = status_pb2.Status.FromString(found[0])
    except DecodeError:
        return Refusal(code=code, message=message, problem=f"{_STATUS_KEY} is not a google.rpc.Status")
    infos = []
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        try:
            if detail.Unpack(info):
                infos.append(info)
        except DecodeError:
            return Refusal(code=code, message=message, problem="its ErrorInfo cannot be decoded")
    named = [info for info in infos if info.domain == DOMAIN] or infos
    if not named:
        kinds = [shortened(detail.type_url, 80) for detail in status.details]
        return Refusal(code=code, message=message, problem=f"its Status has the details {kinds} and no ErrorInfo")
    info, problem = named[0], ""
    if info.domain != DOMAIN:
        problem = f"its ErrorInfo has the domain {shortened(info.domain, 80)!r}, not {DOMAIN!r}"
    elif len(named) > 1:
        problem = f"its Status has {len(named)} ErrorInfos of {DOMAIN}"
    elif status.code != error.code().value[0]:
        problem = f"its Status has the code {status.code}, the call {error.code().value[0]} ({code})"
    elif status.message != message:
        problem = f"its Status says {shortened(status.message, 80)!r}, the call {shortened(message, 80)!r}"
    return Refusal(code=code, message=message, reason=info.reason, domain=info.domain, problem=problem)
