"""What a run has measured: its curve, the primary metric, and what it cost."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from overworld_trainer.metrics import Metric
from overworld_trainer.study.plan import RunKey, StudyConfig

_CURVES = {"success": Metric.EVAL_SUCCESS_RATE, "return": Metric.EVAL_RETURN}
_ATTEMPTS = "attempts.jsonl"
FINISHED = "finished.json"

Curve = Sequence[tuple[int, float]]
"""(env steps, value), in order."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What was spent on a run. CPU-seconds are the trainer's; None if an attempt was killed together with the study."""

    cpu_seconds: float | None
    env_steps: int
    reply_tokens: int


@dataclass(frozen=True, slots=True)
class Result:
    """A finished run.

    curve    from the clone at 0 env steps to the last evaluation
    area     of the curve up to the budget, divided by it
    invalid  fraction of replies without an admissible action in the last evaluation
    stopped  why the guard stopped the run before its budget; empty if it did not
    """

    key: RunKey
    curve: Curve
    area: float
    invalid: float
    stopped: str
    cost: Cost


def read_result(study: StudyConfig, key: RunKey) -> Result | None:
    """What a run has measured; None unless it is finished."""
    folder = study.run_folder(key)
    if not (folder / FINISHED).exists():
        return None
    start = _evaluations(study.start_folder(key.env, key.seed), study)
    curve = [(0, start[-1][1]), *_evaluations(folder, study)]
    lines = _lines(folder / "metrics.jsonl")
    invalid = [line[Metric.EVAL_INVALID] for line in lines if Metric.EVAL_INVALID in line]
    return Result(
        key=key,
        curve=curve,
        area=area(curve, study.budget),
        invalid=invalid[-1] if invalid else 1.0,
        stopped=json.loads((folder / FINISHED).read_text())["stopped"],
        cost=read_cost(folder),
    )


def area(curve: Curve, budget: int) -> float:
    """The mean height of a curve up to `budget` env steps: straight lines between its points, level after the last."""
    points = [*curve, (max(budget, curve[-1][0]), curve[-1][1])]
    total = 0.0
    for (x, y), (next_x, next_y) in itertools.pairwise(points):
        if x >= budget or next_x == x:
            continue
        end = min(next_x, budget)
        height = y + (next_y - y) * (end - x) / (next_x - x)
        total += (end - x) * (y + height) / 2
    return total / budget


def read_cost(folder: Path) -> Cost:
    """What was spent on a run so far."""
    updates = [line for line in _lines(folder / "metrics.jsonl") if Metric.REPLIES_TOKENS in line]
    steps = [0, *(int(line["env_steps"]) for line in updates)]
    tokens = sum(
        line[Metric.REPLIES_TOKENS] * (after - before)
        for line, before, after in zip(updates, steps, steps[1:], strict=False)
    )
    return Cost(_cpu_seconds(folder), steps[-1], round(tokens))


def note_attempt(folder: Path, cpu_seconds: float | None = None) -> None:
    """Writes down that an attempt at a run begins, or what it has cost now that it has ended."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _ATTEMPTS).open("a") as file:
        file.write(json.dumps({"cpu_seconds": cpu_seconds}) + "\n")


def _cpu_seconds(folder: Path) -> float | None:
    attempts = [line["cpu_seconds"] for line in _lines(folder / _ATTEMPTS)]
    costs = [cost for cost in attempts if cost is not None]
    return sum(costs) if 2 * len(costs) == len(attempts) else None


def _evaluations(folder: Path, study: StudyConfig) -> list[tuple[int, float]]:
    name = _CURVES[study.primary]
    return [(int(line["env_steps"]), line[name]) for line in _lines(folder / "metrics.jsonl") if name in line]


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
