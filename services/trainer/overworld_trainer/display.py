"""Progress on the terminal; where nobody watches, a line of log per update."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from overworld_trainer.config import TrainerConfig

_logger = logging.getLogger(__name__)


class Display:
    """Shows how cloning and training go."""

    def __init__(self, config: TrainerConfig) -> None:
        self._config = config
        self._console = Console(stderr=True)

    @contextlib.contextmanager
    def cloning(self) -> Iterator[None]:
        """Shows the cloning within."""
        with self._bar("cloning", self._config.clone.updates, 0):
            yield

    @contextlib.contextmanager
    def training(self, done: int) -> Iterator[None]:
        """Shows the training within, of which `done` updates were made before."""
        with self._bar("training", self._config.updates, done):
            yield

    def cloned(self, update: int, loss: float) -> None:
        """An update of the cloning was made."""
        self._show(update + 1, f"loss {loss:.3f}")
        if not self._console.is_terminal and (update + 1) % 25 == 0:
            _logger.info("cloning: update %d of %d, loss %.3f", update + 1, self._config.clone.updates, loss)

    def updated(self, update: int, env_steps: int, metrics: Mapping[str, float]) -> None:
        """An update of the training was made."""
        shown = {
            "return": "charts/episodic_return",
            "success": "charts/success_rate",
            "kl": "losses/kl_k3",
            "valid": "",
            "steps/s": "charts/SPS",
        }
        values = dict(metrics)
        values[""] = 1 - metrics["replies/unparseable"] - metrics["replies/inadmissible"]
        text = "  ".join(f"{label} {values[name]:.2f}" for label, name in shown.items() if name in values)
        self._show(update, text)
        if not self._console.is_terminal:
            _logger.info("update %d of %d, %d steps: %s", update, self._config.updates, env_steps, text)

    @contextlib.contextmanager
    def _bar(self, name: str, total: int, done: int) -> Iterator[None]:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task(name, total=total, completed=done, text="")
        with self._progress:
            yield

    def _show(self, done: int, text: str) -> None:
        self._progress.update(self._task, completed=done, text=text)
