"""What the checks gave, for people and as JSON."""

from __future__ import annotations

import json
from itertools import groupby

from overworld.check.findings import Finding, shortened
from overworld.check.rules import ADVICE, RULES, section
from overworld.check.running import Report
from overworld.service.extras import needs_extra

with needs_extra("check"):
    from rich.console import Console
    from rich.padding import Padding
    from rich.text import Text


def show(report: Report, console: Console, *, verbose: bool) -> None:
    """Prints the rules by what they are about, then what was found, then a sum."""
    broken = set(report.broken)
    covered = [rule for rule in RULES if rule in report.held | broken | set(report.skipped)]
    envs = f"{len(report.envs)} envs" if len(report.envs) != 1 else shortened(report.envs[0], 80)
    console.print(Text.assemble((report.subject, "bold"), f"  {envs}\n"))
    for name, group in groupby(covered, section):
        rules = list(group)
        _show_section(console, name, rules, report, verbose=verbose)
    for rule in report.broken:
        console.print()
        console.print(Text.assemble(("✗ ", "red"), (rule, "bold red"), f"  {RULES[rule]}"))
        for finding in report.findings:
            if finding.rule == rule:
                _show_finding(console, finding)
    for finding in report.advice:
        console.print()
        console.print(Text.assemble(("! ", "yellow"), (finding.rule, "bold yellow"), f"  {ADVICE[finding.rule]}"))
        _show_finding(console, finding)
    console.print()
    console.print(_sum(report, len(covered)))


def _show_section(console: Console, name: str, rules: list[str], report: Report, *, verbose: bool) -> None:
    broken = [rule for rule in rules if rule in report.broken]
    unseen = [rule for rule in rules if rule in report.skipped]
    held = len(rules) - len(broken) - len(unseen)
    mark = ("✗", "red") if broken else ("✓", "green") if held else ("·", "dim")
    line = Text.assemble(mark, f" {name:<26}", (f"{held:>3} of {len(rules)} hold", ""))
    if broken:
        line.append(f"; broken: {', '.join(broken)}", "red")
    if unseen and not verbose:
        line.append(f"; not checked: {', '.join(unseen)}", "dim")
    console.print(line)
    for rule in rules if verbose else ():
        if rule in broken:
            text = Text.assemble(("    ✗ ", "red"), f"{rule:<4}{RULES[rule]}")
        elif rule in unseen:
            text = Text.assemble(
                ("    · ", "dim"), (f"{rule:<4}{RULES[rule]}: not checked, {report.skipped[rule]}", "dim")
            )
        else:
            text = Text.assemble(("    ✓ ", "green"), f"{rule:<4}{RULES[rule]}")
        console.print(text)


def _show_finding(console: Console, finding: Finding) -> None:
    told = Text()
    told.append(f"{finding.check}, {shortened(finding.env, 80)}\n", "dim")
    for name in ("sent", "came", "expected"):
        told.append(f"{name:<9}", "bold").append(getattr(finding, name) + ("\n" if name != "expected" else ""))
    console.print(Padding(told, (0, 0, 0, 4), expand=False))


def _sum(report: Report, covered: int) -> Text:
    broken = len(report.broken)
    told = Text(f"{len(report.held)} of {covered} rules hold", "bold")
    told.append(f", {broken} broken" if broken else "", "bold red")
    told.append(f", {len(report.skipped)} not checked" + ("" if broken else " (-v says why)") if report.skipped else "")
    verdict = "conforms" if report.conforms else "does not conform" if broken else "nothing was checked"
    told.append(f": {verdict}; {report.checks} checks, {report.seconds:.1f} s")
    return told


def as_json(report: Report) -> str:
    """The whole report."""
    content = {
        "subject": report.subject,
        "conforms": report.conforms,
        "envs": report.envs,
        "findings": [finding.as_json() for finding in report.findings],
        "advice": [finding.as_json() for finding in report.advice],
        "held": [rule for rule in RULES if rule in report.held],
        "broken": report.broken,
        "not_checked": {rule: report.skipped[rule] for rule in RULES if rule in report.skipped},
        "rules": {rule: RULES[rule] for rule in RULES},
        "checks": report.checks,
        "seconds": round(report.seconds, 3),
    }
    return json.dumps(content, indent=2) + "\n"
