"""An env server as a child process: for notebooks, tests and benchmarks.

with ServerProcess("gym_cards") as server:
    session = Session(server.address, "gym_cards/EZPoints", slots=8)
"""

from __future__ import annotations

from overworld.service.process import ServiceProcess


class ServerProcess(ServiceProcess):
    """`overworld serve <envs> <arguments>` on a free port of loopback. Raises ServiceError if it does not start."""

    def __init__(self, *envs: str, arguments: tuple[str, ...] = (), token: str = "", port: int = 0) -> None:
        environment = {"OVERWORLD_TOKEN": token} if token else None
        super().__init__("overworld", "serve", *envs, "--port", str(port), *arguments, environment=environment)
