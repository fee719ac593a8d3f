"""TLS from a folder as cert-manager and Kubernetes make it: tls.crt and tls.key, ca.crt for whom to trust.

For a server, ca.crt means that clients must show a certificate that it has issued (mutual TLS). A client shows tls.crt
if it is there, and trusts ca.crt, or without one what this machine trusts. The files are read again when they change.
"""

from __future__ import annotations

import os
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from overworld.errors import SettingsError
from overworld.service.reload import Reloaded

_CHAIN, _KEY, _AUTHORITY = "tls.crt", "tls.key", "ca.crt"
_NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME, which the module ssl has no name for
_MAX_BYTES = 1 << 20
_DIAGNOSIS_SECONDS = 2.0
_EXPIRED, _NOT_YET_VALID, _WRONG_NAMES = 10, 9, (62, 64)
_UNKNOWN_ISSUERS = (18, 19, 20, 21)
"""OpenSSL's X509_V_ERR_*."""


@dataclass(frozen=True, slots=True, repr=False)
class Certificate:
    """What a certificate says."""

    names: tuple[str, ...]
    """Host names and addresses that it is for; host names first."""
    starts: float
    ends: float
    """Seconds since 1970 of the first and last moment at which it is valid."""

    def __repr__(self) -> str:
        return f"<Certificate for {', '.join(self.names)} until {_date(self.ends)}>"

    def covers(self, host: str) -> bool:
        """Whether it is for the host, by name or by its domain's wildcard."""
        return not {host.lower(), f"*.{host.lower().partition('.')[2]}"}.isdisjoint(map(str.lower, self.names))

    @classmethod
    def decoded(cls, fields: Mapping[str, Any]) -> Certificate:
        """From what `ssl.SSLSocket.getpeercert` gives."""
        alternatives: tuple[tuple[str, str], ...] = fields.get("subjectAltName", ())
        names = [name for kind, name in alternatives if kind == "DNS"]
        names += [name for kind, name in alternatives if kind == "IP Address"]
        times = (ssl.cert_time_to_seconds(fields[key]) for key in ("notBefore", "notAfter"))
        return cls(tuple(names), *times)


@dataclass(frozen=True, slots=True, repr=False)
class TlsFiles:
    """The content of a folder, as PEM; None where there is no such file."""

    chain: bytes | None
    key: bytes | None
    authority: bytes | None
    certificate: Certificate | None
    """That of a server."""


class TlsFolder:
    """The files in `folder`. Raises SettingsError if they cannot be used for a server, or a client, at first."""

    def __init__(self, folder: Path, *, server: bool) -> None:
        self.folder = folder
        self._server = server
        self._mutual: bool | None = None
        files = [folder / name for name in (_CHAIN, _KEY, _AUTHORITY)]
        self._files = Reloaded(f"the certificates in {folder}", files, self._read)
        self._mutual = self.files.authority is not None

    def __repr__(self) -> str:
        return f"<TlsFolder {self.folder}: {self.files.certificate}>"

    @property
    def files(self) -> TlsFiles:
        """What it holds now, or held when that could be used the last time."""
        return self._files.current

    @property
    def version(self) -> int:
        """How often it has changed."""
        return self._files.version

    def server_context(self, *, clients: bool) -> ssl.SSLContext:
        """For a server that asks `clients` for certificates, or does not. Raises SettingsError."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.load(context)
        if clients and not (self.folder / _AUTHORITY).exists():
            raise SettingsError(f"tls: {self.folder / _AUTHORITY} is not there, by which clients are to be checked")
        if clients:
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def client_context(self) -> ssl.SSLContext:
        """For a client. Raises SettingsError."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.load(context)
        if not (self.folder / _AUTHORITY).exists():
            context.load_default_certs()
        return context

    def load(self, context: ssl.SSLContext) -> None:
        """Puts what the folder holds now into a context. Raises SettingsError."""
        chain, key, authority = (self.folder / name for name in (_CHAIN, _KEY, _AUTHORITY))
        try:
            if chain.exists():
                context.load_cert_chain(chain, key, password=lambda: "")
        except (OSError, ValueError) as error:
            raise SettingsError(f"tls: {chain} and {key} are not a certificate and its key: {error}") from None
        try:
            if authority.exists():
                context.load_verify_locations(authority)
        except (OSError, ValueError) as error:
            raise SettingsError(f"tls: {authority} holds no certificates: {error}") from None

    def _read(self) -> TlsFiles:
        chain, key, authority = (self._content(name) for name in (_CHAIN, _KEY, _AUTHORITY))
        if (chain is None) != (key is None) or (self._server and chain is None):
            raise SettingsError(f"tls: {self.folder} must hold both {_CHAIN} and {_KEY}")
        if self._mutual and authority is None:
            raise SettingsError(f"tls: {self.folder / _AUTHORITY} is gone, by which clients are checked")
        if not self._server:
            self.client_context()
            return TlsFiles(chain, key, authority, None)
        certificate = _own_certificate(self.server_context(clients=False), self.folder / _CHAIN)
        now = time.time()
        if not certificate.starts <= now <= certificate.ends:
            raise SettingsError(
                f"tls: {self.folder / _CHAIN}, for {', '.join(certificate.names)}, is valid from "
                f"{_date(certificate.starts)} to {_date(certificate.ends)}; now is {_date(now)}: renew it, or set the "
                "clock right"
            )
        return TlsFiles(chain, key, authority, certificate)

    def _content(self, name: str) -> bytes | None:
        path = self.folder / name
        try:
            with path.open("rb") as stream:
                content = stream.read(_MAX_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SettingsError(
                f"tls: {path} cannot be read ({error.strerror}); let user {os.getuid()} read it"
            ) from None
        if len(content) > _MAX_BYTES:
            raise SettingsError(f"tls: {path} is larger than {_MAX_BYTES:,} bytes")
        return content


def diagnose(address: str, name: str, folder: TlsFolder | None, *, secure: bool) -> str:
    """What is wrong with the TLS between this client and the server at "host:port", in words; '' if nothing is.

    `name` is the one that its certificate must have. Connects, with the time limit of a few seconds.
    """
    try:
        if not secure:
            return _speaks_tls(address)
        context = folder.client_context() if folder else ssl.create_default_context()
        with _connected(address, context, name) as connection:
            try:  # only now would a server of TLS 1.3 refuse the client's certificate; gRPC's do so without a word
                refused = not connection.recv(1)
            except (ConnectionResetError, ssl.SSLEOFError):
                refused = True
        return _refusal(address, folder) if refused else ""
    except ssl.SSLCertVerificationError as error:
        return _verdict(error, address, name, folder)
    except ssl.SSLError as error:
        return _alert(error, address, folder) if secure else ""  # neither side speaks TLS: that is not what is wrong
    except (OSError, ValueError, SettingsError):
        return ""  # no word of TLS


def _connected(address: str, context: ssl.SSLContext, name: str) -> ssl.SSLSocket:
    host, _, port = address.rpartition(":")
    connection = socket.create_connection((host.strip("[]"), int(port)), timeout=_DIAGNOSIS_SECONDS)
    context.set_alpn_protocols(["h2"])
    try:
        return context.wrap_socket(connection, server_hostname=name)
    except BaseException:
        connection.close()
        raise


def _speaks_tls(address: str) -> str:
    """For a client that does not."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with _connected(address, context, "localhost"):
        return f"{address} asks for TLS: name the folder with the ca.crt that has issued its certificate, tls=DIR"


def _verdict(error: ssl.SSLCertVerificationError, address: str, name: str, folder: TlsFolder | None) -> str:
    """What is wrong with the server's certificate."""
    trusted = folder.folder / _AUTHORITY if folder else "what this machine trusts"
    if error.verify_code in _UNKNOWN_ISSUERS:
        return (
            f"the certificate of {address} was not issued by {trusted} ({error.verify_message}): put the certificate "
            "of its issuer there"
        )
    context = folder.client_context() if folder else ssl.create_default_context()
    context.check_hostname = False
    context.verify_flags |= ssl.VerifyFlags(_NO_CHECK_TIME)
    with _connected(address, context, name) as connection:
        certificate = Certificate.decoded(connection.getpeercert() or {})
    names = ", ".join(certificate.names) or "nobody"
    now = _date(time.time())
    if error.verify_code == _EXPIRED:
        return (
            f"the certificate of {address}, for {names}, expired on {_date(certificate.ends)}; now is {now}: renew "
            f"that server's {_CHAIN}, or set this machine's clock right"
        )
    if error.verify_code == _NOT_YET_VALID:
        return (
            f"the certificate of {address}, for {names}, is not valid before {_date(certificate.starts)}; now is "
            f"{now}: set the clocks right, or wait"
        )
    if error.verify_code in _WRONG_NAMES:
        return (
            f"the certificate of {address} is for {names}; one for {name} was expected: give that server a certificate "
            "with this name, or use one of its names in the address"
        )
    return f"the certificate of {address}, for {names}, was refused: {error.verify_message}"


def _alert(error: ssl.SSLError, address: str, folder: TlsFolder | None) -> str:
    """What the server, or TLS itself, has against this client."""
    reason = error.reason or str(error)
    if "WRONG_VERSION_NUMBER" in reason or "RECORD_LAYER_FAILURE" in reason:
        return f"{address} does not speak TLS: start that server with tls=DIR, or talk to it with plaintext=true"
    if "CERTIFICATE" in reason or "UNKNOWN_CA" in reason or "HANDSHAKE_FAILURE" in reason:
        return _refusal(address, folder)
    return f"TLS with {address} failed: {reason}"


def _refusal(address: str, folder: TlsFolder | None) -> str:
    """The server does not want this client's certificate, or its having none."""
    if folder is None or folder.files.chain is None:
        where = f"into {folder.folder}" if folder else "into a folder, and name it with tls=DIR"
        return f"{address} asks for a client's certificate, and there is none: put {_CHAIN} and {_KEY} {where}"
    chain = folder.folder / _CHAIN
    problem = "not issued by that server's ca.crt, perhaps: have one issued by it"
    try:
        certificate = _own_certificate(folder.server_context(clients=False), chain)
    except SettingsError:
        pass  # it is one for clients alone
    else:
        now = time.time()
        if not certificate.starts <= now <= certificate.ends:
            problem = (
                f"valid from {_date(certificate.starts)} to {_date(certificate.ends)}, now is {_date(now)}: renew it"
            )
    return f"{address} refuses the certificate of this client, {chain}, {problem}"


def _own_certificate(context: ssl.SSLContext, chain: Path) -> Certificate:
    """The first certificate in `chain`, read off a handshake in memory with the `context` that it was loaded into.

    Raises SettingsError if it is not one for a server.
    """
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname = False
    trusting.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VerifyFlags(_NO_CHECK_TIME)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        trusting.load_verify_locations(chain)
        client = trusting.wrap_bio(to_client, to_server)
        server = context.wrap_bio(to_server, to_client, server_side=True)
        for side in (client, server, client):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
        return Certificate.decoded(client.getpeercert() or {})
    except (OSError, ValueError, KeyError) as error:
        raise SettingsError(f"tls: {chain} is not a certificate for a server: {error}") from None


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
