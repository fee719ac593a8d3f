"""`overworld study FILE`: does the runs of a study, or one of them, and writes the page."""

from __future__ import annotations

import signal
import statistics
from collections.abc import Sequence

import yaml
from overworld.errors import SettingsError
from overworld.service import log
from rich.console import Console
from rich.table import Table

from overworld_trainer.study.page import write_page
from overworld_trainer.study.plan import RunKey, StudyConfig
from overworld_trainer.study.results import read_cost, read_result
from overworld_trainer.study.runner import Runner

_INTERRUPTED = 128 + signal.SIGTERM


def main(arguments: Sequence[str]) -> int:
    """Status 0: what was asked for is done; 143: it was interrupted, and the same command goes on."""
    study = StudyConfig.load(arguments, "overworld study")
    study.check_settings()
    keys = study.every_run
    if study.index is not None:
        if study.index >= len(keys):
            raise SettingsError(f"index = {study.index}: the study has the runs 0 to {len(keys) - 1}")
        keys = [keys[study.index]]
    if study.dry_run:
        _show_plan(study, keys)
        return 0
    log.configure()
    if not study.page_only:
        _register(study)
        if not Runner(study).run(keys):
            return _INTERRUPTED
    if study.index is None:
        print(write_page(study))
    return 0


def _register(study: StudyConfig) -> None:
    """Keeps what is claimed before the first run, so that the page can tell it from what was claimed afterwards."""
    path = study.folder / "registered.yaml"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        claims = [claim.model_dump(mode="json") for claim in study.claims]
        path.write_text(yaml.safe_dump({"primary": study.primary, "budget": study.budget, "claims": claims}))


def _show_plan(study: StudyConfig, keys: Sequence[RunKey]) -> None:
    """The runs, and what those that are left will cost, as far as runs that are done say so."""
    table = Table("index", "run", "state", "CPU-seconds")
    done: dict[tuple[str, str], list[float]] = {}
    left: list[RunKey] = []
    numbers = {key: number for number, key in enumerate(study.every_run)}
    for key in keys:
        folder = study.run_folder(key)
        finished, seconds = read_result(study, key) is not None, read_cost(folder).cpu_seconds
        begun = (folder / "metrics.jsonl").exists()
        state = "finished" if finished else "begun" if begun else ""
        if finished and seconds is not None:
            done.setdefault((key.env, key.arm), []).append(seconds)
        if not finished:
            left.append(key)
        table.add_row(str(numbers[key]), str(key), state, f"{seconds:.0f}" if seconds else "")
    console = Console()
    console.print(table)
    guesses = [_expected(key, done) for key in left]
    known = sum(guess for guess in guesses if guess is not None)
    unknown = sum(guess is None for guess in guesses)
    spent = sum(map(sum, done.values()))
    console.print(
        f"{len(keys)} runs, {len(keys) - len(left)} of them finished ({spent / 3600:.2f} CPU-hours); those left: "
        f"{known / 3600:.2f} CPU-hours, less what is done of runs that were begun"
        + (f", and {unknown} runs of unknown cost" if unknown else "")
        + ". Clones and env servers come on top."
    )


def _expected(key: RunKey, done: dict[tuple[str, str], list[float]]) -> float | None:
    """What a run will cost: the mean of the same arm's in this env, else of all arms' in this env; else unknown."""
    known = done.get((key.env, key.arm)) or [one for (env, _), costs in done.items() if env == key.env for one in costs]
    return statistics.fmean(known) if known else None
