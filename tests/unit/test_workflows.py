"""The public workflows name what exists. They cannot be run here."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_names_what_exists(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {"contents": "read"}, "a job that needs more says so itself"
    made: set[str] = set()
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"]
        made |= targets(job)
        for entry in job.get("strategy", {}).get("matrix", {}).get("include", ()):
            assert f"AS {entry['target']}\n" in (ROOT / entry["file"]).read_text()
    assert made <= TARGETS
    for action in re.findall(r"uses: (\S+)(.*)", path.read_text()):
        assert re.fullmatch(r"\S+@[0-9a-f]{40} # v\d+\.\d+\.\d+", "".join(action)), "by commit, with its version"


def targets(job: dict[str, Any]) -> set[str]:
    """What a job makes."""
    matrix = job.get("strategy", {}).get("matrix", {})
    made: set[str] = set()
    for step in job["steps"]:
        assert ("run" in step) != ("uses" in step)
        words = step.get("run", "").split()
        if words[:1] == ["make"]:
            made |= set(matrix["target"]) if "matrix.target" in step["run"] else set(words[1:])
    return made


def test_workflows_are_found() -> None:
    assert {path.name for path in WORKFLOWS} == {"test.yml", "nightly.yml", "release.yml"}


def test_all_images_are_released() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    built = {
        (service["image"].removeprefix("overworld/").partition(":")[0], build["dockerfile"], build["target"])
        for service in compose["services"].values()
        if (build := service.get("build"))
    }
    release = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())
    included = release["jobs"]["image"]["strategy"]["matrix"]["include"]
    assert {(entry["name"], entry["file"], entry["target"]) for entry in included} == built


def test_base_images_are_build_arguments_that_a_bot_can_pin() -> None:
    settings = json.loads((ROOT / ".github" / "renovate.json").read_text())
    assert "docker:pinDigests" in settings["extends"]
    for file in ("services/envserver/Dockerfile", "vlm/Dockerfile"):
        text = (ROOT / file).read_text()
        assert re.search(
            r"^ARG PYTHON_IMAGE=python:3\.11-slim(@sha256:[0-9a-f]{64})?\nFROM \$PYTHON_IMAGE AS python$",
            text,
            re.MULTILINE,
        )
