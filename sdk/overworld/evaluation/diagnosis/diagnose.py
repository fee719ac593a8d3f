"""Diagnoses a model: plays the same tasks under all conditions, and says what follows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from overworld.client.fleet import Fleet
from overworld.client.moves import Reset
from overworld.errors import EvaluationError
from overworld.evaluation.conversation import Recipe
from overworld.evaluation.diagnosis.conditions import AS_IS, BLANK, SWAPPED, Condition, aids, controls
from overworld.evaluation.diagnosis.diagnosis import Diagnosis, diagnosis_of
from overworld.evaluation.diagnosis.page import as_html
from overworld.evaluation.diagnosis.trial import Trial
from overworld.evaluation.diagnosis.verdict import climbed
from overworld.evaluation.episodes import Episode, Header, ModelRecord
from overworld.evaluation.evaluate import Table
from overworld.evaluation.folder import EpisodeWriter, to_json
from overworld.evaluation.model import Model
from overworld.evaluation.recording import header_of
from overworld.evaluation.report import Report, report_of

OpenFleet = Callable[[bool], Fleet]
"""Opens slots of the env, with the expert's advice or without."""

DIAGNOSIS, PAGE = "diagnosis.json", "diagnosis.html"
"""The files beside the folders of the conditions."""

_LONGER = 4
_LONGEST = 64


def diagnose(
    model: Model,
    open_fleet: OpenFleet,
    tasks: Sequence[Reset],
    *,
    recipe: Recipe,
    long_history: int | None = None,
    notes: int = 32,
    keep: Path | None = None,
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Diagnosis:
    """Plays each task once under each condition, with the same noise.

    What the agent is told beyond the pictures is privileged: `open_fleet(True)` raises ContractError EXPERT_NOT_ALLOWED
    where the server does not give it, before anything is played. The agent as it is and the controls are played in
    sessions without an expert. `long_history` counts the turns that the longer prompts show, by default
    four times the recipe's and at most 64; `notes` bounds the turns that are written down for the agent. With `keep`,
    each condition's episodes are kept in a folder of its own there, next to the diagnosis as JSON and as a page.
    `on_progress` is told how many episodes of how many are over. Raises what model and fleet raise, ModelChangedError,
    EvaluationError and OSError.
    """
    if len({(task.seed, task.split, task.task) for task in tasks}) < max(2, len(tasks)):
        raise EvaluationError("a diagnosis compares different tasks: name two or more, better 200, and each once")
    longer = min(recipe.history * _LONGER, _LONGEST) if long_history is None else long_history
    if not recipe.history < longer <= _LONGEST:
        raise EvaluationError(
            f"the longer history is of {longer} turns, the recipe's of {recipe.history}: name a longer one, up to "
            f"{_LONGEST} turns"
        )
    steps, others = aids(recipe), controls(recipe, longer)
    total = (len(steps) + len(others) + 2) * len(tasks)
    sitting = _Sitting(model, tasks, recipe, notes, keep, overwrite, lambda done: on_progress(done, total))
    with open_fleet(True) as fleet:
        sitting.ask(fleet)
    with open_fleet(False) as fleet:
        sitting.play(fleet, [AS_IS, *others])
        sitting.play(fleet, [SWAPPED])
    with open_fleet(True) as fleet:
        for aid in steps:
            base, dropped = climbed(sitting.successes)
            if aid == "earlier_captions" and "captions" in dropped:
                continue
            sitting.play(fleet, [Condition(aid, given=(*sitting.conditions[base].given, aid))])
    found = diagnosis_of(sitting.headers[AS_IS.name], sitting.played)
    if keep is not None:
        write(found, keep)
    return found


def play_controls(
    model: Model, fleet: Fleet, tasks: Sequence[Reset], *, recipe: Recipe, keep: Path
) -> dict[str, tuple[Report, list[Episode]]]:
    """Plays each task as it is, with white pictures and with another episode's, with the same noise.

    The keys are the names of these conditions, and of the folders in `keep`. Raises what model and fleet raise,
    ModelChangedError, EvaluationError and OSError.
    """
    sitting = _Sitting(model, tasks, recipe, 0, keep, False, lambda done: None)
    sitting.play(fleet, [AS_IS, BLANK])
    sitting.play(fleet, [SWAPPED])
    played = sitting.played
    return {name: (report_of(sitting.headers[name], episodes), episodes) for name, episodes in played.items()}


def write(found: Diagnosis, folder: Path) -> None:
    """Puts the figures and the page into a folder. Raises OSError."""
    (folder / DIAGNOSIS).write_bytes(to_json(found.to_json()))
    (folder / PAGE).write_text(as_html(found), encoding="utf-8")


class _Sitting:
    """What was played so far, and how to play more of it."""

    def __init__(
        self,
        model: Model,
        tasks: Sequence[Reset],
        recipe: Recipe,
        notes: int,
        keep: Path | None,
        overwrite: bool,
        on_progress: Callable[[int], None],
    ) -> None:
        self.conditions: dict[str, Condition] = {}
        self.headers: dict[str, Header] = {}
        self._model = model
        self._tasks = tasks
        self._recipe = recipe
        self._notes = notes
        self._keep = keep
        self._overwrite = overwrite
        self._on_progress = on_progress
        self._trials: dict[str, list[Trial]] = {}
        self._fingerprints: set[str] = set()
        self._over = 0

    def play(self, fleet: Fleet, conditions: Sequence[Condition]) -> None:
        """Plays all tasks under these conditions."""
        with ExitStack() as stack:
            writers: dict[str, EpisodeWriter] = {}
            for condition in conditions:
                self.conditions[condition.name] = condition
                header = self.headers[condition.name] = self._header(fleet, condition)
                if self._keep is not None:
                    writer = EpisodeWriter(self._keep / condition.name, header, overwrite=self._overwrite)
                    writers[condition.name] = stack.enter_context(writer)
                self._trials[condition.name] = [
                    self._trial(fleet, condition, number, writers.get(condition.name))
                    for number in range(len(self._tasks))
                ]

            trials = [trial for condition in conditions for trial in self._trials[condition.name]]
            table = Table(self._model, fleet, self._fingerprints)
            for over in stack.enter_context(closing(table.play(trials))):
                self._over += len(over)
                self._on_progress(self._over)
            for name, writer in writers.items():
                self._finish(writer, name, fleet)

    def ask(self, fleet: Fleet) -> None:
        """Sees whether the env has words for its pictures. Raises EvaluationError."""
        (result,) = fleet.step({0: self._tasks[0]})
        if result.expert is not None and result.observation.images and not result.expert.caption:
            raise EvaluationError(
                f"{fleet.spec.id} has no words for its pictures, by which sight could be told from the rest: give it "
                "the method Env.caption (rule R14 of proto/README.md)"
            )

    @property
    def played(self) -> dict[str, list[Episode]]:
        """The episodes of each condition, in the order of the tasks."""
        return {
            name: [trial.episode for trial in trials if trial.episode is not None]
            for name, trials in self._trials.items()
        }

    @property
    def successes(self) -> dict[str, list[bool]]:
        """Those of each condition."""
        return {name: [episode.success for episode in episodes] for name, episodes in self.played.items()}

    def _trial(self, fleet: Fleet, condition: Condition, number: int, writer: EpisodeWriter | None) -> Trial:
        donor = None
        if condition is SWAPPED:
            others = self._trials[AS_IS.name]
            donor = others[(number + len(others) // 2) % len(others)].film
        return Trial(
            self._tasks[number],
            condition,
            fleet.spec,
            self._recipe,
            notes=self._notes,
            donor=donor,
            keep=None if writer is None else writer.keep,
        )

    def _header(self, fleet: Fleet, condition: Condition) -> Header:
        model = self._model
        record = ModelRecord(name=model.name, temperature=model.temperature, max_tokens=model.max_tokens)
        return header_of(fleet, condition.recipe(self._recipe), record, condition.substitution)

    def _finish(self, writer: EpisodeWriter, name: str, fleet: Fleet) -> None:
        played = [(trial.episode, trial.usage) for trial in self._trials[name] if trial.episode is not None]
        report = report_of(self.headers[name], [episode for episode, _ in played])
        attempt = {"agent_url": self._model.url, "servers": fleet.addresses, "slots": len(fleet)}
        writer.finish(played, report.to_json(), attempt)
