"""A stack of docker-compose.yml under a project name of its own."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

from tests.support.ports import free_port

ROOT = Path(__file__).parents[2]
VERSION = (ROOT / "VERSION").read_text().strip()
FILES = ("docker-compose.yml", "examples/own_env/compose.yml", "tests/compose/ranks.yml", "tests/compose/frail.yml")
SERVERS = ("redis", "gym-cards", "miniworld", "alfworld", "webshop", "treasure", "policy-server")
"""What `docker compose up` starts."""
SECONDS = 180.0
SECRETS = "/run/secrets/overworld"


Done = subprocess.CompletedProcess[str]


def run(*command: str, check: bool = True, environment: dict[str, str] | None = None) -> Done:
    """Runs a command in the repository's root; what it said is in the error."""
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | (environment or {}), capture_output=True, text=True, timeout=1800
    )
    if check and done.returncode:
        said = done.stdout[-3000:] + done.stderr[-3000:]
        raise AssertionError(f"{' '.join(command)} ended with {done.returncode}: {said}")
    return done


class Stack:
    """Containers, networks and volumes of one project."""

    def __init__(self, name: str, **variables: str) -> None:
        self.name = name
        self.port = free_port()
        self.variables = {
            "POLICY_PORT": str(self.port),
            "ENV_SERVER_CPUS": str(min(2, os.cpu_count() or 1)),
            "TRAIN_SETTINGS": "tests/compose/small.yaml",
            "TRAIN_ENV": "gym_cards/NumberLine",
            **variables,
        }

    def tokens(self, service: str) -> dict[str, str]:
        """The newest token of each name in a service's file."""
        lines = self.execute(service, "cat", f"{SECRETS}/tokens").stdout.splitlines()
        return dict(line.split(": ") for line in lines)

    @property
    def policy_key(self) -> str:
        """The policy server's key, read as the README says."""
        return self.execute("policy-server", "cat", "/run/secrets/policy/key").stdout

    def compose(self, *arguments: str, check: bool = True, **variables: Any) -> Done:
        """`docker compose` with these arguments."""
        files = [part for file in FILES for part in ("--file", file)]
        command = (
            "docker",
            "compose",
            "--ansi",
            "never",
            "--project-name",
            self.name,
            *files,
            "--profile",
            "train",
            *arguments,
        )
        return run(*command, check=check, environment=self.variables | variables)

    def up(self, *services: str, **variables: str) -> None:
        """Starts services and what they depend on, and waits until these are healthy."""
        self.compose("up", "--detach", "--no-build", *services, check=True, **variables)

    def down(self) -> None:
        """Takes everything away."""
        self.compose("down", "--volumes", "--remove-orphans")

    def identity(self, service: str) -> str:
        """The id of a service's container."""
        (identity,) = self.compose("ps", "--all", "--quiet", service).stdout.split()
        return identity

    def container(self, service: str) -> dict[str, Any]:
        """What the engine says of a service's container."""
        (container,) = json.loads(run("docker", "inspect", self.identity(service)).stdout)
        return container

    def execute(self, service: str, *command: str, check: bool = True) -> Done:
        """Runs a command in a service's container."""
        return self.compose("exec", "-T", service, *command, check=check)

    def python(self, service: str, code: str) -> str:
        """Runs Python in a service's container; what it printed."""
        return self.execute(service, "python3", "-c", code).stdout

    def logs(self, service: str) -> list[str]:
        """What the service's container said on stdout, then on stderr, line by line."""
        said = run("docker", "logs", self.identity(service))
        return (said.stdout + said.stderr).splitlines()

    def updates(self, name: str) -> int:
        """How many updates a run has made."""
        found = self.execute("policy-server", "cat", f"/runs/{name}/metrics.jsonl", check=False)
        return len(found.stdout.splitlines()) if found.returncode == 0 else 0

    def wait(self, what: str, condition: Any, seconds: float = SECONDS) -> None:
        """Waits until a condition holds."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                states, logs = self.compose("ps", "--all").stdout, self.compose("logs", "--tail", "10").stdout
                raise AssertionError(f"not {what} after {seconds:g} s:\n{states}\n{logs}")
            time.sleep(0.3)

    def state(self, service: str) -> tuple[str, int]:
        """Whether its container runs, and the status that it ended with last."""
        state = self.container(service)["State"]
        return state["Status"], state["ExitCode"]

    def restarts(self, service: str) -> int:
        """How often its container was started again."""
        count: int = self.container(service)["RestartCount"]
        return count

    def healthy(self, service: str) -> bool:
        """Whether its container is up and well."""
        state = self.container(service)["State"]
        return state["Status"] == "running" and state.get("Health", {}).get("Status") == "healthy"

    def crash(self, service: str) -> None:
        """Kills all processes in the container, as the kernel does when memory is short."""
        before = self.container(service)["RestartCount"]
        self.execute(service, "sh", "-c", "kill -9 -1", check=False)
        self.wait(f"{service} restarted", lambda: self.container(service)["RestartCount"] == before + 1, 60)
