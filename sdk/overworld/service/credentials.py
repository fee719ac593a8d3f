"""What a client shows to env servers and Redis, and what it wants to be shown by them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from overworld.errors import SettingsError
from overworld.service.addresses import host_of, is_loopback
from overworld.service.tls import TlsFolder
from overworld.service.tokens import TokenFile


@dataclass(frozen=True, kw_only=True, repr=False)
class Credentials:
    """Tokens for env servers, certificates, and Redis' password.

    token           Sent to each env server, one that Redis names only if its certificate proves that it is ours.
    tokens          Or: a token for each env server, by the name that its certificate, or its address, has.
    tls             The certificate to show, and the ca.crt to trust.
    plaintext       Whether env servers and Redis beyond this machine are talked to without TLS.
    redis_password  Of the user that the URL names, or of Redis' default user.

    Raises ValueError for a token that cannot be sent.
    """

    token: str = ""
    tokens: TokenFile | None = None
    tls: TlsFolder | None = None
    plaintext: bool = False
    redis_password: str = ""

    def __post_init__(self) -> None:
        if not self.token.isascii() or not self.token.isprintable():
            raise ValueError("a token is printable ASCII; check OVERWORLD_TOKEN for line ends")

    def __repr__(self) -> str:
        token = "a token" if self.token else self.tokens
        return f"<Credentials: {token or 'no token'}, {self.tls or 'no certificates'}>"

    @classmethod
    def load(
        cls, *, token: str, tokens: Path | None, tls: Path | None, plaintext: bool, redis_password: str = ""
    ) -> Self:
        """From the settings of these names. Raises SettingsError."""
        if token and tokens:
            raise SettingsError("token and tokens are both set; keep one")
        if tls and plaintext:
            raise SettingsError("tls and plaintext are both set; keep one")
        return cls(
            token=token,
            tokens=TokenFile(tokens) if tokens else None,
            tls=TlsFolder(tls, server=False) if tls else None,
            plaintext=plaintext,
            redis_password=redis_password,
        )

    def secures(self, address: str) -> bool:
        """Whether the server at "host:port" is talked to over TLS: if certificates are named, or beyond loopback."""
        return self.tls is not None or not (self.plaintext or is_loopback(host_of(address)))

    @property
    def own_authority(self) -> bool:
        """Whether only servers of an authority of one's own are trusted."""
        return self.tls is not None and self.tls.files.authority is not None
