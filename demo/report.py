"""report.json and report.html: learning curves, the table, film strips of episodes with the agent's thoughts."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
from overworld.evaluation.conversation import data_url
from overworld.evaluation.episodes import Episode
from overworld.evaluation.folder import EpisodeFolder
from overworld.evaluation.report import Report
from overworld_trainer.metrics import Metric

_HERE = Path(__file__).parent
_STRIPS_PER_MODEL = 3
_CURVES = {
    "Success in rollouts": [Metric.SUCCESS_RATE],
    "Return per episode": [Metric.EPISODIC_RETURN],
    "Replies without an action": [Metric.REPLIES_UNPARSEABLE, Metric.REPLIES_INADMISSIBLE],
    "KL to the clone, per token": [Metric.KL_K3],
}

Evaluations = Mapping[str, tuple[Report, Sequence[Episode]]]


def write_report(
    folder: Path, seed: int, evaluations: Evaluations, cpu_seconds: float, wall_seconds: float
) -> dict[str, Any]:
    """Writes both reports into the run's folder and returns what report.json holds."""
    updates = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    summary: dict[str, Any] = {
        "seed": seed,
        "env": next(iter(evaluations.values()))[0].env,
        "env_steps": updates[-1]["env_steps"],
        "updates": len(updates),
        "cpu_seconds": round(cpu_seconds, 1),
        "wall_seconds": round(wall_seconds, 1),
        "max_rollout_train_logprob_error": max(one.get(Metric.MAX_LOGPROB_ERROR, 0.0) for one in updates),
    }
    for name, (report, _) in evaluations.items():
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
        name: [_strip(EpisodeFolder(folder / "evaluations" / name), episode) for episode in _telling(episodes)]
        for name, (_, episodes) in evaluations.items()
    }
    html = page.render(summary=summary, names=list(evaluations), curves=_curves(updates), strips=strips)
    (folder / "report.html").write_text(html)
    return summary


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
