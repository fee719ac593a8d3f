"""What a check found, and how messages of a server that is not trusted are shown."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from google.protobuf import text_format
from google.protobuf.message import Message

from overworld.v1 import env_pb2 as pb

_SHOWN_CHARS = 400
_SHOWN_BYTES = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A rule that a server or an env broke, and how that was seen."""

    rule: str
    check: str
    env: str
    sent: str
    came: str
    expected: str

    def as_json(self) -> dict[str, str]:
        """For `--json`."""
        return asdict(self)


class StopCheckError(Exception):
    """A check cannot continue, since what it builds on was refused; the finding is recorded."""


class SkipCheckError(Exception):
    """A check does not apply to this server; the message says why."""


class ServerGoneError(Exception):
    """The server does not answer any more."""


def shortened(text: str, limit: int = _SHOWN_CHARS) -> str:
    """`text` without control characters and cut to `limit` characters, so that it can be printed."""
    cut = text[:limit]
    printable = "".join(character if character.isprintable() else ascii(character)[1:-1] for character in cut)
    return printable if len(text) <= limit else f"{printable} ... ({len(text):,} characters)"


def shown(message: Message | bytes) -> str:
    """A message in one line, without its frames."""
    if isinstance(message, bytes):
        return f"{len(message):,} bytes {message[:16]!r}"
    name = message.DESCRIPTOR.name
    copy = type(message)()
    copy.CopyFrom(message)
    note = ""
    if isinstance(copy, pb.StepResponse) and copy.frames:
        note = f" and {len(copy.frames):,} bytes of frames"
        copy.ClearField("frames")
    if (size := copy.ByteSize()) > _SHOWN_BYTES:
        return f"{name} of {size:,} bytes{note}"
    text = text_format.MessageToString(copy, as_one_line=True, as_utf8=False)
    return f"{name}({shortened(text)}){note}"
