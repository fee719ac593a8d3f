"""What tests share: the toy env and servers that run it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from overworld.host.process import ServerProcess

_HERE = str(Path(__file__).parent)
sys.path.insert(0, _HERE)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (_HERE, os.environ.get("PYTHONPATH"))))

TOY_ENVS = ("toy:Toy", "toy:Commands", "toy:Search", "toy:Reach", "toy:Slow", "toy:Gated")


@pytest.fixture(scope="session")
def toy_server():
    """A server for tests that leave it as it is."""
    with ServerProcess(*TOY_ENVS, arguments=("--workers", "2", "--slots", "32", "--allow-expert")) as server:
        yield server
