"""The registry in Redis: env servers announce themselves there, clients look them up."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from overworld.errors import SettingsError
from overworld.registry import Announced
from overworld.service import bounds
from overworld.service.addresses import is_loopback
from overworld.service.credentials import Credentials
from overworld.service.extras import needs_extra
from overworld.service.tls import diagnose

with needs_extra("redis"):
    import redis
    import redis.asyncio

_logger = logging.getLogger(__name__)

_PREFIX = "overworld:server:"
_ALIVE_SECONDS = 15
_ANNOUNCE_SECONDS = 5.0
_TIMEOUT_SECONDS = 5.0

_MAX_SCANNED = 20_000
_ADDRESS = re.compile(r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):[0-9]{1,5}")
_NAME = re.compile(r"[A-Za-z0-9._:-]{1,253}")
_ENV = re.compile(r"[\x21-\x7e]{1,200}")


class RedisRegistry:
    """What servers have announced in the Redis at `url`.

    Raises SettingsError for what is not the URL of a Redis, and for one beyond this machine that is not to be talked to
    without TLS.
    """

    def __init__(self, url: str, credentials: Credentials) -> None:
        self._url = url
        self._credentials = credentials
        self._redis = redis.Redis.from_url(url, **connection_arguments(url, credentials))

    def servers(self, env_id: str) -> list[str]:
        """Addresses of the servers that announced the env. Empty, with a warning, if Redis cannot be reached."""
        return [address for address, envs in self._announced() if env_id in envs]

    def known_envs(self) -> list[str]:
        """What all servers have announced."""
        return sorted({env for _, envs in self._announced() for env in envs})

    def _announced(self) -> list[tuple[Announced, list[str]]]:
        """Address and env ids of each server."""
        try:
            keys = self._keys()
            with self._redis.pipeline(transaction=False) as asking:
                for key in keys:
                    asking.getrange(key, 0, bounds.ENTRY)  # not all of what is too long to be an entry
                entries = asking.execute(raise_on_error=False)
        except redis.RedisError as error:
            _logger.warning("the registry in Redis cannot be reached: %s", _words(error, self._url, self._credentials))
            return []
        return [read for entry in entries if (read := _read(entry))]

    def _keys(self) -> list[bytes]:
        """Keys of entries, a bounded number. No user can crowd out all others."""
        keys: list[bytes] = []
        of_user: Counter[bytes] = Counter()
        passed_over = 0
        for scanned, key in enumerate(self._redis.scan_iter(f"{_PREFIX}*", count=1000)):
            user = key.removeprefix(_PREFIX.encode()).rpartition(b":")[0]
            of_user[user] += 1
            if len(keys) == bounds.ENTRIES or (user and of_user[user] > bounds.ENTRIES_OF_USER):
                passed_over += 1
            else:
                keys.append(key)
            if scanned == _MAX_SCANNED:
                break
        if passed_over:
            _logger.warning(
                "the registry in Redis has too many entries (%d are read, %d of one user at most); %d were passed over",
                bounds.ENTRIES, bounds.ENTRIES_OF_USER, passed_over,
            )  # fmt: skip
        return keys


def connection_arguments(url: str, credentials: Credentials) -> dict[str, Any]:
    """Arguments of `from_url`. Files are read at each connection, so that they may change. Raises as RedisRegistry."""
    arguments: dict[str, Any] = {"socket_timeout": _TIMEOUT_SECONDS, "socket_connect_timeout": _TIMEOUT_SECONDS}
    if credentials.redis_password:
        arguments["password"] = credentials.redis_password
    try:
        parts = urlsplit(url)
        redis.Redis.from_url(url)
    except ValueError as error:
        raise SettingsError(f"{url!r} is not a registry: {error}; it looks like rediss://host:6379/0") from None
    if parts.scheme == "redis" and not credentials.plaintext and not is_loopback(parts.hostname or "localhost"):
        raise SettingsError(
            f"the Redis at {parts.hostname} would be talked to without TLS: use rediss://, or say plaintext=true"
        )
    if parts.scheme == "rediss" and credentials.tls is not None:
        folder, files = credentials.tls.folder, credentials.tls.files
        if files.authority is not None:
            arguments["ssl_ca_certs"] = str(folder / "ca.crt")
        if files.chain is not None:
            arguments |= {"ssl_certfile": str(folder / "tls.crt"), "ssl_keyfile": str(folder / "tls.key")}
    return arguments


async def announce(
    url: str, credentials: Credentials, instance: str, address: str, name: str, envs: Sequence[str]
) -> None:
    """Announces a server until cancelled, then withdraws it. Redis may come and go meanwhile.

    `name` is that of the server's certificate, if that is not the address's host.
    """
    user = urlsplit(url).username
    key = f"{_PREFIX}{user}:{instance}" if user else _PREFIX + instance  # a user may be allowed only keys of his own
    entry = json.dumps({"address": address, "envs": list(envs)} | ({"name": name} if name else {}))
    client = redis.asyncio.Redis.from_url(url, **connection_arguments(url, credentials))
    reachable = True
    try:
        while True:
            try:
                await client.set(key, entry, ex=_ALIVE_SECONDS)
                reachable = True
            except redis.RedisError as error:
                if reachable:
                    why = await asyncio.to_thread(_words, error, url, credentials)
                    _logger.warning("not announced, Redis cannot be reached: %s", why)
                reachable = False
            await asyncio.sleep(_ANNOUNCE_SECONDS)
    finally:
        try:
            await client.delete(key)
        except redis.RedisError as error:
            _logger.warning("not withdrawn from Redis (the entry ends by itself): %s", error)
        await client.aclose()


def _words(error: redis.RedisError, url: str, credentials: Credentials) -> str:
    """What is to be done about TLS, if that is what is wrong, else the error's own words."""
    parts = urlsplit(url)
    why = ""
    if "ssl" in str(error).lower():
        host = parts.hostname or "localhost"
        address = f"[{host}]" if ":" in host else host
        why = diagnose(f"{address}:{parts.port or 6379}", host, credentials.tls, secure=parts.scheme == "rediss")
    return why or str(error)


def _read(entry: object) -> tuple[Announced, list[str]] | None:
    """Address and env ids in an entry, if it is one of ours; whatever else is there is passed over."""
    if not isinstance(entry, bytes) or not 0 < len(entry) <= bounds.ENTRY:
        return None
    try:
        fields = json.loads(entry)
        address, envs, name = fields["address"], fields["envs"], fields.get("name", "")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    if not isinstance(address, str) or not _ADDRESS.fullmatch(address):
        return None
    if not isinstance(name, str) or (name and not _NAME.fullmatch(name)):
        return None
    if not isinstance(envs, list) or len(envs) > bounds.ENTRY_ENVS:
        return None
    if not all(isinstance(env, str) and _ENV.fullmatch(env) for env in envs):
        return None
    return Announced(address, name), envs
