"""Plays trials in a fleet, as many at a time as it has slots."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from overworld.client.fleet import Fleet
from overworld.errors import ModelChangedError
from overworld.evaluation.diagnosis.trial import Trial
from overworld.evaluation.model import Model


def play(
    model: Model, fleet: Fleet, trials: Sequence[Trial], fingerprints: set[str], on_over: Callable[[Trial], None]
) -> None:
    """Plays all; `on_over` is told of each trial that is over, and `fingerprints` has the weights that replied.

    Raises what model and fleet raise, ModelChangedError and EvaluationError.
    """
    waiting = list(reversed(trials))
    playing: dict[int, Trial] = {}
    while waiting or playing:
        free = [slot for slot in range(len(fleet)) if slot not in playing][: len(waiting)]
        starts = {slot: waiting.pop() for slot in free}
        for result in fleet.step({slot: trial.task for slot, trial in starts.items()}) if starts else ():
            starts[result.slot].take(result)
        playing |= starts
        asked = {slot: trial for slot, trial in playing.items() if trial.episode is None}
        answers = model.answer_all([trial.prompt() for trial in asked.values()]) if asked else []
        fingerprints.update(answer.fingerprint for answer in answers)
        if len(fingerprints) > 1:
            raise ModelChangedError(f"{model.name} changed in the middle of the diagnosis: {sorted(fingerprints)}")
        moves = {slot: trial.read(answer) for (slot, trial), answer in zip(asked.items(), answers, strict=True)}
        for result in fleet.step(moves) if moves else ():
            playing[result.slot].take(result)
        for trial in playing.values():
            if trial.episode is not None:
                on_over(trial)
        playing = {slot: trial for slot, trial in playing.items() if trial.episode is None}
