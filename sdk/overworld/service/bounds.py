"""How much others may send, keep and take of an env server and of those who read Redis, in one table.

Each bound is checked before the work that it bounds. proto/README.md shows the table, and a test compares the two.
"""

from __future__ import annotations

from typing import Self

from overworld.errors import ContractError, Reason

_KIB, _MIB = 1 << 10, 1 << 20


class Bound(int):
    """A number with its unit, what has at most so much of it, and what happens beyond: a refusal, or something else."""

    unit: str
    what: str
    beyond: Reason | str

    def __new__(cls, most: int, unit: str, what: str, beyond: Reason | str) -> Self:
        """As int's, with what it means."""
        bound = super().__new__(cls, most)
        bound.unit, bound.what, bound.beyond = unit, what, beyond
        return bound

    def check(self, size: int) -> None:
        """Raises ContractError for a size beyond it."""
        if size > self:
            assert isinstance(self.beyond, Reason)
            what = self.what.partition(";")[0]
            raise ContractError(self.beyond, f"{what}: {size:,}; at most {self:,} {self.unit}".rstrip())

    @property
    def amount(self) -> str:
        """For people."""
        for scale, unit in ((_MIB, "MiB"), (_KIB, "KiB")):
            if self.unit == "bytes" and self >= scale:
                return f"{self // scale:,} {unit}"
        return f"{self:,} {self.unit}".rstrip()


# A client whose token has not been checked: kilobytes for each of its calls.
CONNECTIONS = Bound(4096, "", "connections to a server, or half of its file descriptors", "closed at once")
HANDSHAKE = Bound(5, "s", "until a new connection speaks HTTP/2, and TLS where that is on", "closed")
IDLE = Bound(120, "s", "a connection without a call", "closed; clients connect again")
STREAMS = Bound(1024, "", "calls under way on a connection", "they wait at the client, as HTTP/2 has it")
HEADERS = Bound(16 * _KIB, "bytes", "the headers of a call", "RESOURCE_EXHAUSTED, from gRPC")
UNREAD = Bound(64 * _KIB, "bytes", "what is kept of a call's request before its token is checked", "it is not read")
WATCHES = Bound(256, "", "clients that watch the health", "RESOURCE_EXHAUSTED")
UNREADABLE = Bound(50, "s", "for which a client may leave what it is sent unread", "the connection is closed")

# The owner of a token; --quota and --quotas have other numbers for calls and bytes.
CALLS = Bound(1024, "", "calls of a client under way", Reason.QUOTA_EXCEEDED)
RECEIVED = Bound(16, "", "requests of a client that are received at a time", "the others are not read yet")
RECEIVING = Bound(20, "s", "until a request is there", "the call is cut off")
REQUESTS = Bound(64 * _MIB, "bytes", "requests of a client's calls under way", Reason.QUOTA_EXCEEDED)
RESPONSES = Bound(2, "", "responses to Step that a session has made or sent at a time", "the others wait")
FRAMES = Bound(
    128 * _MIB, "bytes", "frames in responses on their way to a client", "they wait; a larger one goes alone"
)

# Requests.
SMALL_REQUEST = Bound(64 * _KIB, "bytes", "a request of GetServerInfo or Close", Reason.REQUEST_INVALID)
OPEN_REQUEST = Bound(256 * _KIB, "bytes", "a request of Open", Reason.REQUEST_INVALID)
STEP_REQUEST = Bound(16 * _MIB, "bytes", "a request of Step", "RESOURCE_EXHAUSTED, from gRPC")
SESSION_NAME = Bound(36, "characters", "a session's name, which is a UUID", Reason.REQUEST_INVALID)
FEATURES = Bound(32, "", "required features", Reason.REQUEST_INVALID)
OPTIONS = Bound(64 * _KIB, "bytes", "options_json, and so its keys", Reason.OPTIONS_INVALID)
LEASE = Bound(120, "s", "a lease", "it is shortened")
COMMANDS = Bound(
    4096, "", "commands of a Step, counted before they are parsed; its session's slots", Reason.REQUEST_INVALID
)
PREFIX = Bound(100_000, "", "actions in a prefix; max_turns, where the env has that", Reason.REQUEST_INVALID)
PREFIXES = Bound(
    1_000_000, "", "actions in all prefixes of a Step, counted before they are parsed", Reason.REQUEST_INVALID
)
EPISODE = Bound(
    2 * _MIB, "bytes", "actions of an episode without replies, which are kept to replay them", Reason.REQUEST_INVALID
)
VOCABULARY_TEXT = Bound(4096, "bytes", "an action's text, where the env has a vocabulary", Reason.ACTION_TOO_LARGE)
REPLY = Bound(64 * _KIB, "bytes", "Action.reply", Reason.ACTION_TOO_LARGE)

# Work; the first two are settings.
SLOT_IMAGES = Bound(16 * _MIB, "bytes", "the images of one observation (--slot-bytes)", Reason.FRAMES_TOO_LARGE)
STEP = Bound(60, "s", "a step, and each turn of a prefix (--step-timeout)", Reason.STEP_TIMEOUT)
PREFIX_STEPS = Bound(10, "", "a reset with all of its prefix, in the time that a step may take", Reason.STEP_TIMEOUT)
MAKING = Bound(120, "s", "making an env", Reason.STEP_TIMEOUT)

# Files of tokens.
CLIENT_NAME = Bound(63, "characters", "the name of a token", "the file is refused")
CLIENT_NAMES = Bound(256, "", "names in a file of tokens", "the file is refused")
CLIENT_TOKENS = Bound(2, "", "tokens of a name", "the file is refused")
TOKEN = Bound(4096, "characters", "a token", "the file is refused")

# The port of /metrics and /health.
METRICS_CONNECTIONS = Bound(16, "", "connections to the port of /metrics", "the oldest is closed")
METRICS = Bound(5, "s", "for which a client there may be silent", "closed")

# The port for OpenEnv; the first one holds for the policy server, too.
HTTP_HEAD = Bound(10, "s", "until the head of an HTTP request is there", "closed")
OPENENV_BODY = Bound(10, "s", "until its body is there", Reason.REQUEST_INVALID)
OPENENV_MESSAGE = Bound(4 * _MIB, "bytes", "a message or body of OpenEnv", Reason.REQUEST_INVALID)
OPENENV_WAITING = Bound(64, "", "WebSockets beyond one for each slot", "CAPACITY_REACHED")
OPENENV_UNSEATED = Bound(60, "s", "a WebSocket that plays no episode", "closed")

# What is read of Redis.
ENTRIES = Bound(1024, "", "entries that are read", "passed over, with a warning")
ENTRIES_OF_USER = Bound(256, "", "of one of its users", "passed over, with a warning")
ENTRY = Bound(64 * _KIB, "bytes", "an entry", "passed over")
ENTRY_ENVS = Bound(1024, "", "envs in an entry", "passed over")
ASKED = Bound(32, "", "announced servers that a client asks at a time", "they are asked next")


def table() -> str:
    """All bounds, in Markdown."""
    rows = ["| at most | of | beyond it |", "| --- | --- | --- |"]
    for bound in globals().values():
        if isinstance(bound, Bound):
            beyond = f"`{bound.beyond.name}`" if isinstance(bound.beyond, Reason) else bound.beyond
            rows.append(f"| {bound.amount} | {bound.what} | {beyond} |")
    return "\n".join(rows)
