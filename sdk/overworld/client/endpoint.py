"""An env server as a client connects to it: with TLS or without, under which name, with which token."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import grpc

from overworld.errors import ServerUntrustedError
from overworld.registry import Announced
from overworld.service.addresses import host_of
from overworld.service.credentials import Credentials
from overworld.service.tls import diagnose

_DIAGNOSIS_SECONDS = 5.0
_NOT_TLS = ("Connection refused", "DNS", "resolution", "GOAWAY")


class Endpoint:
    """The server at "host:port", for a client with these credentials.

    Raises ServerUntrustedError for one that a registry names and that cannot prove that the token is meant for it.
    """

    def __init__(self, address: str, credentials: Credentials) -> None:
        self.address = address
        self.credentials = credentials
        self.name = _expected_name(address, credentials)
        """That its certificate must have, and that its token goes by."""
        self._secure = credentials.secures(address)
        self._version = 0
        self._diagnosed = -math.inf
        self._diagnosis = ""

    def __repr__(self) -> str:
        return f"<Endpoint {self.address}, {'TLS' if self._secure else 'plaintext'}>"

    @property
    def token(self) -> str:
        """As it is now, for its file may change; '' if there is none."""
        tokens = self.credentials.tokens
        return (tokens.token(self.name) or "") if tokens else self.credentials.token

    def connect(self, options: Sequence[tuple[str, Any]]) -> grpc.Channel:
        """A channel of gRPC's, with the certificates as they are now."""
        options = list(options)
        if not self._secure:
            return grpc.insecure_channel(self.address, options)
        if self.name != host_of(self.address):
            options += [("grpc.ssl_target_name_override", self.name), ("grpc.default_authority", self.name)]
        folder = self.credentials.tls
        if folder is None:
            return grpc.secure_channel(self.address, grpc.ssl_channel_credentials(), options)
        files = folder.files
        self._version = folder.version
        return grpc.secure_channel(
            self.address, grpc.ssl_channel_credentials(files.authority, files.key, files.chain), options
        )

    @property
    def outdated(self) -> bool:
        """Whether the certificates have changed since `connect`: gRPC would keep those that it was given."""
        folder = self.credentials.tls
        return folder is not None and bool(folder.files) and folder.version != self._version

    def diagnose(self, details: str) -> str:
        """Whether a call that was lost with these details was lost because of TLS, in words; '' if not.

        Connects to find out, every few seconds at most.
        """
        if any(words in details for words in _NOT_TLS):
            return ""
        now = time.monotonic()
        if now - self._diagnosed > _DIAGNOSIS_SECONDS:
            self._diagnosed = now
            self._diagnosis = diagnose(self.address, self.name, self.credentials.tls, secure=self._secure)
        return self._diagnosis


def _expected_name(address: str, credentials: Credentials) -> str:
    host = host_of(address)
    if not isinstance(address, Announced):
        return host
    if credentials.secures(address):
        if credentials.token and not credentials.own_authority:
            raise ServerUntrustedError(
                f"the token is not sent to {address}, which a registry names: anybody may have a certificate of a "
                "public authority; name the folder with your own ca.crt, tls=DIR, or give each server a token of its "
                "own, tokens=FILE"
            )
        return address.name
    if credentials.token:
        raise ServerUntrustedError(
            f"the token is not sent to {address}, which a registry names and no certificate proves: use TLS, tls=DIR, "
            "or name the servers' tokens in a file, tokens=FILE, or their addresses, servers=HOST:PORT,..."
        )
    return host
