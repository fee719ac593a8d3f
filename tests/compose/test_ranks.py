"""A run of several ranks, in one container or in two, of which one after the other is killed."""

from __future__ import annotations

import pytest

from tests.compose.stack import Stack

pytestmark = [pytest.mark.compose, pytest.mark.timeout(1800)]

SETTINGS = {"TRAIN_ENV": "island/Treasure", "TRAIN_SETTINGS": "tests/compose/island.yaml"}
RANKS = ("rank-0", "rank-1")
KILL_RANK = """
import pathlib, os, signal
for process in pathlib.Path("/proc").glob("[0-9]*"):
    if b"python3\\0-u\\0-m\\0overworld_trainer" in (process / "cmdline").read_bytes():
        os.kill(int(process.name), signal.SIGKILL)
        print("killed")
"""


def train(stack: Stack, *services: str, **variables: str) -> None:
    """On the island, whose server is there already."""
    stack.compose("up", "--detach", "--no-build", "--no-deps", *services, check=True, **SETTINGS, **variables)


def test_train_ranks_starts_several_in_one_container(stack: Stack) -> None:
    arguments = "updates=1 threads=1 parallel=shard"
    train(stack, "trainer", TRAIN_RUN="sharded", TRAIN_RANKS="2", TRAIN_ARGUMENTS=arguments)
    stack.wait("the run finished", lambda: stack.state("trainer")[0] == "exited")
    assert stack.state("trainer") == ("exited", 0)
    assert stack.updates("sharded") == 1


def test_two_containers_train_together_and_survive_the_loss_of_a_rank_and_of_either(stack: Stack) -> None:
    """The rendezvous is at the first, so that its loss takes the second along."""
    train(stack, *RANKS, TRAIN_RUN="ranks", TRAIN_ARGUMENTS="updates=12 checkpoint_every=1 threads=1")
    stack.wait("2 updates", lambda: stack.updates("ranks") >= 2)
    assert stack.python("rank-1", KILL_RANK) == "killed\n"
    for killed in reversed(RANKS):
        done = stack.updates("ranks")
        stack.wait("2 more updates", lambda done=done: stack.updates("ranks") >= done + 2)
        stack.crash(killed)
    stack.wait("the run finished", lambda: all(stack.state(rank) == ("exited", 0) for rank in RANKS))
    assert stack.updates("ranks") == 12
    resumed = [line for rank in RANKS for line in stack.logs(rank) if "resuming from /runs/ranks/checkpoints/" in line]
    assert len(resumed) >= 3
