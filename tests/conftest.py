"""Fixtures of several packages: a server with the toy envs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from overworld.host.process import ServerProcess

from tests.support.toy_env import ENVS


@pytest.fixture(scope="session")
def toy_server() -> Iterator[ServerProcess]:
    """A server shared by tests that do not change it."""
    with ServerProcess(*ENVS, arguments=("--workers", "2", "--slots", "32", "--allow-expert")) as server:
        yield server
