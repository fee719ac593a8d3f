"""TensorBoard: a curve per metric over env steps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from overworld_trainer.sinks.sink import Sink


class TensorBoard(Sink):
    """The event files in `folder`, in which the points after `env_steps` are dropped."""

    def __init__(self, folder: Path, env_steps: int) -> None:
        self._folder = folder
        self._board = SummaryWriter(str(folder), purge_step=env_steps + 1)

    def __repr__(self) -> str:
        return f"TensorBoard({self._folder})"

    def write(self, update: int, env_steps: int, metrics: Mapping[str, float]) -> None:
        """Adds a point to each metric's curve."""
        for name, value in metrics.items():
            self._board.add_scalar(name, value, env_steps)
        self._board.flush()

    def close(self) -> None:
        """Closes the event file."""
        self._board.close()
