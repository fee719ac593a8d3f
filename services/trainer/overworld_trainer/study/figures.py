"""Pictures of a study's results, as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from overworld.errors import MissingExtraError

from overworld_trainer.study.results import Result

try:
    import matplotlib
except ModuleNotFoundError as error:
    raise MissingExtraError(
        f"{error.name} is not installed; it comes with: pip install 'overworld-trainer[study]'", name=error.name
    ) from error

_STYLE: Any = {
    "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "overworld",
}  # fmt: skip
_COLOURS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2", "#be185d", "#4d7c0f")
_PER_ROW = 6


def draw_curves(path: Path, arms: Mapping[str, Sequence[Result]], budget: int, label: str) -> None:
    """A panel per arm with the curve of every seed and, in bold, their mean; then every seed's area beside the others.

    Writes the SVG `path`, the same bytes each time.
    """
    matplotlib.use("svg")
    from matplotlib import pyplot

    panels = len(arms) + 1
    rows = -(-panels // _PER_ROW)
    grid = np.linspace(0, budget, 61)
    with pyplot.rc_context(_STYLE):
        figure, axes = pyplot.subplots(
            rows, min(panels, _PER_ROW), figsize=(12, 2.6 * rows), layout="constrained", squeeze=False
        )
        every = list(axes.flat)
        highest = max((value for results in arms.values() for one in results for _, value in one.curve), default=1.0)
        for axis, (number, (name, results)) in zip(every, enumerate(arms.items()), strict=False):
            colour = _COLOURS[number % len(_COLOURS)]
            for one in results:
                axis.plot(*zip(*one.curve, strict=True), color=colour, linewidth=0.8, alpha=0.45)
            if results:
                heights = [np.interp(grid, *np.array(one.curve, float).T) for one in results]
                axis.plot(grid, np.mean(heights, axis=0), color=colour, linewidth=2.2)
            axis.set_title(f"{name} ({len(results)})", fontsize=9, loc="left")
            axis.set_xlim(0, budget)
            axis.set_ylim(min(0.0, axis.get_ylim()[0]), max(1.0, highest))
            axis.grid(alpha=0.25)
            axis.set_xlabel("env steps")
        every[0].set_ylabel(label)
        points = every[len(arms)]
        for number, results in enumerate(arms.values()):
            areas = [one.area for one in results]
            colour = _COLOURS[number % len(_COLOURS)]
            points.plot([number] * len(areas), areas, "o", color=colour, markersize=4, alpha=0.6)
            if areas:
                points.plot([number - 0.3, number + 0.3], [np.mean(areas)] * 2, color=colour, linewidth=2.2)
        points.set_xlim(-0.5, len(arms) - 0.5)
        points.set_xticks(range(len(arms)), list(arms), rotation=30, ha="right", fontsize=8)
        points.set_title("area under the curve", fontsize=9, loc="left")
        points.grid(alpha=0.25)
        for axis in every[panels:]:
            axis.set_visible(False)
        figure.savefig(path, format="svg", metadata={"Date": None})
        pyplot.close(figure)
