"""The games on disk: which ones exist, in which split, and what is wrong with those that cannot be played.

They are in $ALFWORLD_DATA, in ALFWorld's layout (`layout.py`). If that is not set, they are in a folder of the cache,
which is filled with generated games at first use.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from overworld_envs.alfworld.engine.engine import Game
from overworld_envs.alfworld.engine.grammar import GrammarError, grammar_of
from overworld_envs.alfworld.engine.translation import TranslationError, cached, write_atomically
from overworld_envs.alfworld.games.generator import DEFAULT_SET
from overworld_envs.alfworld.games.layout import MARK, SPLITS, TRAJECTORY, VERSION, game_files
from overworld_envs.alfworld.games.planner import facts_of_problem, plan
from overworld_envs.alfworld.games.tasks import TASK_TYPES, Task, task_of_problem

_MAX_BYTES = 8 << 20
_INDEX_FORMAT = 1
_logger = logging.getLogger(__name__)


class GameError(ValueError):
    """A game or a folder of games cannot be played; the message names it."""


@dataclass(frozen=True, slots=True)
class GameFile:
    """One game."""

    path: Path
    split: str
    task: Task


@dataclass(frozen=True, slots=True)
class Library:
    """All games that can be played, in a fixed order.

    `source` is "real" or "generated". `digest` identifies the set: it changes with any game's name or PDDL problem.
    """

    root: Path
    source: str
    digest: str
    games: tuple[GameFile, ...]

    def splits(self, task_types: tuple[str, ...] = TASK_TYPES) -> dict[str, tuple[GameFile, ...]]:
        """Split -> its games of these types; splits without any are omitted."""
        found = {
            split: tuple(game for game in self.games if game.split == split and game.task.type in task_types)
            for split in SPLITS
        }
        return {split: games for split, games in found.items() if games}


def cache_folder() -> Path:
    """$OVERWORLD_ALFWORLD_CACHE, else overworld/alfworld in $XDG_CACHE_HOME or ~/.cache."""
    named = os.environ.get("OVERWORLD_ALFWORLD_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "overworld" / "alfworld"


def library() -> Library:
    """The games in $ALFWORLD_DATA, or else the generated ones. Raises GameError if there are none."""
    data = os.environ.get("ALFWORLD_DATA")
    if data:
        return read_library(Path(data))
    folder = cache_folder() / DEFAULT_SET.name
    if not (folder / MARK).exists():
        with only_one(folder.with_suffix(".lock")):
            if not (folder / MARK).exists():
                _logger.info("ALFWORLD_DATA is not set: generating %d games into %s", DEFAULT_SET.games, folder)
                DEFAULT_SET.write(folder)
    return read_library(folder)


def read_library(root: Path) -> Library:
    """The playable games in a data folder. Logs what is wrong with the others. Raises GameError if none is left."""
    folder = root / VERSION
    if not folder.is_dir():
        raise GameError(
            f"there is no folder {folder}: set ALFWORLD_DATA to the folder that alfworld-download filled, or to one "
            "that `python -m overworld_envs.alfworld generate` made, or unset it to play generated games"
        )
    index = cache_folder() / f"index-{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]}.json"
    known = _read_index(index)
    entries: dict[str, dict[str, Any]] = {}
    for path in game_files(folder):
        name = path.relative_to(folder).as_posix()
        stamp = _stamp(path)
        entry = known.get(name)
        entries[name] = entry if entry is not None and entry["stamp"] == stamp else {"stamp": stamp, **_examined(path)}
    if entries != known:
        with contextlib.suppress(OSError):  # with a read-only cache, the next start takes longer
            write_atomically(index, json.dumps({"format": _INDEX_FORMAT, "games": entries}).encode())
    games = []
    for name, entry in entries.items():
        if entry["problem"]:
            _logger.warning("skipped %s: %s", folder / name, entry["problem"])
        else:
            games.append(GameFile(folder / name, name.partition("/")[0], Task(*entry["task"])))
    if not games:
        raise GameError(f"{folder} holds no game that can be played; {len(entries)} were looked at")
    digest = hashlib.sha256(json.dumps([[name, entry["digest"]] for name, entry in entries.items()]).encode())
    source = "generated" if (root / MARK).exists() else "real"
    return Library(root, source, digest.hexdigest()[:16], tuple(games))


def open_game(file: GameFile) -> Game:
    """Reads a game and translates it, through the cache. Raises GameError, which names the file."""
    content = read_game(file.path)
    try:
        translation = cached(content["pddl_domain"], content["pddl_problem"], cache_folder() / "translations")
        return Game(translation, grammar_of(content["grammar"]))
    except (TranslationError, GrammarError) as error:
        raise GameError(f"{file.path}: {error}") from error


def read_game(path: Path) -> dict[str, Any]:
    """The content of a `game.tw-pddl`. Raises GameError."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise GameError(f"{path} has more than {_MAX_BYTES:,} bytes")
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise GameError(f"{path} cannot be read: {error}") from error
    wanted = ("pddl_domain", "grammar", "pddl_problem")
    if not isinstance(content, dict) or not all(isinstance(content.get(key), str) for key in wanted):
        raise GameError(f"{path} is no game: it must be a JSON object with the texts {', '.join(wanted)}")
    return content


@contextlib.contextmanager
def only_one(lock: Path) -> Iterator[None]:
    """Makes other processes that want the same lock wait."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _stamp(path: Path) -> list[int]:
    both = path.stat(), path.with_name(TRAJECTORY).stat()
    return [number for stat in both for number in (stat.st_mtime_ns, stat.st_size)]


def _read_index(index: Path) -> Mapping[str, dict[str, Any]]:
    try:
        content = json.loads(index.read_bytes())
        return content["games"] if content["format"] == _INDEX_FORMAT else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


_TASK_TYPE = re.compile(rb'"task_type"\s*:\s*"(\w+)"')


def _examined(path: Path) -> dict[str, Any]:
    """A game's index entry: its task, or what is wrong with it."""
    try:
        content = read_game(path)
        digest = hashlib.sha256(content["pddl_problem"].encode()).hexdigest()[:16]
        if content.get("solvable") is not True:
            raise GameError('it is not marked as "solvable"')
        task_type = _TASK_TYPE.search(path.with_name(TRAJECTORY).read_bytes())
        if task_type is None:
            raise GameError("its traj_data.json names no task_type")
        task = task_of_problem(task_type[1].decode(), content["pddl_problem"])
        if not plan(task, facts_of_problem(content["pddl_problem"])):
            raise GameError("its goal cannot be reached, or is met at the start")
    except (OSError, ValueError) as error:
        return {"task": None, "problem": str(error), "digest": ""}
    return {"task": [task.type, task.object, task.target], "problem": "", "digest": digest}
