"""CSV files (RFC 4180) of evaluations and of their episodes."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from overworld.evaluation.episodes import Episode
from overworld.evaluation.report import Report
from overworld.evaluation.usage import Usage

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for a formula if a text begins with it."""


def evaluation_row(report: Report) -> dict[str, Any]:
    """The figures of an evaluation in one row."""
    passes = {f"pass@{k}": share for k, share in report.pass_at.items() if k != "1"}
    return {
        "env": report.env,
        "agent": report.model,
        "weights": report.fingerprint,
        "temperature": report.temperature,
        "blank_frames": report.blank_frames,
        "episodes": report.episodes,
        "tasks": report.tasks,
        "samples": report.samples,
        "success": report.success.value,
        "success_low": report.success.low,
        "success_high": report.success.high,
        "mean_return": report.mean_return,
        "mean_length": report.mean_length,
        "invalid_replies": report.invalid_replies,
        "cut_replies": report.cut_replies,
        **passes,
    }


def episode_row(env: str, agent: str, episode: Episode, usage: Usage) -> dict[str, Any]:
    """An episode in one row."""
    return {
        "env": env,
        "agent": agent,
        "seed": episode.seed,
        "split": episode.split,
        "task": episode.task,
        "sample": episode.sample,
        "success": episode.success,
        "return": episode.total_reward,
        "turns": len(episode.turns),
        "end": episode.end,
        "invalid_replies": sum(turn.outcome in ("no_action", "not_admissible") for turn in episode.turns),
        "seconds": usage.seconds,
        "agent_seconds": usage.agent_seconds,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "error": episode.error,
    }


def write_csv(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes rows under the names of all their columns. Texts are written such that no program runs them."""
    rows = list(rows)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)


def _cell(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
