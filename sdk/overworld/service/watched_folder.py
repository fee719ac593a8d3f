"""The files of a project, and which of them have changed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from overworld.errors import SettingsError

_PRODUCTS = ("__pycache__", "node_modules", "runs", "build", "dist")
"""Folders that hold what programs write, not what authors do; hidden ones and *.egg-info do, too."""
_MOST = 5000

_Stamp = tuple[int, int]


class WatchedFolder:
    """A folder whose files are looked at whenever `changed` is called. Raises SettingsError if it has too many.

    They are polled: that also works on network file systems and on folders that are mounted into containers, where the
    kernel tells nothing of changes, and the files of a project are looked at in a millisecond.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known = self._latest = self._look()

    def __repr__(self) -> str:
        return f"<WatchedFolder {self._folder}: {len(self._known)} files>"

    def changed(self) -> list[Path]:
        """Files that are new, gone or different since they were last returned; none while they still change."""
        before, self._latest = self._latest, self._look()
        if self._latest != before or self._latest == self._known:
            return []
        paths = self._known.keys() | self._latest.keys()
        different = sorted(path for path in paths if self._known.get(path) != self._latest.get(path))
        self._known = self._latest
        return [path.relative_to(self._folder) for path in different]

    def _look(self) -> dict[Path, _Stamp]:
        found: dict[Path, _Stamp] = {}
        for entry in _files(self._folder):
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:  # it was removed in between
                continue
            found[Path(entry.path)] = status.st_mtime_ns, status.st_size
            if len(found) > _MOST:
                raise SettingsError(f"{self._folder} holds more than {_MOST} files: change to the folder of a project")
        return found


def _files(folder: os.PathLike[str] | str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            shown = [entry for entry in entries if not entry.name.startswith(".") and not entry.name.endswith("~")]
    except (FileNotFoundError, PermissionError):  # it is gone, or not for us, and so not for the program either
        return
    for entry in shown:
        if not entry.is_dir(follow_symlinks=False):
            yield entry
        elif entry.name not in _PRODUCTS and not entry.name.endswith(".egg-info"):
            yield from _files(entry)
