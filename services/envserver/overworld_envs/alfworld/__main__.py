"""Makes and checks games: `python -m overworld_envs.alfworld generate --games 600 --seed 0 OUT`, `... check DATA`."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from overworld_envs.alfworld.engine.engine import Engine
from overworld_envs.alfworld.expert import advise
from overworld_envs.alfworld.games.generator import GameSet
from overworld_envs.alfworld.games.library import GameError, GameFile, open_game, read_library


def main() -> int:
    """The entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m overworld_envs.alfworld", description="ALFWorld's games")
    commands = parser.add_subparsers(required=True)
    generate = commands.add_parser("generate", help="make games and win each of them once")
    generate.add_argument("folder", type=Path, metavar="OUT", help="a new folder; set ALFWORLD_DATA to it to play them")
    generate.add_argument("--games", type=int, default=600, help="games in total; each validation split gets a tenth")
    generate.add_argument("--seed", type=int, default=0)
    generate.set_defaults(run=_generate)
    check = commands.add_parser("check", help="win every game of a folder once, which also warms the cache")
    check.add_argument("folder", type=Path, metavar="DATA", help="the folder that ALFWORLD_DATA would name")
    check.set_defaults(run=_check)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    arguments = parser.parse_args()
    try:
        return int(arguments.run(arguments))
    except (GameError, OSError) as error:
        print(error, file=sys.stderr)
        return 1


def _generate(arguments: argparse.Namespace) -> int:
    if arguments.games < 1:
        print(f"--games must be at least 1, not {arguments.games}", file=sys.stderr)
        return 2
    if arguments.folder.exists():
        print(f"{arguments.folder} already exists; name a new folder", file=sys.stderr)
        return 1
    games = GameSet(arguments.games, arguments.seed)
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("making games", total=games.games)
        games.write(arguments.folder, lambda: progress.advance(bar))
    return _check(arguments)


def _check(arguments: argparse.Namespace) -> int:
    files = read_library(arguments.folder).games
    broken = _unplayable(files)
    for problem in broken:
        print(problem, file=sys.stderr)
    print(f"{len(files) - len(broken)} of {len(files)} games won by the expert; {arguments.folder}")
    return 1 if broken else 0


def _unplayable(files: Sequence[GameFile]) -> list[str]:
    """A line for each game that the expert does not win: its path, and why."""
    engine = Engine()
    broken = []
    with Progress(console=Console(stderr=True)) as progress:
        for file in progress.track(files, description="winning games"):
            try:
                engine.reset(open_game(file))
                while not engine.won:
                    engine.step(advise(file.task, engine).action)
            except (GameError, LookupError) as error:
                broken.append(f"{file.path}: {error}")
    return broken


if __name__ == "__main__":
    sys.exit(main())
