"""VERSION is the one place for the version, and every package has the licence; what cannot read the file agrees."""

import json
import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
VERSION = (ROOT / "VERSION").read_text().strip()
PACKAGES = {
    "overworld": "sdk",
    "overworld-vlm": "vlm",
    "overworld-envs": "services/envserver",
    "overworld-trainer": "services/trainer",
    "overworld-policy": "services/policy",
}


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_has_the_version_the_licence_and_the_notice_of_the_repository(package: str) -> None:
    project = tomllib.loads((ROOT / PACKAGES[package] / "pyproject.toml").read_text())["project"]
    assert project["dynamic"] == ["version"]
    assert project["license-files"] == ["LICENSE", "NOTICE"]
    assert version(package) == VERSION, "run: make setup"
    for name in ("VERSION", "LICENSE", "NOTICE"):
        copy, original = ROOT / PACKAGES[package] / name, ROOT / name
        assert copy.read_bytes() == original.read_bytes(), f"{copy} must be a link to {original}"


NODE = "sdk/overworld/scaffold/templates/node"
FILES = ("docker-compose*.yml", "k8s/**/*.yaml", "k8s/README.md", "examples/**/*.yml", "examples/**/Dockerfile")
TEMPLATES = ("*/*.md", "*/*.yml", "*/k8s/*.yaml", "*/Dockerfile")
TAG = re.compile(r"\boverworld/[\w-]+:([\w.-]+)|\bnewTag: *([\w.-]+)")


def test_images_have_the_version_as_their_tag() -> None:
    paths = sorted(path for pattern in FILES for path in ROOT.glob(pattern))
    paths += sorted(path for pattern in TEMPLATES for path in (ROOT / NODE).parent.glob(pattern))
    tags = {path: ["".join(found) for found in TAG.findall(path.read_text())] for path in paths}
    assert sum(map(len, tags.values())) > 15
    wrong = {str(path): tag for path in paths for tag in tags[path] if tag.removesuffix("-cuda") != VERSION}
    assert wrong == {}, f"these tags must be {VERSION}, as in VERSION"


@pytest.mark.parametrize("file", ["package.json", "package-lock.json"])
def test_the_server_in_javascript_has_it_too(file: str) -> None:
    assert json.loads((ROOT / NODE / file).read_text())["version"] == VERSION
