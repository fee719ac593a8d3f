"""Files that may change while a program runs: read again when they do."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from overworld.errors import SettingsError

_logger = logging.getLogger(__name__)

_T = TypeVar("_T")
_Stamp = tuple[tuple[int, int, int] | None, ...]


class Reloaded(Generic[_T]):
    """What `read()` makes of `files`, made again when one of them has changed.

    `what` names it in the log. A reading that raises SettingsError keeps what was read before and says so, once for
    each change of the files. Raises SettingsError if the first reading does.
    """

    def __init__(self, what: str, files: Sequence[Path], read: Callable[[], _T]) -> None:
        self._what = what
        self._files = files
        self._read = read
        self._lock = threading.Lock()
        self._stamp, self._current = self._settled()
        self.version = 0
        """How often it was read again."""

    def __repr__(self) -> str:
        return f"<Reloaded: {self._what}, version {self.version}>"

    @property
    def current(self) -> _T:
        """What the files hold now, or held when they could be read the last time."""
        with self._lock:
            stamp = self._look()
            if stamp != self._stamp:
                self._stamp = stamp
                try:
                    self._stamp, self._current = self._settled()
                except SettingsError as error:
                    _logger.error("%s not reloaded, what was read before stays in use: %s", self._what, error)
                else:
                    self.version += 1
                    _logger.info("%s reloaded", self._what)
            return self._current

    def _settled(self) -> tuple[_Stamp, _T]:
        """The files' stamp and content, from a time during which nobody wrote to them."""
        while True:
            stamp = self._look()
            try:
                content = self._read()
            except SettingsError:
                if stamp != self._look():
                    continue
                raise
            if stamp == self._look():
                return stamp, content

    def _look(self) -> _Stamp:
        return tuple(_stamp(file) for file in self._files)


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size
