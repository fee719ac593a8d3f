"""The errors: one tree under `OverworldError`, and the contract's table of reasons, printed in proto/README.md.

    OverworldError
    ├── ContractError        a call was refused, or a slot failed, for a `Reason`
    ├── ServerError          an env server
    │   ├── ServerLostError      did not answer in time
    │   ├── ServerUntrustedError has not proved that it may be sent the token
    │   ├── ServerStuckError     answers, but did not finish a call in time
    │   ├── ServerBrokenError    sent what contradicts the contract
    │   ├── ServerChangedError   came back with other data, rules or options
    │   └── CallFailedError      failed a call for a reason that is not the contract's
    ├── ModelServerError     a model's server refused, failed, or sent what is not an answer
    │   ├── ModelChangedError    serves other weights under the model's name than before
    │   └── NoCheckpointError    has no checkpoint of a run
    ├── EvaluationError      an evaluation cannot be made, read or compared
    ├── EnvUnknownError      an env or simulator is not installed here
    ├── WorkerError          an env server cannot start or replace a worker
    ├── ServiceError         a child process did not start or did not end well
    ├── TransientError       a program cannot continue now, and may if it is started again
    ├── SettingsError        settings that make no sense
    └── MissingExtraError    a part of the SDK needs packages that are not installed

Each message says what was wrong, what was expected and what to do.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

_MAX_MESSAGE_CHARS = 1000


class OverworldError(Exception):
    """Base of every error that Overworld raises for its callers to catch."""


class Retry(enum.Enum):
    """What a client can do about an error."""

    NO = "no: the request is wrong"
    REPEAT = "yes: send the same request again"
    LATER = "yes, later or on another server"
    REOPEN = "open the session again and replay its episodes with Reset.prefix"
    COLLECT = "after the slot's last command has been collected"
    RESET = "reset the slot"


@dataclass(frozen=True, slots=True)
class _Row:
    status: str | None
    retry: Retry
    meaning: str


class Reason(enum.Enum):
    """Why a call was refused or a slot failed. Rows without a status code occur in SlotError only."""

    TOKEN_MISSING = _Row("UNAUTHENTICATED", Retry.NO, "the call carries no bearer token")
    TOKEN_WRONG = _Row("UNAUTHENTICATED", Retry.NO, "the bearer token is not the server's")
    CORRUPTED = _Row("DATA_LOSS", Retry.REPEAT, "the request changed on the way: its checksum is wrong")
    REQUEST_INVALID = _Row("INVALID_ARGUMENT", Retry.NO, "a field is missing or out of its bounds")
    ENV_UNKNOWN = _Row("NOT_FOUND", Retry.NO, "the server does not host this env")
    ENV_FAILED = _Row("FAILED_PRECONDITION", Retry.NO, "the env could not be made with these options")
    OPTIONS_INVALID = _Row("INVALID_ARGUMENT", Retry.NO, "options_json does not fit the options_schema")
    FEATURE_MISSING = _Row("FAILED_PRECONDITION", Retry.NO, "the server or env lacks a required feature")
    EXPERT_NOT_ALLOWED = _Row("PERMISSION_DENIED", Retry.NO, "the server does not give expert advice")
    NO_FREE_SLOTS = _Row("RESOURCE_EXHAUSTED", Retry.LATER, "other sessions hold the slots")
    QUOTA_EXCEEDED = _Row(
        "RESOURCE_EXHAUSTED", Retry.LATER, "the token's owner has as much of the server as its quota allows"
    )
    DRAINING = _Row("UNAVAILABLE", Retry.LATER, "the server is shutting down and opens no sessions")
    SESSION_CONFLICT = _Row("ALREADY_EXISTS", Retry.NO, "another session has this name")
    SESSION_UNKNOWN = _Row(
        "NOT_FOUND", Retry.REOPEN, "the session's lease ended, it was closed, or the server was restarted"
    )
    SLOT_UNKNOWN = _Row("OUT_OF_RANGE", Retry.NO, "the session has no slot of this number")
    SLOT_REPEATED = _Row("INVALID_ARGUMENT", Retry.NO, "two commands of one batch name the same slot")
    SPLIT_UNKNOWN = _Row("INVALID_ARGUMENT", Retry.NO, "the env has no such split")
    TASK_UNKNOWN = _Row("OUT_OF_RANGE", Retry.NO, "the split has no task of this number")
    ACTION_TOO_LARGE = _Row("INVALID_ARGUMENT", Retry.NO, "an action or reply exceeds its bound")
    CONFLICT = _Row("ALREADY_EXISTS", Retry.NO, "another command had this slot, episode and turn")
    STALE = _Row("FAILED_PRECONDITION", Retry.NO, "the slot is past this episode or turn")
    BUSY = _Row("FAILED_PRECONDITION", Retry.COLLECT, "the slot's last command is still running")
    NOT_RESET = _Row("FAILED_PRECONDITION", Retry.RESET, "the slot has no episode to act in")
    EPISODE_ENDED = _Row("FAILED_PRECONDITION", Retry.RESET, "the episode is over")
    TURN_SKIPPED = _Row("FAILED_PRECONDITION", Retry.NO, "the turn is not the one that the command makes")

    ENV_ERROR = _Row(None, Retry.RESET, "the env raised an exception")
    FRAMES_TOO_LARGE = _Row(None, Retry.RESET, "the observation's images exceed the server's bound per slot")
    PREFIX_TOO_LONG = _Row(None, Retry.RESET, "the episode ended within Reset.prefix")
    STEP_TIMEOUT = _Row(None, Retry.RESET, "the step ran into the server's time limit; its process was replaced")
    WORKER_DIED = _Row(None, Retry.RESET, "the process that ran the step died and was replaced")
    REBUILD_MISMATCH = _Row(None, Retry.RESET, "replaying the episode after a crash gave another state")

    @property
    def status(self) -> str | None:
        """Name of the gRPC status of a refused call; None for reasons of SlotError."""
        return self.value.status

    @property
    def retry(self) -> Retry:
        """What a client can do."""
        return self.value.retry

    @property
    def meaning(self) -> str:
        """One line for people."""
        return self.value.meaning


class ContractError(OverworldError):
    """A call that was refused, or a slot that failed, for a `Reason`."""

    def __init__(self, reason: Reason, message: str) -> None:
        if len(message) > _MAX_MESSAGE_CHARS:  # it travels in HTTP/2 headers, which are bounded
            message = message[:_MAX_MESSAGE_CHARS] + " ..."
        super().__init__(f"{reason.name}: {message}")
        self.reason = reason
        self.message = message


class ServerError(OverworldError):
    """Something is wrong with an env server or with the way to it."""


class ServerLostError(ServerError):
    """The server did not answer within the retry budget. It may or may not have executed the call."""


class ServerUntrustedError(ServerError):
    """A registry names the server, and nothing proves that it may be sent the token."""


class ServerStuckError(ServerError):
    """The server answers other calls, but did not finish this one within `step_timeout`. It may still execute it."""


class ServerBrokenError(ServerError):
    """What the server sent contradicts the contract."""


class ServerChangedError(ServerError):
    """The server came back with other data, rules or options: its episodes are not those of before."""


class CallFailedError(ServerError):
    """A call failed with a gRPC status that is neither a refusal of the contract's nor a loss in transit."""


class ModelServerError(OverworldError):
    """A model's server refused, failed, or gave an answer that cannot be read."""


class ModelChangedError(ModelServerError):
    """The server put other weights behind the model's name while it was evaluated."""


class NoCheckpointError(ModelServerError):
    """A model server has no checkpoint of a run."""


class EvaluationError(OverworldError, ValueError):
    """An evaluation that cannot be made, read or compared."""


class EnvUnknownError(OverworldError, LookupError):
    """A name that is not an installed env or simulator."""


class WorkerError(OverworldError):
    """A worker of an env server could not be started."""


class ServiceError(OverworldError):
    """A service did not start or did not end well; the message holds its last words."""


class TransientError(OverworldError):
    """A program cannot continue for a reason that may pass, such as a full volume: start it again."""


class SettingsError(OverworldError, ValueError):
    """Settings that make no sense; the message names each of them."""


class MissingExtraError(OverworldError, ImportError):
    """A part of the SDK needs packages that are not installed; the message says which extra brings them."""
