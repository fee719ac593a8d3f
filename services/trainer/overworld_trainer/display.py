"""Progress on the terminal; where nobody watches, lines of log."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from overworld_trainer.config import TrainerConfig
from overworld_trainer.metrics import Metric, valid_replies
from overworld_trainer.sinks.sink import Sink

_logger = logging.getLogger(__name__)

_LOG_EVERY = 25
_SHOWN = {
    "return": Metric.EPISODIC_RETURN,
    "success": Metric.SUCCESS_RATE,
    "kl": Metric.KL_K3,
    "valid": "valid",
    "steps/s": Metric.STEPS_PER_SECOND,
}

ShowCloning = Callable[[int, float], None]
"""Called after each update of the cloning with its number, from 0, and its loss."""


class Display:
    """Shows how cloning and training are going."""

    def __init__(self, config: TrainerConfig) -> None:
        self._config = config
        self._console = Console(stderr=True)

    @contextlib.contextmanager
    def cloning(self) -> Iterator[ShowCloning]:
        """A progress bar for cloning, and what to call after each of its updates."""
        total = self._config.clone.updates
        with self._bar("cloning", total, 0) as advance:

            def show(update: int, loss: float) -> None:
                advance(update + 1, f"loss {loss:.3f}")
                if not self._console.is_terminal and (update + 1) % _LOG_EVERY == 0:
                    _logger.info("cloning: update %d of %d, loss %.3f", update + 1, total, loss)

            yield show

    @contextlib.contextmanager
    def training(self, done: int) -> Iterator[Sink]:
        """A progress bar for training, of which `done` updates have been made; it takes the metrics of each update."""
        with self._bar("training", self._config.updates, done) as advance:
            yield _TrainingBar(advance, self._config.updates, logs=not self._console.is_terminal)

    @contextlib.contextmanager
    def _bar(self, name: str, total: int, done: int) -> Iterator[Callable[[int, str], None]]:
        """A progress bar, and what sets the number of updates done and the text beside it."""
        progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        task = progress.add_task(name, total=total, completed=done, text="")
        with progress:
            yield lambda done, text: progress.update(task, completed=done, text=text)


class _TrainingBar(Sink):
    def __init__(self, advance: Callable[[int, str], None], total: int, *, logs: bool) -> None:
        self._advance = advance
        self._total = total
        self._logs = logs

    def write(self, update: int, env_steps: int, metrics: Mapping[str, float]) -> None:
        if Metric.EVAL_SUCCESS_RATE in metrics:
            return  # an evaluation says itself what it came to
        values = {**metrics, "valid": valid_replies(metrics)}
        text = "  ".join(f"{label} {values[name]:.2f}" for label, name in _SHOWN.items() if name in values)
        self._advance(update + 1, text)
        if self._logs:
            _logger.info("update %d of %d, %d steps: %s", update + 1, self._total, env_steps, text)
