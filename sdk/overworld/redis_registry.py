"""The registry in Redis: env servers announce themselves there, clients look them up."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence

from overworld.errors import SettingsError
from overworld.service.extras import needs_extra

with needs_extra("redis"):
    import redis
    import redis.asyncio

_logger = logging.getLogger(__name__)

_PREFIX = "overworld:server:"
_ALIVE_SECONDS = 15
_ANNOUNCE_SECONDS = 5.0
_TIMEOUT_SECONDS = 5.0


class RedisRegistry:
    """What servers have announced in the Redis at `url`. Raises SettingsError for what is not the URL of a Redis."""

    def __init__(self, url: str) -> None:
        try:
            self._redis = redis.Redis.from_url(
                url, socket_timeout=_TIMEOUT_SECONDS, socket_connect_timeout=_TIMEOUT_SECONDS
            )
        except ValueError as error:
            raise SettingsError(f"{url!r} is not a registry: {error}; it looks like redis://host:6379/0") from None

    def servers(self, env_id: str) -> list[str]:
        """Addresses of the servers that announced the env. Empty, with a warning, if Redis cannot be reached."""
        return [address for address, envs in self._announced() if env_id in envs]

    def known_envs(self) -> list[str]:
        """What all servers have announced."""
        return sorted({env for _, envs in self._announced() for env in envs})

    def _announced(self) -> list[tuple[str, list[str]]]:
        """Address and env ids of each server."""
        try:
            keys = list(self._redis.scan_iter(f"{_PREFIX}*", count=1000))
            entries = self._redis.mget(keys) if keys else []
        except redis.RedisError as error:
            _logger.warning("the registry in Redis cannot be reached: %s", error)
            return []
        return [read for entry in entries if (read := _read(entry))]


async def announce(url: str, instance: str, address: str, envs: Sequence[str]) -> None:
    """Announces a server until cancelled, then withdraws it. Redis may come and go meanwhile."""
    key, entry = _PREFIX + instance, json.dumps({"address": address, "envs": list(envs)})
    client = redis.asyncio.Redis.from_url(url, socket_timeout=_TIMEOUT_SECONDS, socket_connect_timeout=_TIMEOUT_SECONDS)
    reachable = True
    try:
        while True:
            try:
                await client.set(key, entry, ex=_ALIVE_SECONDS)
                reachable = True
            except redis.RedisError as error:
                if reachable:
                    _logger.warning("not announced, Redis cannot be reached: %s", error)
                reachable = False
            await asyncio.sleep(_ANNOUNCE_SECONDS)
    finally:
        try:
            await client.delete(key)
        except redis.RedisError as error:
            _logger.warning("not withdrawn from Redis (the entry ends by itself): %s", error)
        await client.aclose()


def _read(entry: bytes | str | None) -> tuple[str, list[str]] | None:
    """Address and env ids in an entry, if it is one of ours; whatever else is there is passed over."""
    try:
        fields = json.loads(entry or "{}")
        address, envs = fields["address"], fields["envs"]
    except (ValueError, KeyError, TypeError):
        return None
    well_formed = isinstance(address, str) and isinstance(envs, list) and all(isinstance(env, str) for env in envs)
    return (address, envs) if well_formed else None
