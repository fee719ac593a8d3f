"""report.json and report.html: learning curves, the table, film strips of episodes with the agent's thoughts."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
from overworld.evaluation.conversation import data_url
from overworld.evaluation.episodes import Episode
from overworld.evaluation.folder import EpisodeFolder
from overworld.evaluation.report import Report
from overworld_trainer.metrics import Metric

from demo.verdict import Verdict

_HERE = Path(__file__).parent
_STRIPS_PER_MODEL = 3
_CURVES = {
    "Success in rollouts": [Metric.SUCCESS_RATE],
    "Return per episode": [Metric.EPISODIC_RETURN],
    "Replies without an action": [Metric.REPLIES_UNPARSEABLE, Metric.REPLIES_INADMISSIBLE],
    "KL to the clone, per token": [Metric.KL_K3],
}


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A policy's episodes, the report on them, and the folder in which they are kept."""

    report: Report
    episodes: Sequence[Episode]
    folder: Path


Evaluations = Mapping[str, Evaluation]
"""By their names in the report."""


def invalid_replies(folder: Path) -> float:
    """The share of the sampled replies in a run's last update that held no admissible action."""
    last = _updates(folder)[-1]
    return float(last.get(Metric.REPLIES_UNPARSEABLE, 0.0)) + float(last.get(Metric.REPLIES_INADMISSIBLE, 0.0))


def write_report(
    folder: Path,
    seed: int,
    evaluations: Evaluations,
    verdict: Verdict | None,
    cpu_seconds: float,
    wall_seconds: float,
) -> dict[str, Any]:
    """Writes both reports into the run's folder and returns what report.json holds."""
    updates = _updates(folder)
    summary: dict[str, Any] = {
        "seed": seed,
        "env": next(iter(evaluations.values())).report.env,
        "env_steps": updates[-1]["env_steps"],
        "updates": len(updates),
        "cpu_seconds": round(cpu_seconds, 1),
        "wall_seconds": round(wall_seconds, 1),
        "max_rollout_train_logprob_error": max(one.get(Metric.MAX_LOGPROB_ERROR, 0.0) for one in updates),
    }
    if verdict is not None:
        summary["verdict"] = verdict.to_json()
    for name, evaluation in evaluations.items():
        report = evaluation.report
        summary[name] = {
            "model": report.model,
            "weights": report.fingerprint,
            "episodes": report.episodes,
            "success": report.success.value,
            "success_low": report.success.low,
            "success_high": report.success.high,
            "positive_return": report.positive_return,
            "mean_return": report.mean_return,
            "mean_length": report.mean_length,
            "invalid_replies": report.invalid_replies,
        }
    (folder / "report.json").write_text(json.dumps(summary, indent=1) + "\n")
    page = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    ).get_template("report.html.j2")
    strips = {
        name: [_strip(EpisodeFolder(one.folder), episode) for episode in _telling(one.episodes)]
        for name, one in evaluations.items()
    }
    html = page.render(summary=summary, names=list(evaluations), curves=_curves(updates), strips=strips)
    (folder / "report.html").write_text(html)
    return summary


def _updates(folder: Path) -> list[dict[str, Any]]:
    """The metrics of a run's updates."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def _telling(episodes: Sequence[Episode]) -> list[Episode]:
    """A few episodes of different lengths, so that a strip shows more than one move."""
    by_length = sorted(episodes, key=lambda episode: len(episode.turns))
    at = [len(by_length) * (2 * part + 1) // (2 * _STRIPS_PER_MODEL) for part in range(_STRIPS_PER_MODEL)]
    return [by_length[index] for index in at]


def _strip(folder: EpisodeFolder, episode: Episode) -> dict[str, Any]:
    """An episode for the template: pictures as data URLs."""
    return {
        "success": episode.success,
        "end": episode.end or episode.error,
        "turns": [
            {
                "pictures": [data_url(image.pixels) for image in folder.seen(turn).images],
                "thoughts": turn.thoughts or turn.reply,
                "action": turn.executed,
                "reward": turn.reward,
            }
            for turn in episode.turns
        ],
    }


def _curves(updates: Sequence[Mapping[str, Any]]) -> str:
    """The learning curves over env steps, as an SVG data URL."""
    matplotlib.use("svg")
    from matplotlib import pyplot

    style: Any = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "overworld"}
    with pyplot.rc_context(style):
        figure, axes = pyplot.subplots(1, len(_CURVES), figsize=(12, 2.6), layout="constrained")
        for axis, (title, names) in zip(axes, _CURVES.items(), strict=True):
            points = [
                (one["env_steps"], sum(one.get(name, 0.0) for name in names)) for one in updates if names[0] in one
            ]
            axis.plot(*zip(*points, strict=True), color="#2563eb", linewidth=1.8)
            axis.set_title(title, fontsize=10, loc="left")
            axis.set_xlabel("env steps")
            axis.grid(alpha=0.25)
        image = io.BytesIO()
        figure.savefig(image, format="svg", metadata={"Date": None})
        pyplot.close(figure)
    return f"data:image/svg+xml;base64,{base64.b64encode(image.getvalue()).decode()}"
