"""`overworld init`: which names are taken, what is written where, and that the wheel brings the templates."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from overworld.commands import init
from overworld.errors import EnvUnknownError, SettingsError
from overworld.scaffold.name import check_name

SDK = Path(__file__).parents[3] / "sdk"
TEMPLATES = SDK / "overworld" / "scaffold" / "templates"


@pytest.mark.parametrize("name", ["a", "shape-hunt", "maze-3d", "x" * 40])
def test_names_that_can_be_used(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "lower-case"),
        ("ShapeHunt", "such as shape-hunt"),
        ("shape_hunt", "such as shape-hunt"),
        ("shape hunt\n", "such as shape-hunt"),
        ("-shape", "such as shape"),
        ("shape--hunt", "such as shape-hunt"),
        ("3d", "a letter first"),
        ("../shape", "such as shape"),
        ("/etc", "such as etc"),
        (".", "lower-case"),
        ("größe", "lower-case"),
        ("x" * 41, "40 characters"),
        ("$(reboot)", "such as reboot"),
        ("class", "Python itself"),
        ("json", "Python itself"),
        ("numpy", "installed here already"),
        ("overworld", "installed here already"),
        ("redis", "a service of Overworld's own stack"),
        ("env-server", "a service of Overworld's own stack"),
    ],
)
def test_names_that_cannot(name: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        check_name(name)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_is_there_is_never_overwritten(folder: Path) -> None:
    (folder / "full").mkdir()
    (folder / "full" / "mine").write_text("all my work")
    (folder / "file").write_text("mine")
    (folder / "elsewhere").mkdir()
    (folder / "link").symlink_to(folder / "elsewhere")
    (folder / "dangling").symlink_to(folder / "nowhere")
    before = sorted(folder.rglob("*"))
    for name in ("full", "file", "link", "dangling"):
        with pytest.raises(SettingsError, match=r"is there already .* nothing was written"):
            init.main([name])
    assert sorted(folder.rglob("*")) == before
    (folder / "empty").mkdir()
    assert init.main(["empty"]) == 0
    assert (folder / "empty" / "empty" / "env.py").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--language", "node", "--gymnasium", "FrozenLake-v1"], "leave out --language node"),
        (["--language", "cobol"], "language"),
        (["--gymnasium", '"; import os'], "is not an id of Gymnasium"),
        (["--gymnasium", "Nowhere-v0"], "no env"),
        (["--gymnasium", "toy_nowhere:Lake-v0"], "toy_nowhere"),
    ],
)
def test_what_cannot_be_made_leaves_nothing(folder: Path, arguments: list[str], says: str) -> None:
    with pytest.raises((SettingsError, EnvUnknownError), match=says):
        init.main(["lake", *arguments])
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("arguments", [[], ["--gymnasium", "CartPole-v1"], ["--language", "node"]])
def test_no_name_of_a_template_is_left(folder: Path, arguments: list[str]) -> None:
    init.main(["other-name", *arguments])
    for path in (folder / "other-name").rglob("*"):
        text = str(path.relative_to(folder)) + (path.read_text() if path.is_file() else "")
        for old in ("shape-hunt", "shape_hunt", "FrozenLake", "toy-text", "node-server", "maze/Escape"):
            assert old not in text, path


def test_a_server_in_javascript_is_the_template_but_for_its_names(folder: Path) -> None:
    """So what tests/integration/examples says of the template holds for every project."""
    init.main(["other-name", "--language", "node"])
    for path in (folder / "other-name").rglob("*"):
        if path.is_file():
            made = path.read_text().replace("other_name/Escape", "maze/Escape").replace("other-name", "node-server")
            assert made == (TEMPLATES / "node" / path.relative_to(folder / "other-name")).read_text()


def test_the_wheel_brings_the_templates(folder: Path) -> None:
    """What setuptools puts into it is what makes the same projects."""
    setup = "from setuptools import setup; setup()"
    where: list[str | Path] = ["egg_info", "--egg-base", folder, "build_py", "--build-lib", folder / "built"]
    subprocess.run([sys.executable, "-c", setup, "--quiet", *where], cwd=SDK, check=True, capture_output=True)
    kept = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "."],
        cwd=TEMPLATES,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    built = folder / "built" / "overworld" / "scaffold" / "templates"
    assert len(kept) > 30
    assert sorted(str(path.relative_to(built)) for path in built.rglob("*") if path.is_file()) == sorted(kept)
