"""Refusals on the wire: a google.rpc.Status with an ErrorInfo, in the trailing metadata of a failed call."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from overworld.errors import ContractError, Reason

DOMAIN = "overworld.v1"
"""The `domain` of every ErrorInfo."""

_STATUS_KEY = "grpc-status-details-bin"


def status_code(reason: Reason) -> grpc.StatusCode:
    """The gRPC status of a call that is refused for `reason`. Raises ValueError for a reason of SlotError."""
    if reason.status is None:
        raise ValueError(f"{reason.name} is a reason why a slot fails; calls are not refused for it")
    return grpc.StatusCode[reason.status]


def trailing_metadata(error: ContractError) -> tuple[tuple[str, bytes], ...]:
    """The google.rpc.Status of `error` as gRPC carries it."""
    info = any_pb2.Any()
    info.Pack(error_details_pb2.ErrorInfo(reason=error.reason.name, domain=DOMAIN))
    code, _ = status_code(error.reason).value
    status = status_pb2.Status(code=code, message=error.message, details=[info])
    return ((_STATUS_KEY, status.SerializeToString()),)


def from_rpc_error(error: grpc.RpcError) -> ContractError | None:
    """The refusal inside a failed call; None for any other failure, such as a call lost in transit."""
    metadata: Any = error.trailing_metadata() or ()
    for key, value in metadata:
        if key != _STATUS_KEY:
            continue
        try:
            status = status_pb2.Status.FromString(value)
            for detail in status.details:
                info = error_details_pb2.ErrorInfo()
                if detail.Unpack(info) and info.domain == DOMAIN and info.reason in Reason.__members__:
                    return ContractError(Reason[info.reason], status.message)
        except DecodeError:  # not ours, or spoilt on the way
            return None
    return None
