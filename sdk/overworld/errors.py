"""The errors of the contract: one table of reasons, shared by host and client and printed in proto/README.md."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

DOMAIN = "overworld.v1"
"""The `domain` of every ErrorInfo."""

_STATUS_KEY = "grpc-status-details-bin"
_MAX_MESSAGE_CHARS = 1000


class Retry(enum.Enum):
    """What a client can do about an error."""

    NO = "no: the request is wrong"
    LATER = "yes, later or on another server"
    REOPEN = "open the session again and replay its episodes with Reset.prefix"
    COLLECT = "after the slot's last command has been collected"
    RESET = "reset the slot"


@dataclass(frozen=True, slots=True)
class _Row:
    code: grpc.StatusCode | None
    retry: Retry
    meaning: str


class Reason(enum.Enum):
    """Why a call was refused or a slot failed. Rows without a status code occur in SlotError only."""

    TOKEN_MISSING = _Row(grpc.StatusCode.UNAUTHENTICATED, Retry.NO, "the call carries no bearer token")
    TOKEN_WRONG = _Row(grpc.StatusCode.UNAUTHENTICATED, Retry.NO, "the bearer token is not the server's")
    REQUEST_INVALID = _Row(grpc.StatusCode.INVALID_ARGUMENT, Retry.NO, "a field is missing or out of its bounds")
    ENV_UNKNOWN = _Row(grpc.StatusCode.NOT_FOUND, Retry.NO, "the server does not host this env")
    ENV_FAILED = _Row(grpc.StatusCode.FAILED_PRECONDITION, Retry.NO, "the env could not be made with these options")
    OPTIONS_INVALID = _Row(grpc.StatusCode.INVALID_ARGUMENT, Retry.NO, "options_json does not fit the options_schema")
    FEATURE_MISSING = _Row(grpc.StatusCode.FAILED_PRECONDITION, Retry.NO, "the server or env lacks a required feature")
    EXPERT_NOT_ALLOWED = _Row(grpc.StatusCode.PERMISSION_DENIED, Retry.NO, "the server does not give expert advice")
    NO_FREE_SLOTS = _Row(grpc.StatusCode.RESOURCE_EXHAUSTED, Retry.LATER, "other sessions hold the slots")
    DRAINING = _Row(grpc.StatusCode.UNAVAILABLE, Retry.LATER, "the server is shutting down and opens no sessions")
    SESSION_CONFLICT = _Row(grpc.StatusCode.ALREADY_EXISTS, Retry.NO, "another session has this name")
    SESSION_UNKNOWN = _Row(
        grpc.StatusCode.NOT_FOUND, Retry.REOPEN, "the session's lease ended, it was closed, or the server was restarted"
    )
    SLOT_UNKNOWN = _Row(grpc.StatusCode.OUT_OF_RANGE, Retry.NO, "the session has no slot of this number")
    SLOT_REPEATED = _Row(grpc.StatusCode.INVALID_ARGUMENT, Retry.NO, "two commands of one batch name the same slot")
    SPLIT_UNKNOWN = _Row(grpc.StatusCode.INVALID_ARGUMENT, Retry.NO, "the env has no such split")
    TASK_UNKNOWN = _Row(grpc.StatusCode.OUT_OF_RANGE, Retry.NO, "the split has no task of this number")
    ACTION_TOO_LARGE = _Row(grpc.StatusCode.INVALID_ARGUMENT, Retry.NO, "an action or reply exceeds its bound")
    CONFLICT = _Row(grpc.StatusCode.ALREADY_EXISTS, Retry.NO, "another command had this slot, episode and turn")
    STALE = _Row(grpc.StatusCode.FAILED_PRECONDITION, Retry.NO, "the slot is past this episode or turn")
    BUSY = _Row(grpc.StatusCode.FAILED_PRECONDITION, Retry.COLLECT, "the slot's last command is still running")
    NOT_RESET = _Row(grpc.StatusCode.FAILED_PRECONDITION, Retry.RESET, "the slot has no episode to act in")
    EPISODE_ENDED = _Row(grpc.StatusCode.FAILED_PRECONDITION, Retry.RESET, "the episode is over")
    TURN_SKIPPED = _Row(grpc.StatusCode.FAILED_PRECONDITION, Retry.NO, "the turn is not the one that the command makes")

    ENV_ERROR = _Row(None, Retry.RESET, "the env raised an exception")
    FRAMES_TOO_LARGE = _Row(None, Retry.RESET, "the observation's images exceed the server's bound per slot")
    PREFIX_TOO_LONG = _Row(None, Retry.RESET, "the episode ended within Reset.prefix")
    STEP_TIMEOUT = _Row(None, Retry.RESET, "the step ran into the server's time limit; its process was replaced")
    WORKER_DIED = _Row(None, Retry.RESET, "the process that ran the step died and was replaced")
    REBUILD_MISMATCH = _Row(None, Retry.RESET, "replaying the episode after a crash gave another state")

    @property
    def code(self) -> grpc.StatusCode | None:
        """The gRPC status of a refused call; None for reasons of SlotError."""
        return self.value.code

    @property
    def retry(self) -> Retry:
        """What a client can do."""
        return self.value.retry

    @property
    def meaning(self) -> str:
        """One line for people."""
        return self.value.meaning


class ContractError(Exception):
    """A call that was refused, or a slot that failed, for a `Reason`."""

    def __init__(self, reason: Reason, message: str) -> None:
        if len(message) > _MAX_MESSAGE_CHARS:  # it travels in HTTP/2 headers, which are bounded
            message = message[:_MAX_MESSAGE_CHARS] + " ..."
        super().__init__(f"{reason.name}: {message}")
        self.reason = reason
        self.message = message


def trailing_metadata(error: ContractError) -> tuple[tuple[str, bytes], ...]:
    """The google.rpc.Status of `error` as gRPC carries it."""
    assert error.reason.code is not None
    info = any_pb2.Any()
    info.Pack(error_details_pb2.ErrorInfo(reason=error.reason.name, domain=DOMAIN))
    status = status_pb2.Status(code=error.reason.code.value[0], message=error.message, details=[info])
    return ((_STATUS_KEY, status.SerializeToString()),)


def from_rpc_error(error: grpc.RpcError) -> ContractError | None:
    """The contract's error inside a failed call; None for any other failure, such as a call lost in transit."""
    metadata: Any = error.trailing_metadata() or ()
    for key, value in metadata:
        if key != _STATUS_KEY:
            continue
        try:
            status = status_pb2.Status.FromString(value)
        except DecodeError:
            return None
        for detail in status.details:
            info = error_details_pb2.ErrorInfo()
            if detail.Unpack(info) and info.domain == DOMAIN and info.reason in Reason.__members__:
                return ContractError(Reason[info.reason], status.message)
    return None
