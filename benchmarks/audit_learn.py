"""Are five envs of graded difficulty told apart by `overworld audit --learn`?

Each env is learnt with five seeds; a run is a file in --runs, and one whose file is there, of the same settings and
envs, is not run again. Beside the learner with frames stand its peers: the same learner with blank frames, the best
fixed sequence, and chance. After a change to the learner, remove the folder.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import graded_envs
from overworld.audit.learning.learn import LearnSettings, learn
from overworld.audit.learning.verdict import Verdict
from overworld.audit.stage import ClassPlace, Stage
from overworld.authoring.env import Env
from report import CONSOLE, Row, finish, parser
from rich.table import Table

SLOTS = 32
ALLOWED_SECONDS = 240.0
WANTED_SHARE = 0.8


@dataclass(frozen=True)
class Expected:
    """What a run must say: the verdict, and whether the best blind player is proven to gain over chance."""

    verdict: Verdict
    blind_gains: bool


ENVS: dict[type[Env], Expected] = {
    graded_envs.Coin: Expected(Verdict.NO_SIGNAL, False),
    graded_envs.Safe: Expected(Verdict.BLIND_SUFFICES, True),
    graded_envs.Fork: Expected(Verdict.FROM_PICTURE, True),
    graded_envs.Sign: Expected(Verdict.FROM_PICTURE, False),
    graded_envs.Doors: Expected(Verdict.FROM_PICTURE, False),
}

Run = Mapping[str, Any]
"""What a run's file holds."""


def digest(settings: LearnSettings) -> str:
    """Differs for settings and envs that differ."""
    envs = Path(graded_envs.__file__).read_bytes()
    return hashlib.sha256(settings.digest.encode() + envs).hexdigest()[:16]


def run(env: type[Env], seed: int, folder: Path, settings: LearnSettings) -> Run:
    """The run of an env and a seed, from its file if there is one."""
    file = folder / f"{env.__name__}-{seed}.json"
    wanted = digest(settings)
    if file.exists():
        kept: Run = json.loads(file.read_text())
        if kept["digest"] == wanted:
            return kept
    started = time.process_time()
    stage: Stage = ClassPlace(env.spec.id, env, options={}, timeout=20.0).open(SLOTS)
    learned = learn(stage, seed=seed, settings=settings)
    expected = ENVS[env]
    told = learned.verdict is expected.verdict and learned.blind_over_random.proven is expected.blind_gains
    # The digest here is of the envs, too, and replaces that of the settings.
    seconds = time.process_time() - started
    result = {**learned.as_dict(), "digest": wanted, "told": told, "cpu_seconds": seconds}
    folder.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(result, indent=1))
    partial.rename(file)
    return result


def steps_to_half(done: Run) -> int:
    """Env steps after which the learner with frames was half-way from chance to what it reached; 0 without a gain."""
    if not done["frames_over_random"]["interval"]["low"] > 0:
        return 0
    arms = {arm["name"]: arm for arm in done["arms"]}
    half = (arms["random"]["mean"] + arms["frames"]["mean"]) / 2
    reached = (point["steps"] for point in arms["frames"]["curve"] if point["mean"] >= half)
    return int(next(reached, arms["frames"]["steps"]))


def rows(runs: Mapping[type[Env], list[Run]]) -> Iterator[Row]:
    """How many runs of each env were told apart, and what the longest took."""
    for env, done in runs.items():
        told, wanted = sum(one["told"] for one in done), WANTED_SHARE * len(done)
        setting = f"{ENVS[env].verdict}, blind {'gains' if ENVS[env].blind_gains else 'gains nothing'}"
        yield Row(env.__name__, setting, told, f"of {len(done)} seeds", "wanted", wanted, told / wanted, 1.0)
        longest = max(one["cpu_seconds"] for one in done)
        ratio = ALLOWED_SECONDS / longest
        yield Row(env.__name__, "the longest", longest, "CPU-s", "allowed", ALLOWED_SECONDS, ratio, 1.0)
    sign, doors = ([steps_to_half(one) for one in runs[env]] for env in (graded_envs.Sign, graded_envs.Doors))
    harder, wanted = sum(one < other for one, other in zip(sign, doors, strict=True)), WANTED_SHARE * len(sign)
    setting = "takes more steps than Sign to half of its gain"
    yield Row("Doors", setting, harder, f"of {len(sign)} seeds", "wanted", wanted, harder / wanted, 1.0)


def table(runs: Mapping[type[Env], list[Run]]) -> Table:
    """All runs: mean return of each player in the held-out episodes."""
    players = ("random", "blank", "sequence", "frames")
    shown = Table("env", "seed", "verdict", *players, "frames over blind", "steps to half", "CPU-s")
    for env, done in runs.items():
        for one in done:
            means = {arm["name"]: f"{arm['mean']:.2f}" for arm in one["arms"]}
            gain = one["frames_over_blind"]["interval"]
            shown.add_row(
                env.__name__,
                str(one["seed"]),
                str(one["verdict"]),
                *(means[player] for player in players),
                f"{gain['value']:+.2f} [{gain['low']:+.2f}, {gain['high']:+.2f}]",
                f"{steps_to_half(one):,}" if steps_to_half(one) else "-",
                f"{one['cpu_seconds']:.0f}",
                style=None if one["told"] else "red",
            )
    return shown


def main() -> None:
    """Runs what is missing and reports."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--runs", type=Path, default=Path("runs/audit-learn"), help="folder of the runs' files")
    arguments.add_argument("--seeds", type=int, default=5, help="seeds of each env, from 0")
    chosen = arguments.parse_args()
    runs: dict[type[Env], list[Run]] = {env: [] for env in ENVS}
    for seed in range(chosen.seeds):  # seed by seed, so that a run that is cut off says something of every env
        for env in ENVS:
            done = run(env, seed, chosen.runs, LearnSettings())
            runs[env].append(done)
            CONSOLE.print(f"{env.__name__}, seed {seed}: {done['verdict']}, {done['cpu_seconds']:.0f} CPU-s")
    CONSOLE.print(table(runs))
    finish(list(rows(runs)), chosen.json)


if __name__ == "__main__":
    main()
