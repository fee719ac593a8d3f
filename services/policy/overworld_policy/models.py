"""Which models there are: the base, and the checkpoints of all runs by name.

base         the model folder of the settings
run@update   a checkpoint, e.g. number_line@20
run@latest   the newest one of a run
run@best     the one that did best in the run's own evaluations

Which checkpoint is a run's latest or best is looked up for every request.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from overworld_vlm import checkpoint
from overworld_vlm.load import ModelError

from overworld_policy.config import PolicyServerConfig
from overworld_policy.errors import ApiError
from overworld_policy.generation import ignored_settings

_logger = logging.getLogger(__name__)

_NAME = re.compile(r"([\w][\w.-]*)@(latest|best|\d{1,12})")


@dataclass(frozen=True, slots=True)
class Model:
    """A model that can be loaded, from a checkpoint's folder or, without a manifest, from a model's."""

    name: str
    folder: Path
    manifest: checkpoint.Manifest | None = None

    @property
    def created(self) -> int:
        """Seconds since 1970."""
        return int(self.folder.stat().st_mtime)

    @property
    def ignored_generation_config(self) -> dict[str, Any]:
        """Settings that come with the model and are not applied; see `generation`."""
        if self.manifest is None:
            return ignored_settings(self.folder)
        if self.manifest.base is None:
            return ignored_settings(self.folder / "weights")
        return ignored_settings(self.folder / self.manifest.base.path)

    def describe(self) -> dict[str, Any]:
        """What /v1/models says beyond OpenAI's fields."""
        if self.manifest is None:
            return {}
        manifest = self.manifest
        return {
            "recipe": manifest.recipe,
            "weights": manifest.digest,
            "run": manifest.run,
            "update": manifest.update,
            "env_steps": manifest.env_steps,
            "envs": manifest.config.get("envs", []),
            "provenance": manifest.provenance,
            "used_expert": manifest.used_expert,
        }


class Models:
    """The models of a server's settings, as the disk has them now."""

    def __init__(self, config: PolicyServerConfig) -> None:
        self._config = config

    def __repr__(self) -> str:
        return f"Models(runs={str(self._config.runs)!r}, base={str(self._config.base)!r})"

    def all(self) -> Iterator[Model]:
        """The base, every checkpoint, and each run's latest and best. Those without a valid manifest do not exist."""
        if self._config.base is not None:
            yield Model("base", self._config.base)
        for folder in sorted(self._config.runs.glob("*/checkpoints")):
            run, newest = folder.parent.name, None
            for newest in self._checkpoints(run, checkpoint.find(folder)):
                yield newest
            if newest is not None:
                yield replace(newest, name=f"{run}@latest")
            for best in self._best(run):
                yield replace(best, name=f"{run}@best")

    def find(self, name: str) -> Model:
        """The model of that name; of all checkpoints it reads only the one that is meant. Raises ApiError."""
        if name == "base" and self._config.base is not None:
            return Model("base", self._config.base)
        if match := _NAME.fullmatch(name):
            run, update = match.groups()
            folder = self._config.runs / run / "checkpoints"
            if update == "latest":
                newest = next(self._checkpoints(run, reversed(list(checkpoint.find(folder)))), None)
                if newest is not None:
                    return replace(newest, name=name)
            elif update == "best":
                for model in self._best(run):
                    return replace(model, name=name)
            else:
                named = [one for one in checkpoint.find(folder) if one.name.isdigit() and int(one.name) == int(update)]
                for model in self._checkpoints(run, named):
                    return model
        known = [model.name for model in self.all()]
        raise ApiError(
            404, f"there is no model {name[:200]!r}; there are {known}", code="model_not_found", param="model"
        )

    def _best(self, run: str) -> Iterator[Model]:
        """The run's best checkpoint, if one is marked."""
        best = checkpoint.find_best(self._config.runs / run / "checkpoints")
        return self._checkpoints(run, [] if best is None else [best])

    @staticmethod
    def _checkpoints(run: str, folders: Iterable[Path]) -> Iterator[Model]:
        """Those of the folders that hold a checkpoint, in their order."""
        for folder in folders:
            try:
                manifest = checkpoint.read(folder, verify=False)
            except ModelError as error:
                _logger.warning("%s", error)
                continue
            yield Model(f"{run}@{manifest.update}", folder, manifest)
