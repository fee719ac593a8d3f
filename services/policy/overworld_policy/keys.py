"""API keys: whose request it is."""

from __future__ import annotations

import hmac
from pathlib import Path

from overworld.service.tokens import TokenFile


class Keys:
    """One key for all, or a file of them by name, or none. Raises SettingsError for a file that cannot be used."""

    def __init__(self, key: str, file: Path | None) -> None:
        self._key = key
        self._file = TokenFile(file) if file else None

    def __repr__(self) -> str:
        return f"<Keys: {self._file or ('one key' if self._key else 'none')}>"

    def owner(self, sent: str) -> str | None:
        """The name that goes with a key, '' where there are no names; None if the key is none of these."""
        if self._file is not None:
            return self._file.owner(sent)
        return "" if not self._key or hmac.compare_digest(sent.encode(), self._key.encode()) else None
