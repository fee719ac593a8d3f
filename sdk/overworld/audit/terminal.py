"""The report, for a terminal."""

from __future__ import annotations

from overworld.audit.questions import QUESTIONS, SECTIONS
from overworld.audit.report import EnvReport, Finding, Report
from overworld.check.findings import shortened
from overworld.service.extras import needs_extra

with needs_extra("check"):
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table as Grid
    from rich.text import Text

_MARKS = {"good": ("✓", "green"), "warning": ("!", "yellow"), "error": ("✗", "red"), "skipped": ("·", "dim")}


def show(report: Report, console: Console, *, verbose: bool) -> None:
    """Prints each env's questions by what they are about, what was found, and what was measured."""
    for number, env in enumerate(report.envs):
        if number:
            console.print()
        _show_env(report, env, console, verbose=verbose)
    if len(report.envs) > 1:
        errors = len(report.errors)
        console.print()
        console.print(
            Text.assemble(
                (f"{len(report.envs)} envs", "bold"),
                (f", {errors} errors", "bold red") if errors else "",
                f", {len(report.findings) - errors} warnings",
            )
        )


def _show_env(report: Report, env: EnvReport, console: Console, *, verbose: bool) -> None:
    console.print(Text.assemble((report.subject, "bold"), f"  {shortened(env.spec.id, 80)}\n"))
    for section, numbers in SECTIONS.items():
        _show_section(console, section, numbers, env, verbose=verbose)
    for finding in sorted(env.findings, key=lambda each: each.severity):
        console.print()
        _show_finding(console, finding)
    for table in env.tables:
        grid = Grid(*table.columns, title=table.title, title_justify="left", box=None, padding=(0, 2, 0, 0))
        for row in table.rows:
            grid.add_row(*(Text(shortened(cell, 80)) for cell in row))
        console.print()
        console.print(grid)
    console.print()
    console.print(_sum(env))


def _show_section(console: Console, section: str, numbers: list[str], env: EnvReport, *, verbose: bool) -> None:
    questions = [question for question in QUESTIONS.values() if question.number in numbers]
    statuses = [env.status(question.id) for question in questions]
    worst = next((status for status in ("error", "warning", "good") if status in statuses), "skipped")
    line = Text.assemble(_MARKS[worst], f" {section:<20}{statuses.count('good'):>3} of {len(questions)} good")
    for status, style in (("error", "red"), ("warning", "yellow"), ("skipped", "dim")):
        found = [question.number for question, each in zip(questions, statuses, strict=True) if each == status]
        if found:
            line.append(f"; {status if status != 'skipped' else 'not answered'}: {', '.join(found)}", style)
    console.print(line)
    for question, status in zip(questions, statuses, strict=True) if verbose else ():
        told = Text.assemble("    ", _MARKS[status], f" {question.number:<4}{question.asks}")
        if status == "skipped":
            told.append(f" Not answered: {env.skipped.get(question.id, 'it was not asked')}", "dim")
        console.print(told)


def _show_finding(console: Console, finding: Finding) -> None:
    question = QUESTIONS[finding.question]
    mark, colour = _MARKS[finding.severity]
    console.print(Text.assemble((f"{mark} ", colour), (question.number, f"bold {colour}"), f"  {question.asks}"))
    told = Text()
    told.append(f"{question.id}\n", "dim")
    for name in ("sent", "came", "expected"):
        told.append(f"{name:<9}", "bold").append(getattr(finding, name) + "\n")
    told.append("remedy   ", "bold").append(question.remedy)
    console.print(Padding(told, (0, 0, 0, 4), expand=False))


def _sum(env: EnvReport) -> Text:
    statuses = [env.status(question) for question in QUESTIONS]
    errors = sum(finding.severity == "error" for finding in env.findings)
    warnings = len(env.findings) - errors
    told = Text(f"{statuses.count('good')} of {len(statuses)} questions are answered well", "bold")
    told.append(f", {errors} errors" if errors else "", "bold red")
    told.append(f", {warnings} warnings" if warnings else "", "bold yellow")
    skipped = statuses.count("skipped")
    told.append(f", {skipped} not answered (-v says why)" if skipped else "")
    return told.append(f"; {env.episodes:,} episodes, {env.turns:,} turns, {env.seconds:.1f} s")
