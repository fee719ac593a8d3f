"""The settings that every command has which talks to env servers."""

from __future__ import annotations

import functools
from pathlib import Path

from pydantic import Field

from overworld.service.credentials import Credentials
from overworld.service.settings import Settings


class ClientSettings(Settings):
    """Base of the settings of a client of env servers."""

    token: str = Field(default="", description="bearer token of the env servers", repr=False, exclude=True)
    tokens: Path | None = Field(
        default=None, description="file of lines `server: token` instead, read again when it changes"
    )
    tls: Path | None = Field(
        default=None,
        description="folder with ca.crt to trust and, to show to servers, tls.crt and tls.key; read again when changed",
    )
    plaintext: bool = Field(default=False, description="talk without TLS to env servers and Redis beyond loopback")
    redis_password: str = Field(default="", description="password of the URL's user in Redis", repr=False, exclude=True)

    @functools.cached_property
    def credentials(self) -> Credentials:
        """What these settings make. Raises SettingsError for files that cannot be used."""
        return Credentials.load(
            token=self.token,
            tokens=self.tokens,
            tls=self.tls,
            plaintext=self.plaintext,
            redis_password=self.redis_password,
        )
