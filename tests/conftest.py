"""Fixtures of several packages, and how tests are spread over worker processes."""

from __future__ import annotations

import os
from collections.abc import Iterator

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is loaded, here or in a child: tests run side by side

import pytest
from overworld.host.process import ServerProcess
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests.support.toy_env import ENVS

WHOLE = (
    "tests/faults/trainer/test_ranks.py",  # trains the run that all others are compared with, as the next one does
    "tests/faults/trainer/test_restarts.py",
    "tests/fuzz/test_wire.py",  # starts a server that all its tests use
    "tests/integration/policy/test_api.py",  # starts a policy server, as the next three do
    "tests/integration/policy/test_bounds.py",
    "tests/integration/policy/test_hang_ups.py",
    "tests/integration/policy/test_images.py",
    "tests/k8s/test_k8s.py",  # has kubectl render all overlays
    "tests/unit/envs/miniworld/test_pixels.py",  # has stock MiniWorld draw all episodes
)
"""Files whose fixtures take long to make: one worker runs all their tests."""

APART = 20
"""Tests that are sent out between two of these files."""


class Scheduling(LoadScopeScheduling):  # type: ignore[misc] # pytest-xdist has no types
    """Sends tests of the files in WHOLE to one worker, and others to whichever is free.

    Not `--dist loadgroup`: pytest-xdist 3.8 marks groups in an attribute that pytest 9.2 no longer reads.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return file if file in WHOLE else nodeid


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Has the files in WHOLE, which compute, take turns with the first of the others, many of which wait."""
    whole: dict[str, list[pytest.Item]] = {file: [] for file in WHOLE}
    others: list[pytest.Item] = []
    for item in items:
        whole.get(item.nodeid.partition("::")[0], others).append(item)
    items.clear()
    for tests in whole.values():
        items += tests + others[:APART]
        del others[:APART]
    items += others


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling:
    return Scheduling(config, log)


@pytest.fixture(scope="session")
def toy_server() -> Iterator[ServerProcess]:
    """A server shared by tests that do not change it."""
    with ServerProcess(*ENVS, arguments=("--workers", "2", "--slots", "32", "--allow-expert")) as server:
        yield server
