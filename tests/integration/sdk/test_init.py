"""Projects that `overworld init` makes: their own tests pass, and what is in them is in form."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from overworld.commands import init

ROOT = Path(__file__).parents[3]
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


@pytest.mark.parametrize("arguments", [[], ["--language", "node"]])
def test_compose_joins_it_to_the_stack(arguments: list[str], tmp_path: Path) -> None:
    if not shutil.which("docker") or subprocess.run(["docker", "compose", "version"], capture_output=True).returncode:
        why = "there is no docker compose here"
        pytest.fail(why) if os.environ.get("REQUIRE_DOCKER") == "1" else pytest.skip(why)
    project = made(tmp_path, LONGEST, arguments)
    files = f"{ROOT / 'docker-compose.yml'}:{project / 'compose.yml'}"
    done = subprocess.run(
        ["docker", "compose", "config"],
        cwd=project,
        env=os.environ | {"COMPOSE_FILE": files, "PWD": str(project)},
        capture_output=True,
        text=True,
        check=True,
    )
    services = yaml.safe_load(done.stdout)["services"]
    server = services[LONGEST]
    assert server["build"]["context"] == str(project)
    assert server["image"] == f"overworld/{LONGEST}:{(ROOT / 'VERSION').read_text().strip()}"
    secrets = {one["target"]: one["source"] for one in server["volumes"] if one["type"] == "volume"}
    assert secrets == {"/run/secrets/overworld": f"{LONGEST}-secrets"}
    assert services["secrets"]["environment"]["OWN_ENV_SERVER"] == LONGEST
