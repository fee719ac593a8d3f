"""The report as one HTML file, which needs nothing else."""

from __future__ import annotations

import base64
from html import escape

from overworld.audit.questions import QUESTIONS, SECTIONS
from overworld.audit.report import EnvReport, Finding, Report, Table
from overworld.check.findings import shortened

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --dim: #888; --red: #c62828; --amber: #b26a00; --green: #2e7d32 }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line) } h3 { margin-bottom: .3rem }
table { border-collapse: collapse; margin: .5rem 0 }
td, th { padding: .15rem .8rem .15rem 0; text-align: left; vertical-align: top }
td { border-top: 1px solid var(--line) } .figures td + td, .figures th + th { text-align: right }
code { font-size: .9em } .dim { color: var(--dim) }
.error { color: var(--red) } .warning { color: var(--amber) }
.good { color: var(--green) } .skipped { color: var(--dim) }
.finding { border-left: 4px solid; padding: .2rem 1rem; margin: 1rem 0 } .finding > * { color: CanvasText }
.finding dl { display: grid; grid-template-columns: 6rem 1fr; margin: .3rem 0 }
.finding dd { margin: 0; overflow-wrap: anywhere }
.finding dt { color: var(--dim) } figure { display: inline-block; margin: 0 1rem 1rem 0 }
figcaption { color: var(--dim); font-size: .85em }
img { height: 12rem; image-rendering: pixelated; border: 1px solid var(--line) }
"""
_MARKS = {"good": "✓", "warning": "!", "error": "✗", "skipped": "·"}


def as_html(report: Report) -> str:
    """The page."""
    errors, warnings = len(report.errors), len(report.findings) - len(report.errors)
    title = f"Audit of {escape(shortened(report.subject, 100))}"
    verdict = f"{errors} error{'' if errors == 1 else 's'}, {warnings} warning{'' if warnings == 1 else 's'}"
    body = "".join(_env(env) for env in report.envs)
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{title}</title><style>{_STYLE}</style>\n'
        f'<h1>{title}</h1>\n<p class="{"error" if errors else "warning" if warnings else "good"}">{verdict}</p>\n'
        f'{body}<p class="dim">Made by <code>overworld audit</code>, seed {report.seed}. '
        "Ids in <b>bold</b> are those of OpenEnv's RFC 008.</p></html>\n"
    )


def _env(env: EnvReport) -> str:
    order = sorted(env.findings, key=lambda finding: finding.severity)
    return (
        f"<h2>{_text(env.spec.id, 100)}</h2>\n<p>{_text(env.spec.task, 600)}</p>\n"
        f"{_frames(env)}{''.join(map(_finding, order))}{_questions(env)}{''.join(map(_table, env.tables))}"
        f'<p class="dim">{env.episodes:,} episodes, {env.turns:,} turns, {env.seconds:.1f} s</p>\n'
    )


def _frames(env: EnvReport) -> str:
    return "".join(
        f'<figure><img alt="" src="data:image/png;base64,{base64.b64encode(frame.png).decode()}">'
        f"<figcaption>{escape(frame.caption)}</figcaption></figure>\n"
        for frame in env.frames
    )


def _finding(finding: Finding) -> str:
    question = QUESTIONS[finding.question]
    rows = {"sent": finding.sent, "came": finding.came, "expected": finding.expected, "remedy": question.remedy}
    listed = "".join(f"<dt>{name}</dt><dd>{_text(value, 1000)}</dd>" for name, value in rows.items())
    return (
        f'<div class="finding {finding.severity}"><b>{_MARKS[finding.severity]} {question.number} '
        f'{escape(question.asks)}</b> <code class="dim">{question.id}</code><dl>{listed}</dl></div>\n'
    )


def _questions(env: EnvReport) -> str:
    rows = []
    for section, numbers in SECTIONS.items():
        rows.append(f'<tr><th colspan="4">{escape(section)}</th></tr>')
        for question in QUESTIONS.values():
            if question.number not in numbers:
                continue
            status = env.status(question.id)
            why = env.skipped.get(question.id, "it was not asked") if status == "skipped" else ""
            note = f'<br><span class="dim">{_text(why, 200)}</span>' if why else ""
            name = f"<b>{question.id}</b>" if question.rfc else question.id
            rows.append(
                f'<tr><td class="{status}">{_MARKS[status]}</td><td>{question.number}</td>'
                f"<td>{escape(question.asks)}{note}</td><td><code>{name}</code></td></tr>"
            )
    return f"<h3>Questions</h3>\n<table>{''.join(rows)}</table>\n"


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in table.columns)
    rows = "".join(f"<tr>{''.join(f'<td>{_text(cell, 80)}</td>' for cell in row)}</tr>" for row in table.rows)
    return f'<h3>{escape(table.title)}</h3>\n<table class="figures"><tr>{head}</tr>{rows}</table>\n'


def _text(text: str, limit: int) -> str:
    """What an env or a server says, cut and without control characters."""
    return escape(shortened(text, limit))
