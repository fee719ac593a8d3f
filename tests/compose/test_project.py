"""A project that `overworld init` makes, beside the stack."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import yaml
from overworld.commands import init

pytestmark = pytest.mark.compose

ROOT = Path(__file__).parents[2]
NAME = "a-name-as-long-as-a-project-may-have-one"


@pytest.mark.parametrize("arguments", [[], ["--language", "node"]])
def test_compose_joins_it_to_the_stack(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert init.main([NAME, *arguments]) == 0
    project = tmp_path / NAME
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
    server = services[NAME]
    assert server["build"]["context"] == str(project)
    assert server["image"] == f"overworld/{NAME}:{(ROOT / 'VERSION').read_text().strip()}"
    secrets = {one["target"]: one["source"] for one in server["volumes"] if one["type"] == "volume"}
    assert secrets == {"/run/secrets/overworld": f"{NAME}-secrets"}
    assert services["secrets"]["environment"]["OWN_ENV_SERVER"] == NAME
