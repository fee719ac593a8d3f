"""Secrets from the environment and from files, and what is said when that goes wrong."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from overworld.errors import SettingsError
from overworld.service.secret import secret
from overworld.service.settings import Settings
from pydantic import Field


class Service(Settings):
    token: str = Field(default="", repr=False, exclude=True)
    name: str = ""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], Path]:
    """Writes the secret's file and names it in the environment."""

    def write(content: bytes) -> Path:
        path = tmp_path / "token"
        path.write_bytes(content)
        monkeypatch.setenv("OVERWORLD_TOKEN_FILE", str(path))
        return path

    monkeypatch.delenv("OVERWORLD_TOKEN", raising=False)
    return write


def test_a_secret_is_read_from_its_file_without_the_line_end(file: Callable[[bytes], Path]) -> None:
    file(b"  s3cret\n")
    assert secret("OVERWORLD_TOKEN") == "s3cret"
    assert Service.load([]).token == "s3cret"


def test_a_variable_is_used_where_no_file_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVERWORLD_TOKEN", "s3cret")
    assert secret("OVERWORLD_TOKEN") == "s3cret"
    assert Service.load([]).token == "s3cret"
    assert secret("OVERWORLD_OTHER") == ""


def test_arguments_come_before_the_file(file: Callable[[bytes], Path]) -> None:
    file(b"s3cret")
    assert Service.load([]).token == "s3cret"
    assert Service.load(["token=other"]).token == "other"


def test_only_secrets_are_read_from_files(file: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVERWORLD_NAME_FILE", str(file(b"s3cret")))
    assert Service.load([]).name == ""


@pytest.mark.parametrize("content", [b"", b" \n", b"two\nlines", "schlüssel".encode(), b"x" * 5000, b"a\0b"])
def test_a_file_without_a_secret_is_refused_and_its_content_not_told(
    file: Callable[[bytes], Path], content: bytes
) -> None:
    file(content)
    with pytest.raises(ValueError, match=r"OVERWORLD_TOKEN_FILE.*one line of 1 to 4096") as caught:
        secret("OVERWORLD_TOKEN")
    assert "two" not in str(caught.value)
    with pytest.raises(SettingsError, match="one line of 1 to 4096"):
        Service.load([])


def test_a_missing_file_is_named(file: Callable[[bytes], Path]) -> None:
    path = file(b"")
    path.unlink()
    with pytest.raises(ValueError, match=rf"{path} cannot be read \(No such file.*user {os.getuid()}"):
        secret("OVERWORLD_TOKEN")


def test_a_variable_and_a_file_contradict_each_other(
    file: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    file(b"s3cret")
    monkeypatch.setenv("OVERWORLD_TOKEN", "other")
    with pytest.raises(ValueError, match="both set"):
        secret("OVERWORLD_TOKEN")
