"""What `overworld init` makes for Kubernetes is valid, and passes the checks of our own overlays next to these."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from overworld.commands import init

from tests.k8s import checks
from tests.k8s.checks import Object
from tests.k8s.test_k8s import OVERLAYS, ROOT, objects

NAME = "treasure"
"""One that docker/secrets makes Secrets for, in the checks."""
LONGEST = "a-name-as-long-as-a-project-may-have-one"
LANGUAGES = ("python", "node")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    assert objects(OVERLAYS[0])  # skips where there is no kubectl
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rendered(name: str, language: str) -> str:
    """What a new project in the current folder makes in a cluster."""
    init.main([name, "--language", language])
    return subprocess.run(["kubectl", "kustomize", f"{name}/k8s"], check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("language", LANGUAGES)
def test_it_validates_strictly(language: str, folder: Path) -> None:
    text = rendered(LONGEST, language)
    assert list(checks.names(list(yaml.safe_load_all(text)))) == []
    path = folder / "all.yaml"
    path.write_text(text)
    command: list[str | Path] = [Path(sys.executable).with_name("kubernetes-validate"), "--strict", path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (done.stdout + done.stderr).count("passed for resource") == 4


@pytest.mark.parametrize("language", LANGUAGES)
def test_it_passes_next_to_the_stack(language: str, folder: Path) -> None:
    together: list[Object] = objects(OVERLAYS[0]) + list(yaml.safe_load_all(rendered(NAME, language)))
    found = {check.__name__: list(check(together)) for check in checks.CHECKS}
    quotas = found.pop("tenants")
    assert all(said == [] for said in found.values()), found
    assert all("evaluation may take all slots" in one for one in quotas)
    assert len(quotas) == (language == "node")  # whose server has no quotas


def test_an_env_server_of_a_project_is_what_ours_are() -> None:
    template = ROOT / "sdk/overworld/scaffold/templates/shared/k8s/env-server.yaml"
    assert template.read_bytes() == (ROOT / "k8s/env-server/env-server.yaml").read_bytes(), "copy one to the other"
