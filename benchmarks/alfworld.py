"""ALFWorld: steps and episodes per CPU-second beside stock ALFWorld, memory, the expert's wins, the first reset.

Stock is TextWorld's PddlEnv as ALFWorld wraps it, in this process, with the same games and the same commands; the two
take turns. As in ALFWorld's own env, stock loads and resets the game for each episode; both ask for admissible commands
only. Ours plays what the env plays. The servers run in processes of their own.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from report import Row, finish, parser

sys.path.pop(0)  # this folder, in which the package `alfworld` would be this very file

import numpy as np
import psutil
import xxhash
from overworld import Reset, Session
from overworld.contract.frames import pixels_hash
from overworld.host.process import ServerProcess
from overworld_envs.alfworld.engine.engine import Engine, Game
from overworld_envs.alfworld.games.generator import GameSet, make_game
from overworld_envs.alfworld.games.library import GameFile, open_game, read_library
from overworld_envs.alfworld.games.tasks import TASK_TYPES, task_of_problem
from overworld_envs.alfworld.pictures.schematic import Schematic
from overworld_envs.alfworld.pictures.view import view
from rich.progress import track

STEPS = 20
SCENES = {"15 receptacles": ("pick_and_place_simple", 217), "38 receptacles": ("pick_and_place_simple", 24)}
ROUNDS = 3
REPEATS = 20
"""Our episodes for one of stock's: ours are too short to be timed one by one."""
GAMES = 200
STOCK_SHARE = 25
"""Stock plays one in so many of the games: it is slow, and gains nothing from having played others."""
SLOTS = 64
EPISODES = 512

TARGET_STEPS = 7.5
TARGET_EPISODES = 8.0
TARGET_BYTES = 1.2e9
TARGET_SECONDS = 10.0


@dataclass
class Clock:
    """CPU time of this process, and what was done in it."""

    count: int = 0
    seconds: float = 0.0
    _started: float = field(default=0.0, repr=False)

    def __enter__(self) -> None:
        self._started = time.process_time()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.process_time() - self._started

    @property
    def rate(self) -> float:
        """Per CPU-second."""
        return self.count / self.seconds


def stock_env() -> Any:
    """Stock ALFWorld's env for one game at a time."""
    import textworld
    from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
    from textworld.envs.pddl import PddlEnv

    env = AlfredDemangler()
    env._wrap(PddlEnv(textworld.EnvInfos(won=True, admissible_commands=True)))
    return env


def commands_of(game: Game, seed: int) -> list[str]:
    """An episode of random play; it stops at a win."""
    engine, chance = ENGINE, random.Random(seed)
    engine.reset(game)
    played: list[str] = []
    while len(played) < STEPS and not engine.won:
        played.append(chance.choice(engine.commands))
        engine.step(played[-1])
    return played


def record(texts: Sequence[str], commands: Sequence[str], won: bool) -> int:
    """What was said, what was possible, and the score: one number that must be the same for both."""
    return xxhash.xxh64_intdigest("\0".join((*texts, *commands, str(won))).encode())


def scene_rows(folder: Path) -> Iterator[Row]:
    """Steps per CPU-second, without resets; and what frames add."""
    for name, (task_type, plan) in SCENES.items():
        made = make_game(task_type, "train", random.Random(0), plan)
        path = folder / f"{plan}.tw-pddl"
        path.write_text(json.dumps(made.content))
        game = open_game(GameFile(path, "train", task_of_problem(task_type, str(made.content["pddl_problem"]))))
        stock, canvas, schematic = stock_env(), np.zeros((300, 300, 3), np.uint8), Schematic(300)
        stock.load(str(path))
        theirs, ours, drawn = Clock(), Clock(), Clock()
        for number in track(range(ROUNDS), name):
            played = commands_of(game, number)
            state = stock.reset()
            with theirs:
                said = [stock.step(command) for command in played]
            theirs.count += len(played)
            state = said[-1][0]
            expected = record([each.feedback for each, *_ in said], state.admissible_commands, state.won)
            for clock, draws in ((ours, False), (drawn, True)) * REPEATS:
                ENGINE.reset(game)
                texts = []
                with clock:
                    for command in played:
                        texts.append(ENGINE.step(command))
                        if draws:
                            schematic.draw(canvas, view(ENGINE.facts, game.entities))
                            pixels_hash(canvas)
                clock.count += len(played)
                if record(texts, ENGINE.commands, ENGINE.won) != expected:
                    raise RuntimeError("our texts, commands or scores are not stock ALFWorld's")
        setting, unit = f"{name}, random play", "steps/CPU-s"
        yield Row(
            "text", setting, ours.rate, unit, "stock ALFWorld", theirs.rate, ours.rate / theirs.rate, TARGET_STEPS
        )
        yield Row("with hashed frames", setting, drawn.rate, unit, "text only", ours.rate, drawn.rate / ours.rate)
        micros = (1 / drawn.rate - 1 / ours.rate) * 1e6
        yield Row("a frame, hashed", setting, micros, "CPU-us", "a step", 1e6 / ours.rate, 1e6 / ours.rate / micros)


def episode_rows(data: Path) -> Iterator[Row]:
    """Episodes per CPU-second over different games, and the first contact."""
    files = read_library(data).games
    first = Clock(len(files))  # other games than those that the servers have played: none is in the cache
    for file in track(files, "first contact"):
        with first:
            open_game(file)
    theirs, ours = Clock(), Clock()
    stock = stock_env()
    for at, file in enumerate(track(files, "episodes")):
        played = commands_of(open_game(file), at)
        with ours:
            ENGINE.reset(open_game(file))
            for command in played:
                ENGINE.step(command)
        ours.count += 1
        if at % STOCK_SHARE == 0:
            with theirs:
                stock.load(str(file.path))
                state = stock.reset()
                for command in played:
                    state, *_ = stock.step(command)
            theirs.count += 1
            if (list(ENGINE.commands), ENGINE.won) != (state.admissible_commands, state.won):
                raise RuntimeError(f"{file.path}: our commands or score are not stock ALFWorld's")
    setting, unit = f"{len(files)} games, {STEPS} steps", "episodes/CPU-s"
    ratio = ours.rate / theirs.rate
    yield Row("episodes, warm cache", setting, ours.rate, unit, "stock ALFWorld", theirs.rate, ratio, TARGET_EPISODES)
    contact = first.seconds / first.count
    yield Row(
        "first contact", "one game", contact, "CPU-s", "a stock episode", 1 / theirs.rate, 1 / theirs.rate / contact
    )


def server_rows() -> Iterator[Row]:
    """The first reset, the expert's wins, and memory."""
    started = time.monotonic()
    arguments = ("--workers", "2", "--slots", str(SLOTS), "--allow-expert")
    with ServerProcess("alfworld", arguments=arguments) as server:
        with Session(server.address, "alfworld/all", 1) as session:
            asked = time.monotonic()
            session.reset([0])
            took, in_all = time.monotonic() - asked, time.monotonic() - started
        limit = f"limit {TARGET_SECONDS:g} s"
        for name, seconds, target in (("first reset", took, 1.0), ("start and first reset", in_all, None)):
            ratio = TARGET_SECONDS / seconds
            yield Row(name, "empty cache, wall time", seconds, "s", limit, TARGET_SECONDS, ratio, target)
        wins = sum(expert_wins(server.address, task_type) for task_type in track(TASK_TYPES, "expert"))
        games = 20 * len(TASK_TYPES)
        yield Row("expert's wins", f"{games} games over gRPC", wins, "games", "all", games, wins / games, 1.0)
        with Session(server.address, "alfworld/all", SLOTS) as session:
            sizes = []
            for number in track(range(EPISODES // SLOTS), "memory"):
                play(session, number)
                sizes.append(memory(server.process.pid))
        setting, limit = f"{SLOTS} slots, 2 workers", f"limit {TARGET_BYTES / 1e9:g} GB"
        yield Row("PSS", setting, max(sizes) / 1e9, "GB", limit, TARGET_BYTES / 1e9, TARGET_BYTES / max(sizes), 1.0)
        early = max(sizes[: len(sizes) // 2])
        yield Row("PSS at the end", f"{EPISODES} episodes", sizes[-1] / 1e9, "GB", "first half", early / 1e9,
                  early / sizes[-1], 0.97)  # fmt: skip


def expert_wins(address: str, task_type: str) -> int:
    """How many of the type's first twenty games the expert wins."""
    with Session(address, f"alfworld/{task_type}", 20, expert=True) as session:
        results = session.step({slot: Reset(seed=0, task=slot) for slot in range(20)})
        wins = 0
        while results:
            results = session.step({each.slot: each.expert.action for each in results if each.expert and not each.end})
            wins += sum(bool(each.success) for each in results)
            if all(each.end for each in results):
                break
        return wins


def play(session: Session, number: int) -> None:
    """An episode of ten random steps in each slot."""
    chance = random.Random(number)
    results = session.reset(range(number * SLOTS, (number + 1) * SLOTS))
    for _ in range(10):
        results = session.step(
            {each.slot: chance.choice(each.observation.admissible) for each in results if not each.end}
        )


def memory(pid: int) -> float:
    """PSS of a process and its children, in bytes."""
    server = psutil.Process(pid)
    return float(sum(one.memory_full_info().pss for one in (server, *server.children(recursive=True))))


@contextlib.contextmanager
def own_cache(folder: Path) -> Iterator[None]:
    """An empty cache, and no data of the operator's."""
    kept = {name: os.environ.pop(name, None) for name in ("ALFWORLD_DATA", "OVERWORLD_ALFWORLD_CACHE")}
    os.environ["OVERWORLD_ALFWORLD_CACHE"] = str(folder)
    try:
        yield
    finally:
        del os.environ["OVERWORLD_ALFWORLD_CACHE"]
        os.environ.update({name: value for name, value in kept.items() if value is not None})


ENGINE = Engine()


def main() -> None:
    """Measures and reports."""
    arguments = parser(__doc__ or "").parse_args()
    with tempfile.TemporaryDirectory() as name, own_cache(Path(name) / "cache"):
        folder = Path(name)
        GameSet(GAMES, 1).write(folder / "data")
        rows = [*server_rows(), *scene_rows(folder), *episode_rows(folder / "data")]
    finish(rows, arguments.json)


if __name__ == "__main__":
    main()
