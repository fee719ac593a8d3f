"""A change of each kind in a small evaluation; `make changes` tries a thousand, in all four simulators."""

from __future__ import annotations

import random
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
from overworld.errors import EvaluationError
from overworld.evaluation.folder import EPISODES
from overworld.evaluation.seal import broken
from overworld.evaluation.verification import Status
from overworld.host.process import ServerProcess

from tests.integration.sdk.test_verify import check, keep
from tests.support.changes import OF_FIGURES, SEALED_AGAIN, UNSEALED, Make, UnfitError, read, recount, seal, write

TRIES = 30


@pytest.fixture(scope="module")
def kept(toy_server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An episode of each end."""
    folder = keep(toy_server, tmp_path_factory.mktemp("changed") / "eval")
    write(folder, list({one.get("end"): one for one in read(folder)}.values()))
    forget_pictures(folder)
    recount(folder)
    seal(folder)
    assert check(folder, toy_server).status == Status.VERIFIED
    return folder


def forget_pictures(folder: Path) -> None:
    """Deletes those that no episode shows."""
    used = (folder / EPISODES).read_text()
    for path in (folder / "frames").iterdir():
        if path.stem not in used:
            path.unlink()


def changed(kept: Path, folder: Path, make: Make, seed: str) -> Path:
    """A copy with the change, where it can first be made."""
    for number in range(TRIES):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(kept, folder)
        try:
            make(folder, random.Random(f"{seed} {number}"))
        except UnfitError:
            continue
        return folder
    raise AssertionError(f"{seed} cannot be made")


@pytest.mark.parametrize("name", [*SEALED_AGAIN, *UNSEALED])
def test_a_change_is_found(kept: Path, toy_server: ServerProcess, tmp_path: Path, name: str) -> None:
    folder = changed(kept, tmp_path / "eval", (SEALED_AGAIN | UNSEALED)[name], name)
    assert list(broken(folder)), "the seal tells"
    if name not in SEALED_AGAIN:
        return
    if name not in OF_FIGURES:
        with suppress(EvaluationError):  # some changes leave nothing that could be read
            recount(folder)
    seal(folder)
    assert check(folder, toy_server).status == Status.DIFFERS


def test_what_begins_after_a_prefix_is_counted_as_such(kept: Path, toy_server: ServerProcess, tmp_path: Path) -> None:
    """Whose first turn became a prefix is a true episode of another task: nothing but that can be said."""
    before = check(kept, toy_server).prefixed
    folder = changed(kept, tmp_path / "eval", UNSEALED["sooner"], "sooner")
    forget_pictures(folder)
    recount(folder)
    seal(folder)
    found = check(folder, toy_server)
    assert (found.differences, found.status, found.prefixed) == ([], Status.VERIFIED, before + 1)
