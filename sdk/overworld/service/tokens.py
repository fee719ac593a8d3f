"""Bearer tokens by name: a file with lines `name: token`.

On a server the names are those of its clients. A name may have two tokens, so that one can be exchanged without a call
being refused: the new one is added here, then given to the client, then the old one is deleted here. On a client the
names are those of the servers that get the token; of two, the last is sent.
"""

from __future__ import annotations

import hmac
import os
import re
from collections.abc import Mapping
from pathlib import Path

from overworld.errors import SettingsError
from overworld.service import bounds
from overworld.service.reload import Reloaded

_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{bounds.CLIENT_NAME - 1:d}}}")
_MAX_BYTES = 1 << 20


class TokenFile:
    """The file `path`, read again when it changes. Raises SettingsError if it cannot be read at first."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = Reloaded(f"the tokens of {path}", [path], lambda: read_tokens(path))

    def __repr__(self) -> str:
        return f"<TokenFile: tokens of {', '.join(self._file.current)}>"

    def owner(self, sent: str) -> str | None:
        """The name that a token belongs to, in a time that does not depend on the token."""
        found = None
        for name, tokens in self._file.current.items():
            for token in tokens:
                if hmac.compare_digest(sent.encode(), token.encode()):
                    found = name
        return found

    def token(self, name: str) -> str | None:
        """The token to send to the server of that name."""
        tokens = self._file.current.get(name.lower())
        return tokens[-1] if tokens else None


def read_tokens(path: Path) -> Mapping[str, tuple[str, ...]]:
    """Tokens by name, in the file's order. Raises SettingsError, which shows no token."""
    try:
        with path.open("rb") as stream:
            content = stream.read(_MAX_BYTES + 1)
    except OSError as error:
        raise SettingsError(
            f"tokens: {path} cannot be read ({error.strerror}); make the file and let user {os.getuid()} read it"
        ) from None
    if len(content) > _MAX_BYTES:
        raise SettingsError(f"tokens: {path} is larger than {_MAX_BYTES:,} bytes")
    tokens: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(content.decode("ascii", errors="replace").splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, colon, token = (part.strip() for part in line.partition(":"))
        where = f"tokens: line {number} of {path}"
        if not colon or not _NAME.fullmatch(name):
            raise SettingsError(f"{where} must be `name: token`, with a name of 1 to 63 letters, digits and . _ -")
        if not 0 < len(token) <= bounds.TOKEN or not token.isascii() or not token.isprintable():
            raise SettingsError(f"{where}: a token is 1 to {bounds.TOKEN} printable ASCII characters")
        known = tokens.get(name.lower(), ())
        if len(known) == bounds.CLIENT_TOKENS:
            raise SettingsError(
                f"{where}: {name} has {bounds.CLIENT_TOKENS} tokens already; delete the one that is out of use"
            )
        tokens[name.lower()] = (*known, token)
    if not tokens or len(tokens) > bounds.CLIENT_NAMES:
        raise SettingsError(f"tokens: {path} has {len(tokens)} names; it must have 1 to {bounds.CLIENT_NAMES}")
    return tokens
