"""The folder of a suite: evaluations of several agents in several envs, each in a folder of its own.

    <suite>/suite.json                       what moving names such as run@latest meant when it began
    <suite>/<env>/<agent>/                   an evaluation: docs/episodes.md

A suite that is interrupted keeps what its moving names meant until it has been finished.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from overworld.errors import EvaluationError
from overworld.evaluation.episodes import problem
from overworld.evaluation.folder import HEADER, REPORT, EpisodeFolder, opened

SUITE = "suite.json"

_MAX_BYTES = 1 << 20
_Names = Annotated[list[Annotated[str, Field(max_length=1024)]], Field(max_length=10_000)]


class _Record(BaseModel):
    """suite.json."""

    model_config = ConfigDict(extra="forbid", strict=True)

    format: Literal["overworld suite"] = "overworld suite"
    version: Literal[1] = 1
    pinned: dict[str, _Names] = {}


class Suite:
    """A suite in the folder `path`. Raises EvaluationError if that holds an evaluation instead, OSError."""

    def __init__(self, path: Path) -> None:
        if (path / HEADER).exists():
            raise EvaluationError(
                f"{path} holds one evaluation, not several: keep these in another folder, which gets one for each"
            )
        self._path = path
        self._owners: dict[Path, tuple[str, str]] = {}
        self._record = _read(path / SUITE)
        path.mkdir(parents=True, exist_ok=True)

    def __repr__(self) -> str:
        return f"Suite({str(self._path)!r})"

    def pinned(self, name: str, resolve: Callable[[], list[str]]) -> list[str]:
        """What a name means throughout this suite: what it meant when that began, or else what `resolve` says."""
        if name not in self._record.pinned:
            names = resolve()
            if names == [name]:
                return names
            self._record.pinned[name] = names
            self._write()
        return self._record.pinned[name]

    def folder(self, env: str, agent: str) -> Path:
        """Where an agent's evaluation in an env is kept. Raises EvaluationError if that is another one's place."""
        folder = self._path / _slug(env) / _slug(agent)
        if self._owners.setdefault(folder, (env, agent)) != (env, agent):
            other = " in ".join(reversed(self._owners[folder]))
            raise EvaluationError(f"{agent} in {env} and {other} would share {folder}: keep them in two suites")
        return folder

    def finish(self) -> None:
        """All has been played: a name may mean something else the next time."""
        self._record.pinned.clear()
        self._write()

    def _write(self) -> None:
        part = self._path / f"{SUITE}.part"
        part.write_text(json.dumps(self._record.model_dump(), indent=1, sort_keys=True) + "\n")
        part.replace(self._path / SUITE)


def pinned_in(folder: Path | None, name: str, resolve: Callable[[], list[str]]) -> list[str]:
    """What a name means in an evaluation of its own: what it meant to the one that was interrupted in that folder, if
    there is one, or else what `resolve` says. Raises EvaluationError.
    """
    run, _, which = name.partition("@")
    if folder is not None and which in ("latest", "best") and (folder / HEADER).exists():
        model = EpisodeFolder(folder).header.model
        if not (folder / REPORT).exists() and model is not None and re.fullmatch(rf"{re.escape(run)}@\d+", model.name):
            return [model.name]
    return resolve()


def evaluations_in(path: Path) -> list[Path]:
    """The folders of the evaluations in a folder: itself, or those one or two levels within. Raises EvaluationError."""
    if (path / HEADER).exists():
        return [path]
    found = sorted(one.parent for pattern in ("*", "*/*") for one in path.glob(f"{pattern}/{HEADER}"))
    if not found:
        raise EvaluationError(f"{path} holds no evaluation: name a folder that `overworld eval keep=FOLDER` wrote")
    return found


def _slug(name: str) -> str:
    """A name as a folder's: a slash becomes a dash, and what a folder may not be called is escaped as in a URL."""
    slug = quote(name, safe="@").replace("%2F", "-")
    return f"%2E{slug[1:]}" if slug.startswith(".") else slug


def _read(path: Path) -> _Record:
    if not path.exists():
        return _Record()
    with opened(path) as file:
        data = file.read(_MAX_BYTES)
    try:
        return _Record.model_validate_json(data)
    except ValidationError as error:
        raise EvaluationError(
            f"{path} is not a suite's ({problem(error)}): keep this suite in another folder"
        ) from None
