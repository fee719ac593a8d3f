"""Writes docs/faults.md, and the README's short form of it, from matrix.yaml beside it.

python -m tests.faults.matrix
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
MATRIX = Path(__file__).with_name("matrix.yaml")
PAGE = ROOT / "docs" / "faults.md"
README = ROOT / "README.md"
BEGIN, END = "<!-- made by tests/faults/matrix.py: begin -->", "<!-- end -->"

_HEAD = """# Faults

<!-- made by tests/faults/matrix.py from matrix.yaml -->

What happens to each component under each fault, and the tests that try it. *Nothing* is lost where what was under way
is finished with the same numbers: the fault costs time only. [Fuzzers](../tests/fuzz) draw faults from a seed: for
seconds in `make test`, for an hour in `make soak`, and with coverage as a guide in `make fuzz`.

"""


def read() -> dict[str, Any]:
    """The matrix: {"columns": {name: what it is}, "rows": {fault: {column: cell}}}."""
    matrix: dict[str, Any] = yaml.safe_load(MATRIX.read_text())
    return matrix


def short(matrix: dict[str, Any]) -> str:
    """The table of the README: a word for each cell."""
    columns = list(matrix["columns"])
    lines = ["| | " + " | ".join(columns) + " |", "| --- |" + " --- |" * len(columns)]
    for fault, cells in matrix["rows"].items():
        lines.append(f"| {fault} | " + " | ".join(_word(cells, column) for column in columns) + " |")
    return "\n".join(lines) + "\n"


def page(matrix: dict[str, Any]) -> str:
    """docs/faults.md."""
    text = _HEAD + short(matrix)
    for fault, cells in matrix["rows"].items():
        text += f"\n## {fault[0].upper()}{fault[1:]}\n\n| component | lost | tried by |\n| --- | --- | --- |\n"
        for column, cell in cells.items():
            if "as" in cell:
                text += f"| {column} | as the {cell['as']}, through which it works | |\n"
            elif "not" in cell:
                text += f"| {column} | does not apply: {cell['not']} | |\n"
            else:
                text += f"| {column} | {cell['lost']} | {'<br>'.join(map(_link, cell['tests']))} |\n"
    return text


def files() -> dict[Path, str]:
    """What each file should hold."""
    matrix = read()
    readme = README.read_text()
    before, _, rest = readme.partition(BEGIN)
    after = rest.partition(END)[2]
    return {PAGE: page(matrix), README: f"{before}{BEGIN}\n\n{short(matrix)}\n{END}{after}"}


def _word(cells: dict[str, Any], column: str) -> str:
    cell = cells[column]
    while "as" in cell:
        cell = cells[cell["as"]]
    if "not" in cell:
        return "–"
    return "nothing" if cell["lost"].startswith("nothing") else cell["lost"].partition(",")[0].partition(";")[0]


def _link(test: str) -> str:
    file, _, name = test.partition("::")
    return f"[{name.removeprefix('test_').replace('_', ' ')}](../{file})"


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text)
