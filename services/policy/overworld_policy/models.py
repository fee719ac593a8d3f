"""Which models there are: the base, and the checkpoints of all runs by name.

base         the model folder of the settings
run@update   a checkpoint, e.g. number_line@20
run@latest   the newest one of a run; which that is, is looked up for every request
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from overworld_vlm import checkpoint
from overworld_vlm.load import ModelError

from overworld_policy.config import PolicyServerConfig
from overworld_policy.errors import ApiError

_logger = logging.getLogger(__name__)

_NAME = re.compile(r"([\w][\w.-]*)@(latest|\d{1,12})")


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

    def all(self) -> Iterator[Model]:
        """The base, every checkpoint, and each run's latest. Checkpoints without a valid manifest do not exist."""
        if self._config.base is not None:
            yield Model("base", self._config.base)
        for run in sorted(self._config.runs.glob("*/checkpoints")):
            newest = None
            for folder in checkpoint.find(run):
                try:
                    manifest = checkpoint.read(folder, verify=False)
                except ModelError as error:
                    _logger.warning("%s", error)
                    continue
                newest = Model(f"{run.parent.name}@{manifest.update}", folder, manifest)
                yield newest
            if newest is not None:
                yield Model(f"{run.parent.name}@latest", newest.folder, newest.manifest)

    def find(self, name: str) -> Model:
        """The model of that name. Raises ApiError."""
        if name == "base" and self._config.base is not None:
            return Model("base", self._config.base)
        if _NAME.fullmatch(name):
            for model in self.all():
                if model.name == name:
                    return model
        known = [model.name for model in self.all()]
        raise ApiError(
            404, f"there is no model {name[:200]!r}; there are {known}", code="model_not_found", param="model"
        )
