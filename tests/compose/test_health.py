"""States in which a server was useless and said that it was well: each is found, and ends by a restart.

A fourth one, places at the policy server that clients took with them when they hung up, is in test_stack.py: it needs a
checkpoint.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from tests.compose.stack import Stack

pytestmark = [pytest.mark.compose, pytest.mark.timeout(1800)]

FRAIL = "frail-policy-server"

WORKERS = """
from pathlib import Path
for folder in Path("/proc").glob("[0-9]*"):
    try:
        command = (folder / "cmdline").read_bytes().split(b"\\0")
    except OSError:  # it ended just now
        continue
    if command[1:3] == [b"-m", b"overworld.host.worker"]:
        print(folder.name, (folder / "stat").read_text().rpartition(")")[2].split()[1])
"""
"""Prints each worker's process and its parent's."""


def workers(stack: Stack, service: str) -> dict[int, int]:
    """The server's process by worker's."""
    pairs = [line.split() for line in stack.python(service, WORKERS).splitlines()]
    return {int(worker): int(server) for worker, server in pairs}


def well(stack: Stack, service: str, target: str) -> bool:
    """Whether the health check that its image has passes now."""
    return stack.execute(service, "healthcheck", target, check=False).returncode == 0


def said(stack: Stack, service: str, words: str) -> bool:
    return any(words in line for line in stack.logs(service))


def test_a_frozen_idle_worker_is_replaced(stack: Stack) -> None:
    before, restarts = workers(stack, "webshop"), stack.restarts("webshop")
    frozen = next(iter(before))
    stack.execute("webshop", "sh", "-c", f"kill -STOP {frozen}")
    stack.wait("the frozen worker found", lambda: said(stack, "webshop", "it was frozen"), 30)
    stack.wait("the worker replaced", lambda: len(set(workers(stack, "webshop")) - {frozen}) == len(before), 60)
    stack.wait("healthy", lambda: stack.healthy("webshop"), 60)
    assert stack.restarts("webshop") == restarts


def test_a_server_whose_worker_cannot_be_started_again_ends_and_is_restarted(stack: Stack) -> None:
    """It gets no more files, and its worker is killed."""
    restarts = stack.restarts("gym-cards")
    worker, server = next(iter(workers(stack, "gym-cards").items()))
    code = f"import os, resource, signal; resource.prlimit({server}, resource.RLIMIT_NOFILE, (3, resource.prlimit("
    code += f"{server}, resource.RLIMIT_NOFILE)[1])); os.kill({worker}, signal.SIGKILL)"
    stack.python("gym-cards", code)
    stack.wait("found unhealthy", lambda: not well(stack, "gym-cards", "127.0.0.1:50051"), 20)
    stack.wait("restarted", lambda: stack.restarts("gym-cards") == restarts + 1, 150)
    stack.wait("healthy", lambda: stack.healthy("gym-cards"), 60)
    assert said(stack, "gym-cards", "could not be replaced for")


@pytest.fixture(scope="module")
def frail(stack: Stack) -> Iterator[Stack]:
    """A policy server whose decoder can be broken, in a project of its own."""
    frail = Stack(f"overworld-test-{uuid.uuid4().hex[:8]}")
    try:
        frail.up(FRAIL)
        frail.wait("healthy", lambda: frail.healthy(FRAIL))
        yield frail
    finally:
        frail.down()


@pytest.mark.parametrize(
    ("signal", "words"),
    [
        ("USR1", "the thread that writes replies has died"),
        ("USR2", "overworld policy: the thread that writes replies has not answered for"),
    ],
    ids=["dead", "stuck"],
)
def test_a_policy_server_without_a_decoder_ends_and_is_restarted(frail: Stack, signal: str, words: str) -> None:
    restarts = frail.restarts(FRAIL)
    frail.execute(FRAIL, "sh", "-c", f"kill -{signal} 1")  # Docker's init passes it on
    frail.wait("restarted", lambda: frail.restarts(FRAIL) == restarts + 1, 90)
    assert said(frail, FRAIL, words)
    frail.wait("healthy", lambda: frail.healthy(FRAIL), 90)
