"""What is logged in every update, under the field's names, to TensorBoard and as JSON lines."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from overworld import End, Outcome
from torch.utils.tensorboard import SummaryWriter

from overworld_trainer.rollout import Rollout
from overworld_trainer.samples import Samples

Metrics = dict[str, float]


class MetricsLog:
    """Writes metrics.jsonl and tensorboard/ in a run's folder.

    What lies behind `update`, before which `env_steps` were made, is cut off: a resumed run writes it again.
    """

    def __init__(self, folder: Path, update: int, env_steps: int) -> None:
        self._path = folder / "metrics.jsonl"
        if self._path.exists():
            kept = [line for line in self._path.read_text().splitlines() if _update_of(line) < update]
            self._path.write_text("".join(line + "\n" for line in kept))
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=env_steps + 1)

    def write(self, update: int, env_steps: int, metrics: Mapping[str, float]) -> None:
        """Adds an update."""
        with self._path.open("a") as file:
            file.write(json.dumps({"update": update, "env_steps": env_steps, **metrics}) + "\n")
        for name, value in metrics.items():
            self._board.add_scalar(name, value, env_steps)
        self._board.flush()

    def close(self) -> None:
        """Flushes what is buffered."""
        self._board.close()


def rollout_metrics(rollout: Rollout, env_ids: Sequence[str]) -> Metrics:
    """Episodes, replies and seconds of a rollout; each env by itself where there are several."""
    steps = [step for row in rollout.steps for step in row]
    metrics: Metrics = {
        "replies/unparseable": _share(step.outcome is Outcome.NO_ACTION for step in steps),
        "replies/inadmissible": _share(step.outcome is Outcome.NOT_ADMISSIBLE for step in steps),
        "replies/cut": _share(step.cut for step in steps),
        "replies/tokens": sum(len(step.reply) for step in steps) / len(steps),
        "charts/failed_steps": float(sum(step.failed for step in steps)),
        "charts/episodes": float(len(rollout.episodes)),
        "time/waiting_for_envs": rollout.seconds_waiting,
        "time/writing_replies": rollout.seconds_writing,
    }
    starts = torch.tensor([[step.turn == 0 for step in row] for row in rollout.steps])
    if starts.any():
        metrics["charts/value_at_start"] = rollout.values[starts].mean().item()
    for end in End:
        metrics[f"ends/{end.name.lower()}"] = _share(episode.end is end for episode in rollout.episodes)
    groups = {"": rollout.episodes}
    if len(env_ids) > 1:
        for env in env_ids:  # several of them may be one env with different options
            groups[f"/{env}"] = [episode for episode in rollout.episodes if env_ids[episode.env] == env]
    for name, episodes in groups.items():
        if episodes:
            metrics[f"charts/episodic_return{name}"] = sum(episode.reward for episode in episodes) / len(episodes)
            metrics[f"charts/episodic_length{name}"] = sum(episode.length for episode in episodes) / len(episodes)
            metrics[f"charts/success_rate{name}"] = _share(episode.success for episode in episodes)
    return metrics


def sample_metrics(samples: Samples, reward_scale: float) -> Metrics:
    """How well the critic predicted the returns, and how much there was to predict."""
    variance = samples.targets.var(correction=0).item()
    residual = (samples.targets - samples.old_values).var(correction=0).item()
    return {
        "losses/explained_variance": 1 - residual / variance if variance > 0 else 0.0,
        "losses/relative_target_std": variance**0.5 / reward_scale,
        "losses/advantage_std": samples.advantage_std,
    }


def _update_of(line: str) -> float:
    try:
        update: float = json.loads(line)["update"]
    except ValueError:  # a crash has torn it
        return math.inf
    return update


def _share(flags: object) -> float:
    values = [bool(flag) for flag in flags]  # type: ignore[attr-defined]
    return sum(values) / len(values) if values else 0.0
