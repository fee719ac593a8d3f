"""docker/secrets: what it makes, keeps, exchanges and renews."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from overworld.service.tls import TlsFolder
from overworld.service.tokens import read_tokens

SCRIPT = Path(__file__).parents[2] / "docker" / "secrets"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    loader = SourceFileLoader("docker_secrets", str(SCRIPT))
    spec = importlib.util.spec_from_loader("docker_secrets", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.fixture
def stack(script: ModuleType, tmp_path: Path) -> Any:
    for name in ("authority", "redis", "policy-server", "trainer", "evaluator", "gym-cards", "own"):
        (tmp_path / "secrets" / name).mkdir(parents=True)
    made = script.Secrets(tmp_path / "secrets", ["gym-cards"], own="treasure")
    made.make()
    return made


def content(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_each_service_has_a_certificate_and_no_two_have_a_secret_in_common(stack: Any) -> None:
    for folder, name in (("gym-cards", "gym-cards"), ("own", "treasure"), ("redis", "redis")):
        certificate = TlsFolder(stack.root / folder, server=True).files.certificate
        assert certificate is not None
        assert certificate.names == (name, "localhost", "127.0.0.1")
    accepted = {name: read_tokens(stack.root / name / "tokens") for name in ("gym-cards", "own")}
    sent = read_tokens(stack.root / "trainer" / "tokens")
    assert sent == {"gym-cards": accepted["gym-cards"]["trainer"], "treasure": accepted["own"]["trainer"]}
    tokens = [token for of in accepted.values() for one in of.values() for token in one]
    assert len(set(tokens)) == len(tokens) == 4
    assert all(path.stat().st_mode & 0o777 == 0o400 for path in stack.root.rglob("*") if path.is_file())
    outside = {path.parent.name for path in stack.root.rglob("ca.key")}
    assert outside == {"authority"}


def test_what_is_there_stays(stack: Any) -> None:
    before = content(stack.root)
    stack.make()
    assert content(stack.root) == before


def test_rotating_leaves_the_tokens_from_before_in_use_once(stack: Any) -> None:
    def accepted() -> tuple[str, ...]:
        return read_tokens(stack.root / "gym-cards" / "tokens")["trainer"]

    def sent() -> str:
        return read_tokens(stack.root / "trainer" / "tokens")["gym-cards"][-1]

    (first,) = accepted()
    stack.rotate()
    stack.make()
    old, second = accepted()
    assert (old, sent()) == (first, second)
    stack.rotate()
    stack.make()
    assert accepted() == (second, sent())
    assert len({first, second, sent()}) == 3


def test_a_given_token_takes_the_place_of_the_one_before(stack: Any, tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.mkdir()
    (given / "env_token").write_text("mine")
    before = read_tokens(stack.root / "gym-cards" / "tokens")["trainer"]
    stack.make(given)
    both = read_tokens(stack.root / "gym-cards" / "tokens")["trainer"]
    assert both[0] == before[0]
    assert len(both) == 2
    stack.make(given)
    assert read_tokens(stack.root / "gym-cards" / "tokens")["trainer"] == both


def test_a_certificate_is_renewed_in_the_last_third_of_its_time(
    stack: Any, script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (stack.root / "gym-cards" / "tls.crt").read_bytes()
    monkeypatch.setattr(script, "CERTIFICATE_DAYS", 3 * 824)  # as if a third of it had passed, and no more
    stack.certify("gym-cards")
    assert (stack.root / "gym-cards" / "tls.crt").read_bytes() == before
    monkeypatch.setattr(script, "CERTIFICATE_DAYS", 3 * 826)
    stack.certify("gym-cards")
    assert (stack.root / "gym-cards" / "tls.crt").read_bytes() != before


def test_for_kubernetes_it_prints_secrets_in_the_form_of_cert_manager() -> None:
    def printed(*arguments: str) -> dict[str, Any]:
        command = [sys.executable, str(SCRIPT), "kubernetes", *arguments]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return {thing["metadata"]["name"]: thing for thing in yaml.safe_load_all(done.stdout) if thing}

    made = printed("gym-cards")
    services = {"gym-cards", "redis", "policy-server", "trainer", "evaluator"}
    assert set(made) == services | {f"{name}-tls" for name in services}
    assert made["redis-tls"]["type"] == "kubernetes.io/tls"
    assert set(made["redis-tls"]["data"]) == {"tls.crt", "tls.key", "ca.crt"}
    assert set(made["redis"]["data"]) == {"users.acl"}
    assert set(made["policy-server"]["data"]) == {"key"}
    assert set(printed("--no-certificates", "gym-cards")) == services
