"""One call over the wire, as JSON: what a line of a trace holds."""

from __future__ import annotations

import base64
import gzip
import json
import mmap
import os
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc
import xxhash
from google.protobuf import json_format
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from overworld.v1 import env_pb2 as pb

from tests.traces.server import TOKEN

Line = dict[str, Any]
"""A call: {"call": number, "method", "request", "response" or "refused"}, and "authorization" where it is not the
server's token. A request is JSON, or base64 of bytes that need not be a message. The method "SIGTERM" is the signal,
without request and response.
"""

LEFT_OUT = (
    ("GetServerInfo", "instance"),  # a random id
    ("GetServerInfo", "versions"),  # of the installed packages
    ("Open", "shared.path"),  # an address on this machine
    ("Open", "shared.nonce"),  # random
    ("Step", "results.*.micros"),  # a time
    *((method, "checksum") for method in ("GetServerInfo", "Open", "Step", "Close")),  # of these as well
)
"""Method and field of all that is not recorded. (Sessions are named by the script, so their ids are. Leases are not
measured, so they are, too.) The bytes of frames are recorded as their number and XXH64."""

_REQUESTS: dict[str, type[Message]] = {
    "GetServerInfo": pb.GetServerInfoRequest,
    "Open": pb.OpenRequest,
    "Step": pb.StepRequest,
    "Close": pb.CloseRequest,
}
_RESPONSES: dict[str, type[Message]] = {
    "GetServerInfo": pb.GetServerInfoResponse,
    "Open": pb.OpenResponse,
    "Step": pb.StepResponse,
    "Close": pb.CloseResponse,
}
_SERVICE = pb.DESCRIPTOR.services_by_name["EnvService"].full_name
_SECONDS = 120.0


class Wire:
    """A channel to a server, without any of the SDK's client. Close it, or use it as a context manager."""

    def __init__(self, server: Any) -> None:
        self._process = server.process
        self._channel = grpc.insecure_channel(server.address, [("grpc.max_receive_message_length", -1)])
        self._shared: dict[str, mmap.mmap] = {}

    def __enter__(self) -> Wire:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()

    def call(self, line: Line) -> Line:
        """The line with what the server answers now."""
        method = line["method"]
        asked: Line = {key: line[key] for key in ("call", "method", "authorization", "request") if key in line}
        if method == "SIGTERM":
            self._terminate()
            return asked
        sent = line["request"]
        data = base64.b64decode(sent) if isinstance(sent, str) else _message(method, sent).SerializeToString()
        try:
            answer = self._send(method, data, line.get("authorization", f"Bearer {TOKEN}"))
        except grpc.RpcError as error:
            return asked | {"refused": _refusal(error)}
        response = _RESPONSES[method].FromString(answer)
        as_json = _json(response)
        if isinstance(response, pb.OpenResponse):
            self._map(sent["session"], response.shared)
        if isinstance(response, pb.StepResponse):
            self._check_frames(line["call"], sent["session"], response)
            if response.frames:
                as_json["frames"] = {"bytes": len(response.frames), "xxh64": xxhash.xxh64_hexdigest(response.frames)}
        for where, field in LEFT_OUT:
            if where == method:
                remove(as_json, field)
        return asked | {"response": as_json}

    def _send(self, method: str, data: bytes, authorization: str) -> bytes:
        call: Any = self._channel.unary_unary(f"/{_SERVICE}/{method}", None, None)
        metadata = (("authorization", authorization),) if authorization else ()
        answer: bytes = call(data, timeout=_SECONDS, metadata=metadata)
        return answer

    def _terminate(self) -> None:
        """SIGTERM, and the wait until the server drains."""
        self._process.terminate()
        deadline = time.monotonic() + _SECONDS
        while time.monotonic() < deadline:
            info = pb.GetServerInfoResponse.FromString(self._send("GetServerInfo", b"", f"Bearer {TOKEN}"))
            if info.draining:
                return
            time.sleep(0.01)
        raise TimeoutError(f"the server does not drain {_SECONDS:g} s after SIGTERM")

    def _map(self, session: str, shared: pb.SharedMemory) -> None:
        self._shared.pop(session, None)
        if shared.path:
            fd = os.open(shared.path, os.O_RDONLY)
            try:
                memory = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
            finally:
                os.close(fd)
            assert len(memory) == shared.size, "the shared memory has another size than was said"
            assert memory[-len(shared.nonce) :] == shared.nonce, "the shared memory does not end with its nonce"
            self._shared[session] = memory

    def _check_frames(self, call: int, session: str, response: pb.StepResponse) -> None:
        """Each image's hash is that of the bytes where the response says that they are."""
        memory = self._shared.get(session, response.frames)
        for result in response.results:
            for image in result.observation.images:
                block = response.blocks[image.block]
                assert image.index < block.count, f"call {call}, slot {result.slot}: an image lies outside of its block"
                start = block.offset + image.index * block.stride
                pixels = memory[start : start + block.height * block.width * block.channels]
                assert xxhash.xxh64_intdigest(pixels) == image.xxh64, (
                    f"call {call}, slot {result.slot}: the hash of the image {image.name!r} is not that of its pixels"
                )


def read_trace(path: Path) -> list[Line]:
    """The lines of a trace."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def write_trace(path: Path, lines: Sequence[Line]) -> None:
    """The same lines give the same bytes."""
    text = "".join(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n" for line in lines)
    path.write_bytes(gzip.compress(text.encode(), mtime=0))


def as_request(message: Message) -> Line:
    """A message as it stands in a line."""
    return _json(message)


def as_response(line: Line) -> Any:
    """The message that a line answers, without what is left out and without frames; None for a refusal."""
    if "response" not in line:
        return None
    content = {key: value for key, value in line["response"].items() if key != "frames"}
    return json_format.ParseDict(content, _RESPONSES[line["method"]]())


def remove(content: Any, field: str) -> None:
    """Removes a dotted field, * standing for each entry of a list, where it is."""
    first, _, rest = field.partition(".")
    if first == "*":
        for entry in content:
            remove(entry, rest)
    elif first in content:
        if rest:
            remove(content[first], rest)
        else:
            del content[first]


def _message(method: str, content: Line) -> Message:
    return json_format.ParseDict(content, _REQUESTS[method]())


def _json(message: Message) -> Line:
    """Field by field in the order of their names: maps have none of their own."""
    content = json_format.MessageToDict(message, preserving_proto_field_name=True)
    ordered: Line = json.loads(json.dumps(content, sort_keys=True))
    return ordered


def _refusal(error: grpc.RpcError) -> Line:
    refusal: Line = {"code": error.code().name, "message": error.details()}
    metadata: Any = error.trailing_metadata() or ()
    for key, value in metadata:
        if key == "grpc-status-details-bin":
            status = status_pb2.Status.FromString(value)
            refusal["status"] = {"code": status.code, "message": status.message, "details": _details(status)}
    return refusal


def _details(status: status_pb2.Status) -> list[Line]:
    details = []
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        details.append(_json(info) if detail.Unpack(info) else {"type": detail.TypeName()})
    return details
