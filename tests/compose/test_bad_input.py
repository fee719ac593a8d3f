"""What goes wrong outside ends in one line that says what to do."""

from __future__ import annotations

import json
import os
import subprocess
import uuid
from pathlib import Path

import pytest

from tests.compose.stack import VERSION, Stack, run

pytestmark = [pytest.mark.compose, pytest.mark.timeout(1800)]


def last_words(done: subprocess.CompletedProcess[str], program: str) -> str:
    """The one line that a program ends with; logs before it are JSON."""
    assert done.returncode == 1
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    said = [line for line in lines if line.startswith(f"{program}: ")]
    assert len(said) == 1, lines
    rest = lines[: lines.index(said[0])]
    assert all(json.loads(line) for line in rest if line.startswith("{"))
    assert "Traceback" not in done.stdout + done.stderr
    return said[0]


def train(stack: Stack, *arguments: str, **variables: str) -> str:
    command = ("run", "--rm", "--no-deps", "-T", "trainer", "/settings.yaml", "run=/runs/bad", "updates=1", *arguments)
    return last_words(stack.compose(*command, check=False, **variables), "overworld train")


def container(name: str, *options: str) -> subprocess.CompletedProcess[str]:
    """What a container of an image says that is run by hand."""
    return run("docker", "run", "--rm", "--read-only", *options, f"overworld/{name}:{VERSION}", check=False)


def test_an_env_that_nobody_has_is_named_with_those_on_offer(stack: Stack) -> None:
    said = train(stack, "servers=rediss://trainer@redis:6379/0", "envs.0.id=gym_cards/Chess", "retry_budget=3")
    assert "within 3 s no server offered gym_cards/Chess" in said
    assert "gym_cards/NumberLine" in said
    assert "correct the env's name, or start a server" in said


def test_an_env_that_the_only_server_does_not_have_is_refused_at_once(stack: Stack) -> None:
    said = train(stack, "servers=gym-cards:50051", "envs.0.id=gym_cards/Chess")
    assert "no server has 'gym_cards/Chess'" in said
    assert "gym_cards/NumberLine" in said


def test_a_trainer_without_env_servers_says_so(stack: Stack) -> None:
    said = train(stack, "servers=gym-kards:50051", "retry_budget=2")
    assert "within 2 s no server offered gym_cards/NumberLine" in said
    assert "gym-kards:50051" in said


def test_a_trainer_with_another_token_says_so(stack: Stack, tmp_path: Path) -> None:
    other = tmp_path / "token"
    other.write_text("gym-cards: wrong\n")
    other.chmod(0o644)
    token = ("--volume", f"{other}:/token:ro", "--env", "OVERWORLD_TOKENS=/token")
    command = ("run", "--rm", "--no-deps", "-T", *token)
    done = stack.compose(*command, "trainer", "/settings.yaml", "run=/runs/bad", "servers=gym-cards:50051", check=False)
    assert "the bearer token is not this server's; check OVERWORLD_TOKEN" in last_words(done, "overworld train")


def test_a_trainer_without_a_volume_says_so() -> None:
    said = last_words(container("trainer", "--tmpfs", "/tmp"), "overworld train")
    assert said.startswith("overworld train: run: /runs/tiny cannot be written by user 10001 (Read-only file system)")
    assert "mount a volume" in said


def test_a_policy_server_that_cannot_read_its_volume_says_so(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    open_to_all = ("--env", "OVERWORLD_INSECURE=true", "--env", "OVERWORLD_PLAINTEXT=true")
    mine = ("--volume", f"{tmp_path}:/runs:ro", *open_to_all, "--tmpfs", "/tmp")
    if os.getuid() == 10001:
        pytest.skip("the user of these tests is the services' own")
    said = last_words(container("policy-server", *mine), "overworld policy")
    assert "/runs is not there, or user 10001 cannot read it; mount the volume" in said


def test_services_without_their_secret_do_not_start() -> None:
    said = last_words(container("gym-cards", "--env", "OVERWORLD_TOKEN_FILE=/run/secrets/env/token"), "overworld serve")
    assert "OVERWORLD_TOKEN_FILE: /run/secrets/env/token cannot be read (No such file or directory)" in said
    said = last_words(container("gym-cards"), "overworld serve")
    assert "without a token" in said
    said = last_words(container("gym-cards", "--env", "OVERWORLD_TOKEN=x"), "overworld serve")
    assert "without TLS" in said
    own = ("--env", "OVERWORLD_TOKEN=x", "--env", "OVERWORLD_TLS=/run/secrets/overworld")
    said = last_words(container("gym-cards", *own), "overworld serve")
    assert "tls: /run/secrets/overworld must hold both tls.crt and tls.key" in said
    said = last_words(container("policy-server", "--tmpfs", "/tmp"), "overworld policy")
    assert "without a key" in said


MOUNTED = {"OVERWORLD_DATA": "treasure", "TRAIN_SETTINGS": "trainer", "OVERWORLD_SECRETS": "secrets"}


@pytest.mark.parametrize(("variable", "service"), MOUNTED.items())
def test_a_folder_or_file_that_is_not_there_is_named(stack: Stack, variable: str, service: str) -> None:
    done = stack.compose("run", "--rm", "--no-deps", "-T", service, check=False, **{variable: "/nobody/made/this"})
    assert done.returncode != 0
    assert "/nobody/made/this" in done.stderr
    assert "bind source path does not exist" in done.stderr


def test_a_given_secret_that_cannot_be_read_is_named_and_nothing_starts(tmp_path: Path) -> None:
    if os.getuid() == 10001:
        pytest.skip("the user of these tests is the services' own")
    for name in ("env_token", "policy_key"):
        (tmp_path / name).write_text("given")
    (tmp_path / "policy_key").chmod(0o600)
    stack = Stack(f"overworld-test-{uuid.uuid4().hex[:8]}", OVERWORLD_SECRETS=str(tmp_path))
    try:
        done = stack.compose("up", "--detach", "--no-build", "policy-server", check=False)
        assert done.returncode != 0
        assert stack.state("secrets") == ("exited", 1)
        said = "secrets: OVERWORLD_SECRETS: policy_key cannot be read (Permission denied); let user 10001 read it"
        assert stack.logs("secrets") == [said]
        assert stack.state("policy-server") == ("created", 0)
    finally:
        stack.down()


def test_an_env_server_whose_data_cannot_be_read_says_so_until_they_can(tmp_path: Path) -> None:
    """It is started again however often it fails, since compose cannot tell what is worth another try."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (closed / "island.txt").write_text("...\n")
    tmp_path.chmod(0o755)
    variables = {"OVERWORLD_DATA": str(tmp_path), "TREASURE_MAP": "/data/closed/island.txt"}
    stack = Stack(f"overworld-test-{uuid.uuid4().hex[:8]}", **variables)
    try:
        stack.up("treasure")
        stack.wait("started again", lambda: stack.container("treasure")["RestartCount"] > 5, 120)
        (line,) = set(stack.logs("treasure"))
        assert line.startswith("overworld serve: MapError: the map /data/closed/island.txt cannot be read")
        assert "put one there that user 10001 can read" in line
        closed.chmod(0o755)
        stack.wait("healthy", lambda: stack.healthy("treasure"), 120)
    finally:
        stack.down()
