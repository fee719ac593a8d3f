"""`overworld ps HOST:PORT ...`: env servers, their envs and free slots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from overworld.client.channel import server_info
from overworld.client.settings import ClientSettings
from overworld.errors import OverworldError


class PsConfig(ClientSettings):
    """Shows env servers, their envs and free slots."""

    positional: ClassVar[tuple[str, ...]] = ("servers",)

    servers: list[str] = Field(min_length=1, description="addresses, host:port")
    timeout: float = Field(default=5.0, gt=0, description="seconds to wait for each")


def main(arguments: Sequence[str]) -> int:
    """Prints a table; status 1 if a server does not answer."""
    config = PsConfig.load(arguments, "overworld ps")
    rows = [("SERVER", "ENV", "SLOTS FREE", "STATE")]
    failures = 0
    for address in config.servers:
        try:
            info = server_info(address, retry_budget=config.timeout, credentials=config.credentials)
        except OverworldError as error:
            failures += 1
            rows.append((address, "", "", str(error)))
            continue
        state = "draining" if info.draining else "serving"
        rows += [(address, env_id, f"{info.slots_free} of {info.slots_total}", state) for env_id in info.envs]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 1 if failures else 0
