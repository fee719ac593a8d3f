"""The matrix of faults is complete, and its tests exist."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest

from tests.faults import matrix

MATRIX = matrix.read()


@functools.cache
def found_in(file: str) -> set[str]:
    tree = ast.parse((matrix.ROOT / file).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


@pytest.mark.parametrize("fault", MATRIX["rows"])
def test_each_cell_has_tests_or_says_why_not(fault: str) -> None:
    cells = MATRIX["rows"][fault]
    assert list(cells) == list(MATRIX["columns"])
    for column, cell in cells.items():
        assert set(cell) in ({"lost", "tests"}, {"as"}, {"not"}), column
        assert cell.get("as") in (None, "client", "fleet"), column
        assert all(cell.values()), column
        for test in cell.get("tests", ()):
            file, _, name = test.partition("::")
            assert name in found_in(file), test
    assert any("tests" in cell for cell in cells.values())


@pytest.mark.parametrize("path", matrix.files(), ids=lambda path: path.name)
def test_the_pages_are_those_of_the_matrix(path: Path) -> None:
    assert path.read_text() == matrix.files()[path], "run python -m tests.faults.matrix"
