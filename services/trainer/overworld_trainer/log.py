"""A run's metrics on disk: metrics.jsonl and TensorBoard."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter


class MetricsLog:
    """Writes each update's metrics to metrics.jsonl and tensorboard/ in a run's folder."""

    def __init__(self, lines: Path, board: SummaryWriter) -> None:
        self._lines = lines
        self._board = board

    @classmethod
    def open(cls, folder: Path, update: int, env_steps: int) -> MetricsLog:
        """The log of a run that has made so many updates and env steps.

        Drops entries from `update` on; a resumed run writes them again.
        """
        lines = folder / "metrics.jsonl"
        if lines.exists():
            kept = [line for line in lines.read_text().splitlines() if _update_of(line) < update]
            lines.write_text("".join(line + "\n" for line in kept))
        return cls(lines, SummaryWriter(str(folder / "tensorboard"), purge_step=env_steps + 1))

    def write(self, update: int, env_steps: int, metrics: Mapping[str, float]) -> None:
        """Adds an update."""
        with self._lines.open("a") as file:
            file.write(json.dumps({"update": update, "env_steps": env_steps, **metrics}) + "\n")
        for name, value in metrics.items():
            self._board.add_scalar(name, value, env_steps)
        self._board.flush()

    def close(self) -> None:
        """Flushes what is buffered."""
        self._board.close()


def _update_of(line: str) -> float:
    try:
        update: float = json.loads(line)["update"]
    except ValueError:  # torn by a crash
        return math.inf
    return update
