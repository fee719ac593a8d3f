"""`overworld serve ENV ...`: an env server."""

from __future__ import annotations

from collections.abc import Sequence

from overworld.host.config import ServerConfig
from overworld.host.server import bracketed, serve
from overworld.service import log


def main(arguments: Sequence[str]) -> int:
    """Serves until a signal."""
    config = ServerConfig.load(arguments, "overworld serve")
    log.configure()

    def announce(port: int) -> None:
        envs = " ".join(config.envs)
        print(f"overworld: {envs}, {config.slots} slots, listening on {bracketed(config.host)}:{port}", flush=True)

    serve(config, announce)
    return 0
