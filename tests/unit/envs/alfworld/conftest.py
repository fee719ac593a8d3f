"""What the tests of ALFWorld share: a cache of their own, games in small rooms, and stock ALFWorld to compare with."""

from __future__ import annotations

import importlib.util
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

from tests.support.shared_folder import shared_folder

if TYPE_CHECKING:
    from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
    from overworld_envs.alfworld.engine.engine import Engine
    from overworld_envs.alfworld.games.library import GameFile

if importlib.util.find_spec("textworld") is None:
    collect_ignore_glob = ["test_*.py"]


def pytest_report_header() -> str | None:
    if importlib.util.find_spec("textworld") is None:
        return "tests of ALFWorld are skipped: the extra overworld-envs[alfworld] is not installed"
    return None


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One cache for all test processes; no data set by the environment."""
    folder = shared_folder(tmp_path_factory) / "alfworld"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OVERWORLD_ALFWORLD_CACHE", str(folder))
        patch.delenv("ALFWORLD_DATA", raising=False)
        yield folder


class MakeGame(Protocol):
    def __call__(self, task_type: str, plan: int | None = None, seed: int = 0) -> GameFile: ...


class LoadStock(Protocol):
    def __call__(self, path: Path) -> AlfredDemangler: ...


class Play(Protocol):
    def __call__(self, file: GameFile, steps: int = 0, seed: int = 0) -> Engine: ...


ROOMS = {
    "pick_and_place_simple": 329,
    "look_at_obj_in_light": 316,
    "pick_clean_then_place_in_recep": 419,
    "pick_heat_then_place_in_recep": 14,
    "pick_cool_then_place_in_recep": 29,
    "pick_two_obj_and_place": 208,
}
"""Task type -> a small floor plan."""


@pytest.fixture(scope="session")
def game_file(tmp_path_factory: pytest.TempPathFactory) -> MakeGame:
    """game_file(task_type, plan=None, seed=0): a generated game on disk, as a GameFile."""
    from overworld_envs.alfworld.games.generator import make_game
    from overworld_envs.alfworld.games.library import GameFile
    from overworld_envs.alfworld.games.tasks import task_of_problem

    def make(task_type: str, plan: int | None = None, seed: int = 0) -> GameFile:
        made = make_game(task_type, "train", random.Random(seed), plan or ROOMS[task_type])
        path = tmp_path_factory.mktemp("game") / "game.tw-pddl"
        path.write_text(json.dumps(made.content))
        return GameFile(path, "train", task_of_problem(task_type, made.content["pddl_problem"]))

    return make


@pytest.fixture
def stock(monkeypatch: pytest.MonkeyPatch) -> LoadStock:
    """stock(path): TextWorld's PddlEnv as ALFWorld wraps it, with the game loaded."""
    monkeypatch.setenv("ALFWORLD_DATA", os.environ.get("TMPDIR", "/tmp"))
    import textworld
    from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
    from textworld.envs.pddl import PddlEnv

    def load(path: Path) -> AlfredDemangler:
        env = AlfredDemangler()
        env._wrap(PddlEnv(textworld.EnvInfos(won=True, admissible_commands=True)))
        env.load(str(path))
        return env

    return load


@pytest.fixture
def play() -> Play:
    """play(game_file, steps, seed): an engine after so many random steps."""
    from overworld_envs.alfworld.engine.engine import Engine
    from overworld_envs.alfworld.games.library import open_game

    def played(file: GameFile, steps: int = 0, seed: int = 0) -> Engine:
        engine = Engine()
        engine.reset(open_game(file))
        chance = random.Random(seed)
        for _ in range(steps):
            engine.step(chance.choice(engine.commands))
        return engine

    return played
