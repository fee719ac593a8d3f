"""Are branches exact? Thousands of turns, drawn from episodes of the four simulators, are taken up in other slots, and
the episodes played on from there: everything must be as it was recorded.

Done in parts, each of which is a line in the folder of the runs: what was interrupted is taken up there. Remove the
folder after a change to the simulators.
"""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

from overworld.evaluation.branching import Branching
from overworld.evaluation.folder import EpisodeFolder
from overworld.evaluation.replay import Replay, replayed
from overworld.host.process import ServerProcess
from report import CONSOLE, Row, finish, parser
from rich.table import Table
from wanderer import SIMULATORS, wandered

EPISODES = 40
"""Of each env."""
SLOTS = 32
PART = 125
FOLLOWED = 10
"""Turns that are played after each branch."""


def part(server: ServerProcess, folder: EpisodeFolder, seed: str) -> dict[str, object]:
    """Branches at PART turns that `seed` draws; what was found."""
    chance = random.Random(seed)
    episodes = list(folder)
    started = time.perf_counter()
    with Branching(folder, [server.address], SLOTS) as branching:
        replays = []
        for _ in range(PART):
            number = chance.randrange(len(episodes))
            turns = len(episodes[number].turns)
            turn = chance.randrange(turns)
            replays.append(
                Replay(
                    number, episodes[number], frames_comparable=branching.frames_comparable,
                    start=turn, stop=min(turn + FOLLOWED, turns),
                )
            )  # fmt: skip
        done = list(replayed(branching.fleet, replays))
    found = [
        {"episode": one.number, "mismatch": [repr(mismatch) for mismatch in one.mismatches], "why": one.unrepeatable}
        for one in done
        if one.mismatches or one.unrepeatable
    ]
    return {
        "branches": len(done),
        "frames": sum(one.frames for one in done),
        "comparable": branching.frames_comparable,
        "seconds": round(time.perf_counter() - started, 3),
        "found": found,
    }


def main() -> None:
    """Does what is left to do, and prints what was found in all parts."""
    arguments = parser(__doc__)
    arguments.add_argument("--runs", type=Path, default=Path("runs/branches"), help="folder to resume in")
    arguments.add_argument("--branches", type=int, default=10_000, help="in all")
    settings = arguments.parse_args()
    parts = -(-settings.branches // (PART * len(SIMULATORS)))
    settings.runs.mkdir(parents=True, exist_ok=True)
    log = settings.runs / "parts.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    known = {line["part"] for line in lines}
    for simulator, envs in SIMULATORS.items():
        wanted = [(f"{simulator} {number}", list(envs)[number % len(envs)]) for number in range(parts)]
        if all(name in known for name, _ in wanted):
            continue
        with ServerProcess(simulator, arguments=("--slots", "64")) as server:
            folders = {
                env: wandered(server.address, env, options, EPISODES, settings.runs / env.replace("/", "-"))
                for env, options in envs.items()
            }
            for name, env in wanted:
                if name not in known:
                    line = {"part": name, "env": env, **part(server, folders[env], name)}
                    lines.append(line)
                    with log.open("a") as file:
                        file.write(json.dumps(line) + "\n")
    table = Table("env", "branches", "frames", "differing", "seconds")
    for env in sorted({line["env"] for line in lines}):
        own = [line for line in lines if line["env"] == env]
        counts = (sum(one[key] for one in own) for key in ("branches", "frames"))
        differing = sum(len(one["found"]) for one in own)
        table.add_row(env, *map(str, counts), str(differing), f"{sum(one['seconds'] for one in own):.0f}")
    CONSOLE.print(table)
    for line in lines:
        for one in line["found"]:
            CONSOLE.print(line["env"], one, markup=False)
    branches = sum(line["branches"] for line in lines)
    exact = branches - sum(len(line["found"]) for line in lines)
    not_compared = sum(line["branches"] for line in lines if not line["comparable"])
    setting = f"{not_compared} of them without frames" if not_compared else "texts, frames, rewards, ends"
    finish(
        [Row("branches as recorded", setting, exact, "branches", "all", branches, exact / branches, 1.0)],
        settings.json,
    )


if __name__ == "__main__":
    main()
