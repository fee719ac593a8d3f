"""The seal of an evaluation: a line for each file with its SHA-256, as sha256sum writes and checks them.

What is read may come from a stranger: the folder's names and the lines of the seal are bounded before they are used.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from overworld.errors import EvaluationError
from overworld.evaluation.folder import (
    EPISODES,
    FRAMES,
    HEADER,
    MAX_FRAME_FILE_BYTES,
    REPORT,
    RUN,
    SEAL,
    SIGNATURE,
    USAGE,
    opened,
)

_LINE = re.compile(
    rb"([0-9a-f]{64})  (%s|%s/[0-9a-f]{16}\.png)\n"
    % ("|".join(map(re.escape, (EPISODES, HEADER, REPORT, RUN, USAGE))).encode(), FRAMES.encode())
)
_MAX_LINE_BYTES = 128


def broken(folder: Path) -> Iterator[tuple[str, str]]:
    """Each file that is not as it was sealed, and what is wrong with it.

    Raises EvaluationError if there is no seal, or no such folder.
    """
    unsealed = set(_names(folder))
    with opened(folder / SEAL) as file:
        for number, line in enumerate(iter(lambda: file.readline(_MAX_LINE_BYTES), b""), 1):
            match = _LINE.fullmatch(line)
            if match is None:
                yield (
                    SEAL,
                    f"line {number} is not a SHA-256, two spaces and a file; later ones are not read",
                )
                break
            name = match[2].decode()
            if name not in unsealed:
                yield name, "is missing, or sealed twice"
                continue
            unsealed.remove(name)
            try:
                digest = digest_of(folder / name, MAX_FRAME_FILE_BYTES if name.startswith(FRAMES) else None)
            except EvaluationError as error:
                yield name, str(error)
                continue
            if digest != match[1].decode():
                yield name, f"was changed: its SHA-256 is {digest}, sealed was {match[1].decode()}"
    for name in sorted(unsealed):
        yield name, "is not sealed: move what is not part of the evaluation to another folder"


def digest_of(path: Path, bound: int | None = None) -> str:
    """The SHA-256 of a file. Raises EvaluationError if it cannot be read, or has more bytes than `bound`."""
    with opened(path) as file:
        if bound is not None and os.fstat(file.fileno()).st_size > bound:
            raise EvaluationError(f"{path} has more than {bound:,} bytes, the bound")
        return hashlib.file_digest(file, "sha256").hexdigest()


def _names(folder: Path) -> Iterator[str]:
    """The files of a folder and those in `frames/`; without the seal and its signature."""
    try:
        for entry in os.scandir(folder):
            if entry.name == FRAMES and entry.is_dir():
                yield from (f"{FRAMES}/{frame.name}" for frame in os.scandir(entry))
            elif entry.name not in (SEAL, SIGNATURE):
                yield entry.name
    except OSError as error:
        raise EvaluationError(f"{folder} cannot be read ({error.strerror}); name a folder of an evaluation") from None
