"""`overworld check HOST:PORT`: how it ends, with good servers, with hostile ones, and with none."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from overworld.check import running, schemas, themes
from overworld.check.case import CHECKS
from overworld.check.rules import ADVICE, RULES
from overworld.check.running import check_server
from overworld.commands.check import main
from overworld.errors import MissingExtraError, ServerError
from overworld.host.front import Front
from overworld.host.process import ServerProcess

from tests.support.certificates import Authority
from tests.support.checked_env import WALK
from tests.support.lying_server import LyingServer

README = Path(__file__).parents[3] / "proto" / "README.md"


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess(WALK, arguments=("--workers", "2", "--slots", "16"), token="s3cret") as server:
        yield server


def test_a_server_that_conforms(
    server: ServerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OVERWORLD_TOKEN", "s3cret")
    file = tmp_path / "report.json"
    assert main([server.address, "checked/Walk", "-v", "--json", str(file)]) == 0
    shown = capsys.readouterr().out
    assert "conforms" in shown.splitlines()[-1]
    assert "✓ H3  every call but health asks for the bearer token" in shown
    report = json.loads(file.read_text())
    assert report["conforms"]
    assert report["findings"] == []
    assert set(report["held"]) | set(report["not_checked"]) == set(RULES) - {"P1", "P2", "P3", "P4"}
    assert {"D1", "T1", "H3", "L1", "F5"} <= set(report["held"])
    assert set(report["not_checked"]) <= {"H4", "K1", "K2", "L3", "O4", "T4"}


def test_a_package_that_is_missing_here_is_no_fault_of_the_server(
    server: ServerProcess, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def misses_one(_: object) -> None:
        raise MissingExtraError("jsonschema is not installed; it comes with: pip install 'overworld[check]'")

    (chosen,) = (each for each in CHECKS if each.name == "specs.options_fit_the_schema")
    monkeypatch.setattr(running, "CHECKS", [replace(chosen, run=misses_one)])
    monkeypatch.setenv("OVERWORLD_TOKEN", "s3cret")
    assert main([server.address]) == 2
    assert "pip install 'overworld[check]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["127.0.0.1:1"], "is the server running"),
        (["SERVER"], "OVERWORLD_TOKEN"),
        (["SERVER", "checked/Run", "--token", "s3cret"], "it has checked/Walk"),
        (["SERVER", "--timeout", "0"], "timeout"),
    ],
)
def test_what_cannot_be_checked_ends_with_status_2(
    server: ServerProcess, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([server.address if word == "SERVER" else word for word in arguments]) == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert told.startswith("overworld check: ")
    assert says in told


def test_findings_say_what_was_sent_and_end_with_status_1(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("grpc_reflection.v1alpha.reflection.enable_server_reflection", lambda *arguments: None)
    monkeypatch.setattr(Front, "healthy", property(lambda front: False))
    server = LyingServer(WALK)
    time.sleep(0.7)  # the server looks at its health every half second
    try:
        assert main([server.address, "--token", "none"]) == 1
    finally:
        server.close()
    shown = capfd.readouterr().out
    assert "✗ H1" in shown  # not healthy
    assert "✗ H2" in shown  # no reflection
    assert "✗ H3" in shown  # no token
    assert "sent     GetServerInfo GetServerInfoRequest(), without a token" in shown
    assert "does not conform" in shown.splitlines()[-1]


def test_a_server_with_tls_and_named_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, theirs = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")
    serving = ours.issue(tmp_path / "server", "127.0.0.1", mutual=True)
    client = ours.issue(tmp_path / "client", "checker", mutual=True)
    tokens, wrong = tmp_path / "tokens", tmp_path / "wrong"
    tokens.write_text("127.0.0.1: s3cret\n")
    wrong.write_text("127.0.0.1: another\n")
    assert themes.__all__  # imported, so that all checks are registered
    chosen = [each for each in CHECKS if each.name.startswith(("token.", "health.", "handshake.", "connections."))]
    monkeypatch.setattr(running, "CHECKS", chosen)
    arguments = ("--workers", "1", "--slots", "4", "--tls", str(serving))
    with ServerProcess(WALK, arguments=arguments, token="s3cret") as server:

        def check(*settings: object) -> tuple[int, str]:
            status = main([server.address, "checked/Walk", "-v", *map(str, settings)])
            shown = capsys.readouterr()
            return status, shown.out + shown.err

        status, shown = check("--tls", client, "--tokens", tokens)
        assert status == 0, shown
        for rule in ("H1", "H2", "H3", "K3"):
            assert f"✓ {rule} " in shown
        for settings, says in (
            (("--tokens", tokens), f"{server.address} asks for TLS: name the folder"),
            (("--tls", ours.trust(tmp_path / "trust")), "asks for a client's certificate, and there is none"),
            (("--tls", theirs.trust(tmp_path / "foreign")), "was not issued by"),
            (("--tls", client), "OVERWORLD_TOKEN"),
            (("--tls", client, "--tokens", wrong), f"the line `127.0.0.1: token` in {wrong}"),
        ):
            status, shown = check(*settings)
            assert status == 2, shown
            assert says in shown


def test_pytest_gets_a_test_for_each_rule(server: ServerProcess, tmp_path: Path) -> None:
    arguments = ["--overworld-server", server.address, "--overworld-env", "checked/Walk", "-q", "-rN", "-c", os.devnull]
    environment = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "OVERWORLD_TOKEN": "s3cret"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "overworld.check.pytest_plugin", *arguments],
        env=os.environ | environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    summary = done.stdout.splitlines()[-1]
    passed, skipped = (int(words.split()[0]) for words in summary.split(", ")[:2])
    assert passed + skipped >= len(RULES), summary
    assert passed > 80


def test_a_server_that_drains() -> None:
    with ServerProcess(WALK, arguments=("--workers", "1", "--slots", "4", "--grace", "20")) as server:
        report = check_server(server.address, terminate=server.process.pid, only=("drain.",))
    assert report.findings == []
    assert {"H4", "O4", "S11"} <= report.held


def test_a_server_that_dies_meanwhile() -> None:
    server = ServerProcess(WALK, arguments=("--workers", "1", "--slots", "4"))
    checks: list[str] = []

    def kill(name: str) -> None:
        checks.append(name)
        if len(checks) == 8:
            server.kill()

    started = time.monotonic()
    report = check_server(server.address, timeout=1.0, on_check=kill)
    server.stop()
    assert "S12" in report.broken
    assert len(checks) <= 9
    assert time.monotonic() - started < 90


def test_a_process_that_takes_the_place_of_the_server() -> None:
    server = ServerProcess(WALK, arguments=("--workers", "1", "--slots", "4"))
    port = int(server.address.rpartition(":")[2])
    others: list[ServerProcess] = []

    def replace(name: str) -> None:
        if name.startswith("order.turns") and not others:
            server.process.send_signal(signal.SIGKILL)
            server.process.wait()
            others.append(ServerProcess(WALK, arguments=("--workers", "1", "--slots", "4"), port=port))

    report = check_server(server.address, timeout=5.0, only=("handshake.", "order."), on_check=replace)
    for each in (server, *others):
        each.stop()
    assert report.broken == ["I1"]


def test_something_that_never_answers() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        started = time.monotonic()
        with pytest.raises(ServerError, match="GetServerInfo"):
            check_server(f"127.0.0.1:{listening.getsockname()[1]}", timeout=0.5)
        assert time.monotonic() - started < 30


def test_something_that_is_no_grpc() -> None:
    def answer() -> None:
        for _ in range(20):
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        thread = threading.Thread(target=answer)
        thread.start()
        try:
            with pytest.raises(ServerError, match="GetServerInfo"):
                check_server(f"127.0.0.1:{listening.getsockname()[1]}", timeout=0.5)
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ('{"type": "object", "properties": {"x": {"pattern": "(a+)+$", "default": 1}}}', "cannot be evaluated within"),
        ('{"$ref": "#"}', "cannot be evaluated"),
        ('{"$ref": "http://127.0.0.1:1/schema.json"}', "cannot be evaluated"),
        ('{"type": "object", "properties": []}', "not of type 'object'"),
        ("[" * 100_000, "it is not JSON|cannot be evaluated"),
        ("7", "it is a JSON int"),
    ],
)
def test_schemas_of_strangers_do_no_harm(schema: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import re

    monkeypatch.setattr(schemas, "_SECONDS", 3.0)
    examined = schemas.examine(schema, json.dumps({"x": "a" * 60 + "!"}))
    assert re.search(says, examined.problem)


def test_the_contracts_readme_has_every_rule() -> None:
    text = README.read_text()
    missing = [rule for rule in {**RULES, **ADVICE} if f"**{rule}**" not in text and not rule.startswith("P")]
    assert missing == []
