"""A project that `overworld init` makes: beside the stack, and its image on its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from overworld.commands import init

from tests.compose.stack import run

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


@pytest.mark.parametrize(
    ("arguments", "serve"),
    [
        ([], ["its_image", "--plaintext", "--allow-expert"]),
        (["--gymnasium", "FrozenLake-v1"], ["its_image", "--plaintext"]),
        (["--language", "node"], ["--allow-expert"]),
    ],
    ids=["python", "gymnasium", "node"],
)
def test_its_image_serves_an_env_that_conforms(
    arguments: list[str], serve: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert init.main(["its-image", *arguments]) == 0
    token = uuid.uuid4().hex
    with built(tmp_path / "its-image") as image, served(image, serve, token) as address:
        done = subprocess.run(
            [sys.executable, "-m", "overworld", "check", f"{address}:50051", "--plaintext"],
            env=os.environ | {"OVERWORLD_TOKEN": token},
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


@contextmanager
def built(project: Path) -> Iterator[str]:
    """The image of a project, from this working tree's own."""
    run("docker", "compose", "build", "secrets")
    image = f"overworld/its-image:{uuid.uuid4().hex[:8]}"
    pip = f"id=pip,src={os.environ.get('PIP_CONFIG_FILE', '/dev/null')}"
    run("docker", "build", "--network", "host", "--secret", pip, "--tag", image, str(project))
    try:
        yield image
    finally:
        run("docker", "image", "rm", "--no-prune", image)


@contextmanager
def served(image: str, command: list[str], token: str) -> Iterator[str]:
    """The address of a container that runs the image with as few rights as the stack gives, once it is healthy."""
    name = f"overworld-test-{uuid.uuid4().hex[:8]}"
    rights = ("--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges")
    run("docker", "network", "create", "--internal", name)
    try:
        given = (f"--name={name}", f"--network={name}", f"--env=OVERWORLD_TOKEN={token}")
        run("docker", "run", "--detach", "--init", "--memory=2g", "--pids-limit=256", *rights, *given, image, *command)
        deadline = time.monotonic() + 180
        while (
            health := run("docker", "inspect", "--format={{.State.Health.Status}}", name).stdout.strip()
        ) != "healthy":
            assert time.monotonic() < deadline, f"{health}: {run('docker', 'logs', name).stderr[-3000:]}"
            time.sleep(0.3)
        addresses = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        yield run("docker", "inspect", f"--format={addresses}", name).stdout.strip()
    finally:
        run("docker", "rm", "--force", name, check=False)
        run("docker", "network", "rm", name)
