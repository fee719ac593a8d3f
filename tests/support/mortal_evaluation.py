"""An evaluation in a process of its own that can be killed while it writes.

    python -m tests.support.mortal_evaluation SERVER FOLDER [OPERATION]

It kills itself before operation number OPERATION (from 0) on the files of the folder: an opening or a renaming.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from overworld import Fleet, Reset
from overworld.evaluation.conversation import Message, Recipe
from overworld.evaluation.evaluate import evaluate
from overworld.evaluation.model import Answer

TASKS = [Reset(seed) for seed in range(8)]
SAMPLES = range(2)


class Dice:
    """Replies by the noise alone."""

    name = "dice"
    temperature = 1.0
    max_tokens = 64
    url = "nowhere"

    def answer_all(self, prompts: Sequence[tuple[list[Message], int]]) -> list[Answer]:
        actions = ("up", "up", "down", "fly")
        replies = [f'{{"thoughts": "{seed}", "action": "{actions[(seed >> 20) % 4]}"}}' for _, seed in prompts]
        return [Answer(reply, False, "weights", 3, 4) for reply in replies]


def play(servers: Sequence[str], folder: Path, slots: int = 3) -> None:
    """Plays it, or what is left of it."""
    with Fleet(servers, "toy/Count", slots, options={"max_turns": 9, "size": 8}) as fleet:
        evaluate(Dice(), fleet, TASKS, recipe=Recipe(), samples=SAMPLES, keep=folder)


def die_before(operation: int, folder: Path) -> None:
    """Has the kernel kill this process before it does so many things to the folder's files."""
    operations = itertools.count()

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if (
            event in ("open", "os.rename")
            and str(arguments[0]).startswith(str(folder))
            and next(operations) == operation
        ):
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


if __name__ == "__main__":
    server, kept, *at = sys.argv[1:]
    if at:
        die_before(int(at[0]), Path(kept))
    play([server], Path(kept))
