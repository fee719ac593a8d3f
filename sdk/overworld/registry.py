"""Where env servers are: a fixed list of addresses, or Redis, in which servers announce themselves.

Redis holds hints only: who says to be alive. The truth is what a server answers, and whose it is, its certificate says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, Self, runtime_checkable

from overworld.service.addresses import host_of
from overworld.service.credentials import Credentials


class Announced(str):
    """An address that somebody has announced, which proves nothing.

    `name` is the one that its certificate is said to have.
    """

    name: str

    def __new__(cls, address: str, name: str = "") -> Self:
        """As str's, with a name."""
        announced = super().__new__(cls, address)
        announced.name = name or host_of(address)
        return announced


@runtime_checkable
class Registry(Protocol):
    """Tells addresses of env servers."""

    def servers(self, env_id: str) -> list[str]:
        """Addresses "host:port" of servers that may host the env, in no special order."""

    def known_envs(self) -> list[str]:
        """Env ids that servers are known to host, sorted; a registry that does not know says none."""


class StaticRegistry:
    """A fixed list."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = list(addresses)

    def servers(self, env_id: str) -> list[str]:
        """All addresses."""
        return self._addresses

    def known_envs(self) -> list[str]:
        """None: addresses tell nothing of envs."""
        return []


def open_registry(where: str, credentials: Credentials | None = None) -> Registry:
    """From a setting: "rediss://host:port/0", or addresses separated by commas.

    Raises SettingsError for a wrong URL, and for a Redis beyond this machine without TLS, unless the credentials say
    plaintext.
    """
    if where.startswith(("redis://", "rediss://", "unix://")):
        from overworld.redis_registry import RedisRegistry  # only this needs the package redis

        return RedisRegistry(where, credentials or Credentials())
    return StaticRegistry([address.strip() for address in where.split(",") if address.strip()])
