"""Tries changes of kept evaluations, a thousand at random: `make changes`.

A change of the sealed folder must be found, and one that is counted and sealed again, too, where a replay can tell.
Each is a line in the folder of the runs; what was interrupted is taken up there. Remove the folder when the verifier or
a simulator has changed.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
from pathlib import Path

from overworld.errors import EvaluationError
from overworld.evaluation.seal import broken
from overworld.evaluation.verification import Status, verify
from overworld.host.process import ServerProcess
from wanderer import wandered

sys.path.append(str(Path(__file__).parents[1]))
from tests.support.changes import OF_FIGURES, SEALED_AGAIN, UNSEALED, UnfitError, recount, seal

ENVS = {
    "gym_cards": ("gym_cards/Points24", {"size": 64}),
    "alfworld": ("alfworld/all", {"size": 64, "max_turns": 8}),
    "webshop": ("webshop/synthetic", {"width": 96, "height": 72, "max_turns": 8}),
    "miniworld": ("miniworld/Hallway", {"width": 40, "height": 30, "max_turns": 8}),
}
EPISODES = 10
TRIES = 50
MAY_BE_TRUE = {
    "whole_action": "of the action, its reply and what was executed: an env may answer two actions alike",
    "seed": "where tasks are numbered, the seed chooses one of them and nothing else",
}
"""Changes after which a folder may hold a true episode: they are tried, and either answer is right."""


def trial(number: int, simulator: str, folder: Path, address: str) -> dict[str, object]:
    """Makes a change that `number` draws, and says whether it was found."""
    chance = random.Random(f"{simulator} {number}")
    changes = SEALED_AGAIN | UNSEALED
    for _ in range(TRIES):
        name = chance.choice(sorted(changes))
        with tempfile.TemporaryDirectory() as made:
            copy = Path(made) / "eval"
            shutil.copytree(folder, copy)
            try:
                changes[name](copy, chance)
            except UnfitError:
                continue
            unsealed = any(True for _ in broken(copy))
            line: dict[str, object] = {"simulator": simulator, "number": number, "change": name, "unsealed": unsealed}
            if name in SEALED_AGAIN:
                if name not in OF_FIGURES:
                    try:
                        recount(copy)
                    except (EvaluationError, ValueError) as error:  # a folder that nobody can read
                        line["unreadable"] = str(error)[:200]
                seal(copy)
                found = verify(copy, [address], slots=16, timeout=30.0)
                line["sealed"] = found.status.name
                line["said"] = [f"{one.field}: {one.found}"[:100] for one in found.differences[:2]] or found.unchecked
            return line
    raise SystemExit(f"{simulator} {number}: no change could be made")


def wrong(line: dict[str, object]) -> bool:
    """Whether a change was not found that should have been."""
    if line["change"] in MAY_BE_TRUE:
        return not line["unsealed"]
    return not line["unsealed"] or line.get("sealed", "DIFFERS") != "DIFFERS"


def main() -> None:
    """Does what is left to do; fails if a change was not found, or an untouched folder suspected."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--runs", type=Path, default=Path("runs/changes"), help="folder to resume in")
    arguments.add_argument("--changes", type=int, default=1000, help="in all")
    settings = arguments.parse_args()
    settings.runs.mkdir(parents=True, exist_ok=True)
    log = settings.runs / "changes.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    done = {(line["simulator"], line["number"]) for line in lines}
    for simulator, (env, options) in ENVS.items():
        wanted = [(simulator, number) for number in range(-(-settings.changes // len(ENVS)))]
        if done.issuperset(wanted):
            continue
        with ServerProcess(simulator) as server:
            folder = wandered(server.address, env, options, EPISODES, settings.runs / simulator).path
            for place in wanted:
                if place in done:
                    continue
                if place[1] % 50 == 0 and (found := verify(folder, [server.address])).status is not Status.VERIFIED:
                    sys.exit(f"an untouched folder is suspected: {found}")
                line = trial(place[1], simulator, folder, server.address)
                lines.append(line)
                with log.open("a") as file:
                    file.write(json.dumps(line) + "\n")
    missed = [line for line in lines if wrong(line)]
    for name in sorted({line["change"] for line in lines}):
        own = [line for line in lines if line["change"] == name]
        sealed = sum(line.get("sealed") == "DIFFERS" for line in own) if name in SEALED_AGAIN else "-"
        print(f"{name:<20} {len(own):>4} changes, found sealed {sum(line['unsealed'] for line in own)}, again {sealed}")
    print(f"{len(lines)} changes, {len(missed)} missed")
    for line in missed:
        print(line)
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
