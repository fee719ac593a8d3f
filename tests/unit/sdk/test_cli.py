"""The command line: verbs are found among the installed packages, and wrong input ends in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint, EntryPoints
from typing import Any

import pytest
from overworld import cli
from overworld.errors import EnvUnknownError, OverworldError, SettingsError, TransientError
from overworld.service.program import run

VERBS = (
    "serve",
    "train",
    "study",
    "policy",
    "eval",
    "compare",
    "report",
    "diagnose",
    "verify",
    "branch",
    "play",
    "check",
    "ps",
    "init",
    "dev",
)


def overworld(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "overworld", *arguments], capture_output=True, text=True, check=False)


def test_help_lists_the_verbs_of_all_packages_and_loads_none_of_them() -> None:
    script = (
        "import contextlib, sys\nfrom overworld.cli import main\n"
        "with contextlib.suppress(SystemExit):\n    main(['--help'])\n"
        "print(sorted({'numpy', 'grpc', 'pydantic', 'torch'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert all(f"\n  {verb} " in shown for verb in VERBS)
    assert "pip install" not in shown
    assert shown.splitlines()[-1] == "[]"


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_has_help_of_its_own(verb: str) -> None:
    shown = overworld(verb, "--help")
    assert shown.returncode == 0
    assert shown.stdout.startswith(f"usage: overworld {verb}")


def test_an_unknown_verb_and_one_that_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "entry_points", lambda group: EntryPoints([]))
    for verb, says in (("train", "pip install 'overworld-trainer'"), ("trian", "overworld --help")):
        with pytest.raises(SystemExit) as exited:
            cli.main([verb])
        assert exited.value.code == 2
        assert says in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main([])
    assert "(pip install 'overworld-policy')" in capsys.readouterr().out


def greet(arguments: Sequence[str]) -> int:
    print("hello", *arguments)
    return 7


def test_a_package_can_add_a_verb(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    point = EntryPoint("greet", f"{__name__}:greet", "overworld.commands")
    monkeypatch.setattr(cli, "entry_points", lambda group: EntryPoints([point]))
    with pytest.raises(SystemExit) as exited:
        cli.main(["greet", "world", "--loud"])
    assert exited.value.code == 7
    assert capsys.readouterr().out == "hello world --loud\n"
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    assert "  greet " in capsys.readouterr().out


@pytest.mark.parametrize("error", [OverworldError("it broke"), SettingsError("it broke"), EnvUnknownError("it broke")])
def test_our_errors_end_in_one_line(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(arguments: Sequence[str]) -> int:
        raise error

    with pytest.raises(SystemExit) as exited:
        run(fail, [], "overworld fail")
    assert exited.value.code == 1
    assert capsys.readouterr().err == "overworld fail: it broke\n"


def test_defects_are_not_hidden_and_have_a_status_of_their_own() -> None:
    program = (
        "from overworld.service.program import run\n"
        "def fail(arguments): raise KeyError('a bug')\n"
        "run(fail, [], 'overworld fail')"
    )
    failed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert failed.returncode == os.EX_SOFTWARE == 70
    assert "Traceback" in failed.stderr
    assert failed.stderr.splitlines()[-1] == "KeyError: 'a bug'"


def test_what_may_pass_has_a_status_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(arguments: Sequence[str]) -> int:
        raise TransientError("no room")

    with pytest.raises(SystemExit) as exited:
        run(fail, [], "overworld fail")
    assert exited.value.code == os.EX_TEMPFAIL == 75
    assert capsys.readouterr().err == "overworld fail: no room\n"


def test_a_reader_that_is_gone_is_not_a_traceback() -> None:
    command = f"{sys.executable} -m overworld train --help | head -1"
    done: Any = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: overworld train")
    assert done.stderr == ""
