"""A run's folder: settings, metrics, checkpoints, and how a run that was killed is resumed.

    <run>/config.yaml  metrics.jsonl  tensorboard/  wandb/  traces/  checkpoints/000000/ 000010/ ... best
          episodes/update-000010/ ...  evaluations/update-000010/ ...

Checkpoint 000000 is the policy at the start of RL, where it was made by cloning.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import yaml
from overworld.errors import SettingsError
from overworld_vlm import checkpoint
from overworld_vlm.load import VLM, ModelError
from overworld_vlm.sharding import cut_like, full
from safetensors.torch import load_file, save_file
from torch import Tensor

from overworld_trainer.config import PolicyConfig, TrainerConfig
from overworld_trainer.episodes import PlayerState
from overworld_trainer.learner import Learner
from overworld_trainer.ranks import Ranks
from overworld_trainer.sampling import EnvProgress

_logger = logging.getLogger(__name__)

_PRUNED = ".pruned"
_CHANGEABLE_ON_RESUME = {
    "run", "parallel", "rank_timeout", "updates", "max_env_steps", "checkpoint_every", "checkpoint_minutes",
    "keep_checkpoints", "keep_weights", "servers", "tokens", "tls", "plaintext", "threads", "retry_budget",
    "metrics_host", "metrics_port", "wandb", "profile_update", "table", "evaluation.every", "evaluation.slots",
    "evaluation.patience", "evaluation.diagnose", "max_batch",
    "model.batch_tokens", "model.cuda_graphs", "model.gradient_checkpointing", "model.vision_memory",
}  # fmt: skip
"""These do not decide what is learnt; those that bound memory may change the last bits of numbers."""


@dataclass(slots=True, kw_only=True)
class TrainerState:
    """How far a run is. `slots`, `guard` and `sampler` are what `state` of Episodes, Guard and Sampler gave."""

    update: int = 0
    env_steps: int = 0
    max_logprob_error: float = 0.0
    slots: list[PlayerState] | None = None
    guard: dict[str, Any] | None = None
    sampler: list[EnvProgress] | None = None


class Run:
    """The folder of a run."""

    def __init__(self, config: TrainerConfig, ranks: Ranks | None = None) -> None:
        self.config = config
        self.ranks = ranks or Ranks()
        self.folder = config.run
        self.checkpoints = self.folder / "checkpoints"

    @classmethod
    def open(cls, config: TrainerConfig, ranks: Ranks | None = None) -> Run:
        """Makes the folder and writes the settings into it; with several ranks, the first one does.

        The learning rate's schedule is pinned when the run begins: `policy.lr_updates` is `updates` then, if it is
        null. Raises SettingsError if the folder cannot be written or holds a run with other settings, OSError if its
        volume is full.
        """
        ranks = ranks or Ranks()
        run = cls._made(config) if ranks.first else cls(config)
        policy = PolicyConfig.model_validate_json(ranks.of_first(run.config.policy.model_dump_json().encode()))
        if not (run.folder / "config.yaml").exists():
            raise SettingsError(
                f"run: rank {ranks.number} does not see {run.folder}, which rank 0 has just made: mount the same "
                "volume for checkpoints on all nodes"
            )
        return cls(config.model_copy(update={"policy": policy}), ranks)

    @classmethod
    def _made(cls, config: TrainerConfig) -> Run:
        run = cls(config)
        path = run.folder / "config.yaml"
        try:
            run.checkpoints.mkdir(parents=True, exist_ok=True)
            begun = (run.folder / "metrics.jsonl").exists() or any(run.checkpoints.iterdir())
            old = yaml.safe_load(path.read_text()) if path.exists() and begun else None
            run = cls(_with_pinned_schedule(config, old))
            settings = run.config.model_dump(mode="json")
            if old is not None:
                _compare(old, settings, run.folder)
            unfinished = path.with_name(".config.yaml.unfinished")
            unfinished.write_text(yaml.safe_dump(settings, sort_keys=False))
            unfinished.rename(path)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise  # that may pass
            raise SettingsError(
                f"run: {run.folder} cannot be written by user {os.getuid()} ({error.strerror}); mount a volume for "
                "checkpoints there, or name another folder with run=DIR"
            ) from None
        return run

    def __repr__(self) -> str:
        found = [int(path.name) for path in checkpoint.find(self.checkpoints)]
        return f"Run({self.folder}, checkpoints {found})"

    @property
    def start(self) -> Path:
        """The checkpoint of the policy at the start of RL."""
        return self.checkpoint(0)

    @property
    def has_start(self) -> bool:
        """Whether that checkpoint exists."""
        return (self.start / "manifest.json").exists()

    @property
    def base(self) -> Path:
        """The model at the start of RL: the reference, and what an adapter belongs to."""
        return self.start / "weights" if self.config.clone.updates else Path(self.config.model.path)

    @property
    def _start_used_expert(self) -> bool:
        """Whether expert advice went into the model at the start of RL, also where another run has cloned it."""
        weights, start = self.base.name, self.base.parent
        return (
            weights == "weights"
            and (start / "manifest.json").exists()
            and checkpoint.read(start, verify=False).used_expert
        )

    def checkpoint(self, update: int) -> Path:
        """The folder of the checkpoint after so many updates."""
        return self.checkpoints / f"{update:06}"

    def latest(self) -> Path | None:
        """The newest checkpoint that the run can be resumed from; damaged ones are passed over with a warning.

        With several ranks, the one that the first of them finds.
        """
        found = self._newest() if self.ranks.first else None
        name = self.ranks.of_first(b"" if found is None else found.name.encode()).decode()
        return self.checkpoints / name if name else None

    def _newest(self) -> Path | None:
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
        state: TrainerState,
        provenance: Mapping[str, Mapping[str, str]],
        learner: Learner | None = None,
        *,
        used_expert: bool | None = None,
    ) -> Path:
        """Writes a checkpoint; with a learner, one that the run can be resumed from.

        `used_expert`: whether expert advice went into the weights; None: whether it went into those at the start of RL.
        With several ranks all must call this, and the first one writes.
        """
        folder, first = self.checkpoint(state.update), self.ranks.first
        weights, tensors = vlm.gathered(keep=first), {}
        if learner is not None:
            tensors = _optimizer_tensors("policy", learner.policy_optimizer, keep=first)
            tensors |= _optimizer_tensors("critic", learner.critic_optimizer, keep=first)
        if not first:
            return folder

        def write_trainer(folder: Path) -> None:
            (folder / "state.json").write_text(json.dumps(dataclasses.asdict(state)))
            save_file(tensors, folder / "optimizers.safetensors")

        checkpoint.write(
            folder,
            vlm,
            run=self.folder.name,
            update=state.update,
            env_steps=state.env_steps,
            base=self.base,
            critic=None if learner is None else learner.critic.state_dict(),
            write_trainer=None if learner is None else write_trainer,
            recipe=self.config.recipe.model_dump(),
            config=self.config.model_dump(mode="json"),
            provenance=provenance,
            used_expert=self._start_used_expert if used_expert is None else used_expert,
            state=weights,
        )
        if learner is not None:
            self._prune(folder)
        return folder

    def _prune(self, newest: Path) -> None:
        """Removes what the settings do not keep, now that `newest` has been written."""
        checkpoints = [path for path in self._unpruned if path != newest] + [newest]
        for path in checkpoints[: -self.config.keep_checkpoints]:
            if (path / "trainer").exists():
                # Renamed first: a checkpoint with only part of its trainer/ would count as damaged.
                shutil.rmtree((path / "trainer").rename(path / ".trainer.pruned"))
        if self.config.keep_weights is None:
            self._unpruned = checkpoints[-self.config.keep_checkpoints :]
            return
        best = checkpoint.best_name(self.checkpoints)
        removed = [path for path in checkpoints[: -self.config.keep_weights] if path.name != best]
        for path in removed:
            shutil.rmtree(path.rename(path.with_name(f".{path.name}{_PRUNED}")))
        self._unpruned = [path for path in checkpoints if path not in removed]

    @cached_property
    def _unpruned(self) -> list[Path]:
        """The checkpoints but the start, oldest first, of which something may be left to remove."""
        for path in self.checkpoints.glob(f".*{_PRUNED}"):  # a crash came between renaming and removing
            shutil.rmtree(path)
        return [path for path in checkpoint.find(self.checkpoints) if path != self.start]


def read_state(folder: Path) -> TrainerState:
    """The trainer's state in a verified checkpoint."""
    return TrainerState(**json.loads((folder / "trainer" / "state.json").read_text()))


def restore_learner(folder: Path, learner: Learner) -> None:
    """Restores a learner's critic and optimizers from a verified checkpoint."""
    learner.critic.load_state_dict(checkpoint.load_critic(folder))
    tensors = load_file(folder / "trainer" / "optimizers.safetensors")
    for name, optimizer in (("policy", learner.policy_optimizer), ("critic", learner.critic_optimizer)):
        state: dict[int, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            owner, number, field = key.split(".")
            if owner == name:
                parameter = optimizer.param_groups[0]["params"][int(number)]
                state.setdefault(int(number), {})[field] = cut_like(tensor, parameter)
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def _optimizer_tensors(name: str, optimizer: torch.optim.Optimizer, *, keep: bool) -> dict[str, Tensor]:
    """An optimizer's state as named tensors, put together from all ranks'; nothing for those that do not `keep` it."""
    tensors = {}
    for number, fields in optimizer.state_dict()["state"].items():
        for field, value in fields.items():
            together = full(value.detach())
            if keep:
                tensors[f"{name}.{number}.{field}"] = together.cpu().clone()
    return tensors


def _with_pinned_schedule(config: TrainerConfig, old: Mapping[str, Any] | None) -> TrainerConfig:
    """The settings with the `policy.lr_updates` that the run began with, if they name none."""
    if config.policy.lr_updates is not None:
        return config
    pinned = config.updates if old is None else old.get("policy", {}).get("lr_updates")
    if not isinstance(pinned, int):
        return config  # a run of other settings, which are compared
    if pinned != config.updates:
        _logger.info(
            "the learning rate follows the schedule of %d updates that the run began with (policy.lr_updates), not of "
            "the %d now asked for: from update %d on it is %g",
            pinned,
            config.updates,
            pinned,
            config.policy.lr_end,
        )
    return config.model_copy(update={"policy": config.policy.model_copy(update={"lr_updates": pinned})})


def _compare(old: Mapping[str, Any], new: Mapping[str, Any], folder: Path) -> None:
    evaluated = bool(old.get("evaluation", {}).get("every"))
    old, new = _fixed(old, evaluated), _fixed(new, evaluated)
    changed = [
        f"{name} was {old.get(name)}, is {new.get(name)}"
        for name in sorted({*old, *new} - _CHANGEABLE_ON_RESUME)
        if old.get(name) != new.get(name)
    ]
    if changed:
        raise SettingsError(
            f"{folder} holds a run with other settings ({'; '.join(changed)}); choose another folder or delete it"
        )


def _fixed(settings: Mapping[str, Any], evaluated: bool) -> dict[str, Any]:
    """Settings with those of the model, and of evaluations, one by one.

    Evaluations all play the same episodes: what they are is fixed once there is one.
    """
    sections = {"model": settings.get("model", {}), "evaluation": settings.get("evaluation", {}) if evaluated else {}}
    others = {name: value for name, value in settings.items() if name not in sections}
    return others | {f"{section}.{name}": value for section, own in sections.items() for name, value in own.items()}
