"""Where the metrics of each update go. To add a place, write a class with the method of `Sink` and open it here."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from overworld_trainer.config import TrainerConfig
from overworld_trainer.sinks.json_lines import JsonLines
from overworld_trainer.sinks.sink import Sink
from overworld_trainer.sinks.tensorboard import TensorBoard
from overworld_trainer.sinks.weights_and_biases import open_wandb

__all__ = ["Sink", "open_sinks"]


@contextlib.contextmanager
def open_sinks(config: TrainerConfig, update: int, env_steps: int) -> Iterator[list[Sink]]:
    """The sinks in the folder of a run that has made so many updates and env steps, and W&B if the settings ask for it.

    A resumed run makes updates again that it has logged already: each sink keeps one of the two. Raises SettingsError
    if W&B cannot be used, and MissingExtraError if it is not installed.
    """
    with contextlib.ExitStack() as stack:
        sinks: list[Sink] = [JsonLines(config.run / "metrics.jsonl", update)]
        sinks.append(stack.enter_context(contextlib.closing(TensorBoard(config.run / "tensorboard", env_steps))))
        if config.wandb is not None:
            sinks.append(stack.enter_context(open_wandb(config, config.wandb)))
        yield sinks
