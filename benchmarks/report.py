"""How every benchmark reports: a table, `--json FILE`, and with CHECK=1 a failure below a target."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

CONSOLE = Console(width=None if sys.stdout.isatty() else 150)  # a log has no width of its own


@dataclass(frozen=True)
class Row:
    """One figure beside its peer's. `ratio` above 1: we are better; `target` is the least ratio wanted."""

    name: str
    setting: str
    value: float
    unit: str
    peer: str
    peer_value: float
    ratio: float
    target: float | None = None

    @property
    def missed(self) -> bool:
        """Whether the ratio is below the target."""
        return self.target is not None and self.ratio < self.target


def parser(description: str) -> argparse.ArgumentParser:
    """A parser with the options that all benchmarks have."""
    arguments = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--json", type=Path, metavar="FILE", help="write the rows there, too")
    return arguments


def finish(rows: list[Row], json_file: Path | None, *, only_targets: bool = False) -> None:
    """Prints the rows (or those with a target), writes all, and exits with 1 if CHECK=1 and a target is missed."""
    table = Table("what", "setting", "value", "unit", "peer", "peer's value", "ratio", "target")
    for row in rows:
        if only_targets and row.target is None:
            continue
        target = "" if row.target is None else f"{row.target:g}{' MISSED' if row.missed else ''}"
        numbers = _figure(row.value), row.unit, row.peer, _figure(row.peer_value), f"{row.ratio:.2f}", target
        table.add_row(row.name, row.setting, *numbers, style="red" if row.missed else None)
    CONSOLE.print(table)
    if json_file:
        json_file.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    if os.environ.get("CHECK") == "1" and any(row.missed for row in rows):
        sys.exit("a target is missed")


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
