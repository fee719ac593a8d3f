"""Projects that `overworld init` makes: their own tests pass, and what is in them is in form."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from overworld.commands import init

LONGEST = "a-name-as-long-as-a-project-may-have-one"
TOO_LONG = {"gymnasium": ["-k", "not audit"]}
"""Ten CPU-seconds; `make tutorial` has that run, too."""
PYTHON_KINDS: dict[str, list[str]] = {"python": [], "gymnasium": ["--gymnasium", "FrozenLake-v1"]}


def made(folder: Path, name: str, arguments: list[str]) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert init.main([name, *arguments]) == 0
    return folder / name


@pytest.mark.parametrize("kind", PYTHON_KINDS)
def test_its_tests_pass(kind: str, tmp_path: Path) -> None:
    project = made(tmp_path, "shape-game", PYTHON_KINDS[kind])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TOO_LONG.get(kind, ())]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["a", LONGEST])
@pytest.mark.parametrize("kind", PYTHON_KINDS)
def test_it_is_linted_and_formatted_under_any_name(kind: str, name: str, tmp_path: Path) -> None:
    project = made(tmp_path, name, PYTHON_KINDS[kind])
    for command in (["check"], ["format", "--check"]):
        ruff: list[str | Path] = [Path(sys.executable).with_name("ruff"), *command, "--no-cache", "."]
        done = subprocess.run(ruff, cwd=project, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
