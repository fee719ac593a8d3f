"""The engine that these tests need, and the stack that they share."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Iterator

import pytest

from tests.compose.stack import SERVERS, Stack


def missing() -> str:
    """Why no stack can be run here, or ''."""
    for command in (["docker", "info"], ["docker", "compose", "version"]):
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            return 'there is no docker here; as root on Debian 12: eval "$(.ci/docker_engine start)"'
        if done.returncode:
            return f"`{' '.join(command)}` fails: {done.stderr.strip().splitlines()[-1]}"
    return ""


@pytest.fixture(scope="session", autouse=True)
def engine() -> None:
    """Skips where there is no engine, unless REQUIRE_DOCKER=1 says that there must be one."""
    why = missing()
    if why and os.environ.get("REQUIRE_DOCKER") == "1":
        pytest.fail(f"REQUIRE_DOCKER=1, but {why}")
    if why:
        pytest.skip(why)


@pytest.fixture(scope="session")
def stack(engine: None) -> Iterator[Stack]:
    """The stack as `docker compose up` starts it, with images built from this working tree and secrets of its own."""
    stack = Stack(f"overworld-test-{uuid.uuid4().hex[:8]}")
    try:
        stack.compose("build")
        stack.compose("up", "--detach", "--no-build", "--wait", *SERVERS)
        yield stack
    finally:
        stack.down()
