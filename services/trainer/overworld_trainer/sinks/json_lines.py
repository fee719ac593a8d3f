"""metrics.jsonl: an object per update, with the number of the update, the env steps so far and all metrics."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

from overworld_trainer.sinks.sink import Sink


class JsonLines(Sink):
    """The file `path`, in which the updates from number `update` on are dropped."""

    def __init__(self, path: Path, update: int) -> None:
        self._path = path
        if path.exists():
            kept = [line for line in path.read_text().splitlines() if _update_of(line) < update]
            # Written next to it and renamed: a crash in between must not cost the lines that are kept.
            unfinished = path.with_name(f".{path.name}.unfinished")
            unfinished.write_text("".join(line + "\n" for line in kept))
            unfinished.rename(path)

    def __repr__(self) -> str:
        return f"JsonLines({self._path})"

    def write(self, update: int, env_steps: int, metrics: Mapping[str, float]) -> None:
        """Adds a line."""
        with self._path.open("a") as file:
            file.write(json.dumps({"update": update, "env_steps": env_steps, **metrics}) + "\n")


def _update_of(line: str) -> float:
    try:
        update: float = json.loads(line)["update"]
    except ValueError:  # torn by a crash
        return math.inf
    return update
