"""Weights & Biases: online, or offline in the run's folder, to be uploaded with `wandb sync`.

The package is optional, large (95 MB) and slow to import: only runs that ask for it import it.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from overworld.errors import MissingExtraError, SettingsError

from overworld_trainer.config import TrainerConfig, WandbConfig
from overworld_trainer.sinks.sink import Sink


class Wandb(Sink):
    """A run of Weights & Biases. Its steps are updates, its charts are drawn over env steps.

    An update that a resumed run makes again has a step that the server has already: it keeps the first, and both hold
    the same numbers.
    """

    def __init__(self, run: Any) -> None:
        self._run = run
        run.define_metric("*", step_metric="env_steps")

    def __repr__(self) -> str:
        return f"Wandb({self._run.id})"

    def write(self, update: int, env_steps: int, metrics: Mapping[str, float]) -> None:
        """Adds a row of history."""
        self._run.log({"env_steps": env_steps, **metrics}, step=update)


@contextlib.contextmanager
def open_wandb(config: TrainerConfig, settings: WandbConfig) -> Iterator[Wandb]:
    """A run of Weights & Biases, the same one each time that a run's folder is opened; failed if what is within fails.

    Raises MissingExtraError, and SettingsError if the run cannot be opened.
    """
    wandb = import_wandb()
    try:
        run = wandb.init(
            project=settings.project,
            entity=settings.entity,
            group=settings.group,
            name=settings.name or config.run.name,
            id=_run_id(config.run / "wandb"),
            mode=settings.mode,
            # Offline, nobody can look up whether there is such a run; `wandb sync` finds it by its id.
            resume="allow" if settings.mode == "online" else None,
            dir=config.run,
            config=config.model_dump(mode="json"),
            settings=wandb.Settings(console="off", silent=True),
        )
    except wandb.Error as error:
        raise SettingsError(
            f"wandb: Weights & Biases cannot be used: {error}; log in with `wandb login` or WANDB_API_KEY, check "
            "wandb.project and wandb.entity, or set wandb.mode = offline and upload later with `wandb sync`"
        ) from error
    failed = True
    try:
        yield Wandb(run)
        failed = False
    finally:
        run.finish(exit_code=int(failed))
        wandb.teardown()  # `finish` returns before the run's file is complete


def import_wandb() -> Any:
    """The package. Raises MissingExtraError."""
    try:
        import wandb
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"wandb: {error.name} is not installed; it comes with: pip install 'overworld-trainer[wandb]'; or set "
            "wandb = null",
            name=error.name,
        ) from error
    return wandb


def _run_id(folder: Path) -> str:
    """The id of the run in Weights & Biases, kept in the run's folder."""
    path = folder / "run_id"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = folder / ".run_id.unfinished"
        unfinished.write_text(secrets.token_hex(8))
        unfinished.rename(path)
    return path.read_text()
