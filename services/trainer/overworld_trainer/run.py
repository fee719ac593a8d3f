"""A run's folder: settings, metrics, checkpoints, and how a run that was killed goes on.

    <run>/config.yaml  metrics.jsonl  tensorboard/  checkpoints/000000/ 000010/ ...

Checkpoint 000000 is the policy at the start of RL, where it was made by cloning.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from overworld.errors import SettingsError
from overworld_vlm import checkpoint
from overworld_vlm.load import VLM, ModelError
from safetensors.torch import load_file, save_file
from torch import Tensor

from overworld_trainer.config import TrainerConfig
from overworld_trainer.critic import Critic
from overworld_trainer.learner import Learner

_logger = logging.getLogger(__name__)

_FREE_TO_CHANGE = {
    "run", "updates", "checkpoint_every", "keep_checkpoints", "servers", "threads", "retry_budget", "metrics_host",
    "metrics_port",
}  # fmt: skip


@dataclass(slots=True)
class Progress:
    """How far a run is. `slots` and `guard` are the states of collector and guard."""

    update: int = 0
    env_steps: int = 0
    max_logprob_error: float = 0.0
    slots: list[dict[str, Any]] | None = None
    guard: dict[str, Any] | None = None


class Run:
    """The folder of a run. Raises SettingsError if it holds one with other settings."""

    def __init__(self, config: TrainerConfig) -> None:
        self.config = config
        self.folder = config.run
        self.checkpoints = self.folder / "checkpoints"
        settings = config.model_dump(mode="json")
        path = self.folder / "config.yaml"
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            begun = (self.folder / "metrics.jsonl").exists() or any(self.checkpoints.iterdir())
            if path.exists() and begun:
                _compare(yaml.safe_load(path.read_text()), settings, self.folder)
            unfinished = path.with_name(".config.yaml.unfinished")
            unfinished.write_text(yaml.safe_dump(settings, sort_keys=False))
            unfinished.rename(path)
        except OSError as error:
            raise SettingsError(
                f"run: {self.folder} cannot be written by user {os.getuid()} ({error.strerror}); mount a volume for "
                "checkpoints there, or name another folder with run=DIR"
            ) from None

    @property
    def start(self) -> Path:
        """The checkpoint of the policy at the start of RL."""
        return self.checkpoint(0)

    @property
    def has_start(self) -> bool:
        """Whether that checkpoint is there."""
        return (self.start / "manifest.json").exists()

    @property
    def base(self) -> Path:
        """The model at the start of RL: the reference, and what an adapter belongs to."""
        return self.start / "weights" if self.config.clone.updates else Path(self.config.model.path)

    def checkpoint(self, update: int) -> Path:
        """The folder of the checkpoint after so many updates."""
        return self.checkpoints / f"{update:06}"

    def latest(self) -> Path | None:
        """The newest checkpoint from which the run can go on; damaged ones are passed over with a warning."""
        for folder in reversed(list(checkpoint.find(self.checkpoints))):
            if not (folder / "trainer").exists():
                continue
            try:
                checkpoint.read(folder)
            except ModelError as error:
                _logger.warning("%s", error)
                continue
            return folder
        return None

    def save(
        self,
        vlm: VLM,
        progress: Progress,
        provenance: Mapping[str, Mapping[str, str]],
        learner: Learner | None = None,
    ) -> Path:
        """Writes a checkpoint; with a learner, one from which the run can go on."""

        def write_trainer(folder: Path) -> None:
            assert learner is not None
            state = {
                "update": progress.update,
                "env_steps": progress.env_steps,
                "max_logprob_error": progress.max_logprob_error,
                "slots": progress.slots,
                "guard": progress.guard,
            }
            (folder / "state.json").write_text(json.dumps(state))
            tensors = _optimizer_tensors("policy", learner.policy_optimizer)
            tensors |= _optimizer_tensors("critic", learner.critic_optimizer)
            save_file(tensors, folder / "optimizers.safetensors")

        folder = self.checkpoint(progress.update)
        checkpoint.write(
            folder,
            vlm,
            run=self.folder.name,
            update=progress.update,
            env_steps=progress.env_steps,
            base=self.base,
            critic=None if learner is None else learner.critic.state_dict(),
            write_trainer=None if learner is None else write_trainer,
            recipe=self.config.recipe.model_dump(),
            config=self.config.model_dump(mode="json"),
            provenance=provenance,
            used_expert=self.config.clone.updates > 0,
        )
        resumable = [path for path in checkpoint.find(self.checkpoints) if (path / "trainer").exists()]
        for path in resumable[: -self.config.keep_checkpoints]:
            # By another name first: a checkpoint with a part of its trainer/ would count as damaged.
            shutil.rmtree((path / "trainer").rename(path / ".trainer.pruned"))
        return folder


def read_progress(folder: Path) -> Progress:
    """Of a verified checkpoint."""
    return Progress(**json.loads((folder / "trainer" / "state.json").read_text()))


def restore_learner(folder: Path, learner: Learner) -> None:
    """Critic and optimizers of a verified checkpoint."""
    _load_critic(folder, learner.critic)
    tensors = load_file(folder / "trainer" / "optimizers.safetensors")
    for name, optimizer in (("policy", learner.policy_optimizer), ("critic", learner.critic_optimizer)):
        state: dict[int, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            owner, number, field = key.split(".")
            if owner == name:
                state.setdefault(int(number), {})[field] = tensor
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def _load_critic(folder: Path, critic: Critic) -> None:
    critic.load_state_dict(checkpoint.load_critic(folder))


def _optimizer_tensors(name: str, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimizer's state as named tensors."""
    return {
        f"{name}.{number}.{field}": value.detach().cpu().clone()
        for number, fields in optimizer.state_dict()["state"].items()
        for field, value in fields.items()
    }


def _compare(old: Mapping[str, Any], new: Mapping[str, Any], folder: Path) -> None:
    changed = [
        f"{name} was {old.get(name)}, is {new.get(name)}"
        for name in sorted({*old, *new} - _FREE_TO_CHANGE)
        if old.get(name) != new.get(name)
    ]
    if changed:
        raise SettingsError(
            f"{folder} holds a run with other settings ({'; '.join(changed)}); choose another folder or delete it"
        )
