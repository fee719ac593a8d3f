"""The figures of a training run's checkpoints, where the run's own metrics are: evaluated by another process.

<run>/metrics.jsonl          a line for each checkpoint, among those of the trainer
<run>/tensorboard/watch/     the same as curves; TensorBoard reads one writer's files in a folder
<run>/watch/<env>/<run>@20/  the evaluations
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from overworld.errors import EvaluationError, SettingsError
from overworld.evaluation.report import Report
from overworld.service.extras import needs_extra

with needs_extra("watch"):
    import yaml
    from tensorboard.summary import Writer

_PREFIX = "watch/"
_MAX_CONFIG_BYTES = 1 << 20


class RunLog:
    """The log of the run in the folder `run`. Raises SettingsError if there is no run."""

    def __init__(self, run: Path) -> None:
        self._metrics = run / "metrics.jsonl"
        self._config = run / "config.yaml"
        if not self._config.exists():
            raise SettingsError(f"watch: {run} is not the folder of a training run: it has no config.yaml")
        self.folder = run / "watch"
        """Where its evaluations are kept."""
        self._board = Writer(str(run / "tensorboard" / "watch"))

    def __repr__(self) -> str:
        return f"RunLog({self._metrics})"

    def close(self) -> None:
        """Closes the files."""
        self._board.close()

    def logged(self) -> set[int]:
        """The checkpoints, by the updates that were made before them, whose figures are there."""
        found: set[int] = set()
        for line in self._metrics.read_text().splitlines() if self._metrics.exists() else ():
            try:
                fields = json.loads(line)
            except ValueError:  # torn by a crash of the trainer, which drops it when it is resumed
                continue
            if any(name.startswith(_PREFIX) for name in fields):
                found.add(int(fields["update"]) + 1)
        return found

    def last(self) -> int | None:
        """The updates that the run is to make. Raises EvaluationError."""
        try:
            updates = yaml.safe_load(self._config.read_text()[:_MAX_CONFIG_BYTES])["updates"]
        except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
            raise EvaluationError(f"{self._config} does not say how many updates the run makes: {error!r}") from None
        return updates if isinstance(updates, int) else None

    def write(self, update: int, env_steps: int, reports: Sequence[Report]) -> None:
        """Adds the figures of the checkpoint after so many updates; one report for each env. Raises OSError."""
        metrics: dict[str, float] = {}
        for report in reports:
            suffix = f"/{report.env}" if len(reports) > 1 else ""
            metrics |= {f"{_PREFIX}{name}{suffix}": value for name, value in _figures(report).items()}
        for name, value in metrics.items():
            self._board.add_scalar(name, value, step=env_steps)
        self._board.flush()
        # The trainer numbers updates from 0, and writes to the same file: one line in one call.
        line = json.dumps({"update": update - 1, "env_steps": env_steps, **metrics}) + "\n"
        with self._metrics.open("ab", buffering=0) as file:
            file.write(line.encode())


def _figures(report: Report) -> Mapping[str, float]:
    return {
        "success_rate": report.success.value,
        "success_rate_low": report.success.low,
        "success_rate_high": report.success.high,
        "return": report.mean_return,
        "length": report.mean_length,
        "invalid_replies": report.invalid_replies,
        "cut_replies": report.cut_replies,
        "episodes": float(report.episodes),
    }
