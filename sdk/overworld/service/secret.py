"""Secrets: in the environment, or in a file that it names, as Docker and Kubernetes mount them."""

from __future__ import annotations

import os
from pathlib import Path

from overworld.errors import SettingsError

_MAX_BYTES = 4096


def secret(name: str) -> str:
    """The secret `name`, e.g. OVERWORLD_TOKEN: that variable, or what the file holds that OVERWORLD_TOKEN_FILE names.

    White space around a file's content is dropped. Empty if neither is set. Raises SettingsError for a file that does
    not hold a secret or cannot be read, or if both are set.
    """
    value, file = os.environ.get(name, ""), os.environ.get(f"{name}_FILE", "")
    if not file:
        return value
    if value:
        raise SettingsError(f"{name} and {name}_FILE are both set; keep one")
    try:
        with Path(file).open("rb") as stream:
            content = stream.read(_MAX_BYTES + 1)
    except OSError as error:
        raise SettingsError(
            f"{name}_FILE: {file} cannot be read ({error.strerror}); make the file and let user {os.getuid()} read it"
        ) from None
    text = content.strip().decode("ascii", errors="replace")
    if not text or len(content) > _MAX_BYTES or not text.isascii() or not text.isprintable():
        raise SettingsError(f"{name}_FILE: {file} must hold one line of 1 to {_MAX_BYTES} printable ASCII characters")
    return text
