"""A diagnosis as one HTML file, which needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from overworld.evaluation.diagnosis.contrasts import ERROR_RATE, Contrast
from overworld.evaluation.diagnosis.diagnosis import TITLES, Diagnosis, Played
from overworld.evaluation.diagnosis.verdict import DEFECTS, UNEXPLAINED

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --dim: #808080; --ink: CanvasText; --good: #2e7d32; --bad: #c62828;
  --sight: #1565c0; --memory: #6a1b9a; --planning: #c77700; --form: #00796b; --unexplained: #757575; --won: #4c9a51 }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem; margin-bottom: .2rem } h2 { font-size: 1.15rem; margin-top: 2.2rem }
.dim { color: var(--dim) } .verdict { font-size: 1.15rem; margin: .3rem 0 } ul { margin: .3rem 0; padding-left: 1.2rem }
.wide { overflow-x: auto } table { border-collapse: collapse; width: 100% }
td, th { padding: .25rem .9rem .25rem 0; text-align: left; border-top: 1px solid var(--line); white-space: nowrap }
th { border-top: 0; font-weight: 600 } .number { text-align: right; font-variant-numeric: tabular-nums }
svg { display: block; width: 100%; height: auto; overflow: visible } svg text { fill: var(--ink); font-size: 13px }
svg .small { font-size: 12px; fill: var(--dim) } svg .inside { fill: #fff }
"""

_WIDTH, _LABELS, _FIGURES = 960, 230, 210
"""Of a drawing, in its own units: all of it, the column of labels, and that of figures."""
_ROW = 30
_NARROW = 46
"""A part of the bar that is not wide enough for its label."""


def as_html(found: Diagnosis) -> str:
    """The page."""
    title = f"Why {escape(found.model)} fails in {escape(found.env)}"
    named = ", ".join(found.named) or "nothing is named"
    meaning = "".join(f'<p class="verdict">{escape(sentence)}</p>' for sentence in found.meaning)
    cautions = "".join(f"<li>{escape(sentence)}</li>" for sentence in found.cautions)
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{title}: {escape(named)}</title><style>{_STYLE}</style>\n<h1>{title}</h1>\n"
        f'<p class="dim">{found.episodes} tasks, each under {len(found.conditions)} conditions with the same noise'
        f"{f'; weights {escape(found.fingerprint[:16])}' if found.fingerprint else ''}</p>\n{meaning}\n"
        f"{f'<ul>{cautions}</ul>' if cautions else ''}\n"
        f"<h2>Where the episodes went</h2>\n{_bar(found)}\n"
        "<h2>What each aid gains on top of those above it that do no harm</h2>\n"
        f"{_forest(list(found.steps.values()), _notes(found))}\n"
        f"<h2>What else changes, against the agent as it is</h2>\n{_forest(list(found.controls.values()), {})}\n"
        '<p class="dim">Differences in success over the same tasks. The intervals hold together at '
        f"{1 - ERROR_RATE:.0%} (Tango, Bonferroni); p is that of McNemar's exact test, corrected by Holm. Colour: "
        f"p &lt; {ERROR_RATE:g}.</p>\n<h2>Conditions</h2>\n{_table(found)}\n"
        '<p class="dim">Made by <code>overworld diagnose</code>; docs/diagnose.md says what follows from what, and '
        "what does not. All conditions with a + are privileged: the simulator helped.</p></html>\n"
    )


def _bar(found: Diagnosis) -> str:
    """One bar for all episodes: successes, then failures by what would have made up for them."""
    own = found.conditions["as_is"].success.value
    shares = [("success", own, "won"), *((name, found.shares[name], name) for name in (*DEFECTS, UNEXPLAINED))]
    total = sum(max(share, 0) for _, share, _ in shares)
    parts, x = [], 0.0
    for name, share, colour in shares:
        width = max(share, 0) / total * _WIDTH
        if width <= 0:
            continue
        parts.append(
            f'<rect x="{x:.1f}" y="0" width="{width:.1f}" height="34" fill="var(--{colour})">'
            f"<title>{name} {share:.1%}</title></rect>"
        )
        if width >= _NARROW:
            parts.append(f'<text class="inside" x="{x + width / 2:.1f}" y="22" text-anchor="middle">{share:.0%}</text>')
        x += width
    legend = "".join(
        f'<rect x="{160 * number}" y="50" width="12" height="12" fill="var(--{colour})"/>'
        f'<text x="{160 * number + 18}" y="61">{name} {share:.1%}</text>'
        for number, (name, share, colour) in enumerate(shares)
    )
    alternative = ", ".join(f"{name} {share:.1%}" for name, share, _ in shares)
    return f'<svg viewBox="0 0 {_WIDTH} 70" role="img" aria-label="{alternative}">{"".join(parts)}{legend}</svg>'


def _notes(found: Diagnosis) -> dict[str, str]:
    """What a gain by each aid shows, and which were dropped."""
    return {aid: "dropped" if aid in found.dropped else defect for aid, defect in found.shows.items()}


def _forest(rows: list[Contrast], notes: Mapping[str, str]) -> str:
    """Differences with their intervals, one below the other, from -1 to 1; `notes` stand next to the names."""
    left, right = _LABELS, _WIDTH - _FIGURES
    height = _ROW * len(rows) + 26

    def at(difference: float) -> float:
        return left + (difference + 1) / 2 * (right - left)

    lines = [
        f'<line x1="{at(tick):.1f}" y1="0" x2="{at(tick):.1f}" y2="{height - 22}" stroke="var(--line)" '
        f'stroke-width="{2 if not tick else 1}"/>'
        f'<text class="small" x="{at(tick):.1f}" y="{height - 6}" text-anchor="middle">{tick:+.0%}</text>'
        for tick in (-1.0, -0.5, 0.0, 0.5, 1.0)
    ]
    for number, row in enumerate(rows):
        y = _ROW * number + _ROW / 2
        difference = row.difference
        colour = {1: "var(--good)", 0: "var(--dim)", -1: "var(--bad)"}[row.effect]
        lines.append(
            f'<text x="0" y="{y + 5}">{escape(TITLES[row.second])}'
            f'<tspan class="small" dx="8">{notes.get(row.second, "")}</tspan></text>'
            f'<line x1="{at(difference.low):.1f}" y1="{y}" x2="{at(difference.high):.1f}" y2="{y}" stroke="{colour}" '
            f'stroke-width="2"/><circle cx="{at(difference.value):.1f}" cy="{y}" r="5" fill="{colour}"/>'
            f'<text x="{right + 14}" y="{y + 5}">{difference.value:+.1%}'
            f'<tspan class="small" dx="8">p {_p(row.adjusted)}, +{row.gained} −{row.lost}</tspan></text>'
        )
    return f'<svg viewBox="0 0 {_WIDTH} {height}" role="img">{"".join(lines)}</svg>'


def _p(value: float) -> str:
    return "< 0.0001" if value < 0.0001 else f"= {value:.2g}"


def _table(found: Diagnosis) -> str:
    head = "".join(
        f"<th{' class=number' if number else ''}>{name}</th>"
        for number, name in enumerate(
            ("condition", "success", "95 %", "return", "turns", "invalid replies", "went otherwise")
        )
    )
    order = ["as_is", *(name for name in TITLES if name in found.conditions and name != "as_is")]
    rows = "".join(_row(TITLES[name], found.conditions[name]) for name in order)
    return f'<div class="wide"><table><tr>{head}</tr>{rows}</table></div>'


def _row(title: str, played: Played) -> str:
    success = played.success
    cells = (
        f"{success.value:.1%}",
        f"{success.low:.1%} to {success.high:.1%}",
        f"{played.mean_return:.3f}",
        f"{played.mean_length:.1f}",
        f"{played.invalid_replies:.1%}",
        f"{played.changed:.0%}",
    )
    return f"<tr><td>{escape(title)}</td>{''.join(f'<td class=number>{cell}</td>' for cell in cells)}</tr>"
