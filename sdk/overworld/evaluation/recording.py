"""Recording episodes while they are played: the evaluator and the trainer make the same records of them."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from overworld.authoring.env import Action, Image, Observation
from overworld.authoring.runner import Result
from overworld.client.fleet import Fleet
from overworld.client.moves import Reset
from overworld.errors import EvaluationError
from overworld.evaluation.conversation import Recipe, Reply
from overworld.evaluation.episodes import (
    Episode,
    Header,
    ImageRecord,
    ModelRecord,
    ObservationRecord,
    Turn,
    action_record,
    env_record,
    problem,
)

Keep = Callable[[Sequence[Image], Sequence[ImageRecord]], None]
"""Takes an observation's pictures and their records, as `EpisodeWriter.keep` does."""


class Recording:
    """An episode that is being played: begin, then decide and advance in turn until `episode` is there.

    Pictures go to `keep`. Methods raise EvaluationError for what the format cannot hold.
    """

    def __init__(self, task: Reset, keep: Keep | None = None, *, sample: int = 0) -> None:
        self.episode: Episode | None = None
        """The record, once the episode is over."""
        self._task = task
        self._keep = keep
        self._sample = sample
        self._turns: list[Turn] = []
        self._decided: dict[str, Any] = {}

    def __repr__(self) -> str:
        state = "being played" if self.episode is None else "over"
        return f"Recording({self._task}, {len(self)} turns, {state})"

    def __len__(self) -> int:
        """Turns that are over."""
        return len(self._turns)

    def begin(self, result: Result) -> None:
        """Takes the result of the reset."""
        with self._recording():
            self._observe(result)

    def show(self, observation: Observation) -> None:
        """The agent is shown this instead of what the env showed."""
        with self._recording():
            self._decided["shown"] = self._record(observation).parts

    def decide(
        self,
        text: str,
        reply: Reply,
        *,
        cut: bool,
        fingerprint: str = "",
        sampling_seed: int | None = None,
        actor: Literal["model", "expert"] = "model",
    ) -> None:
        """Takes the agent's reply to what it was shown, and what was read from it; or what `actor` did instead."""
        self._decided |= {
            "reply": text,
            "thoughts": reply.thoughts,
            "action": action_record(reply.action),
            "cut": cut,
            "fingerprint": fingerprint,
            "sampling_seed": sampling_seed,
            "actor": actor,
        }

    def act(
        self,
        action: Action | None,
        thoughts: str = "",
        *,
        actor: Literal["expert", "random", "person"],
        sampling_seed: int | None = None,
    ) -> None:
        """Takes an action that was not read from a reply."""
        with self._recording():
            record = action_record(action)
        self._decided |= {"actor": actor, "action": record, "thoughts": thoughts, "sampling_seed": sampling_seed}

    def advance(self, result: Result) -> None:
        """Takes the result of the action."""
        with self._recording():
            outcome = "failed" if result.outcome is None else result.outcome.name.lower()
            fields = {
                "outcome": outcome,
                "executed": action_record(result.executed),
                "reward": result.reward,
                "metrics": dict(result.metrics),
            }
            self._turns.append(Turn.model_validate(self._decided | fields))
            self._observe(result)

    def _observe(self, result: Result) -> None:
        if result.error is not None:
            self._finish(error=f"{result.error.reason}: {result.error.message}")
            return
        observed = self._record(result.observation)
        if result.end is not None:
            self._finish(final=observed, end=result.end.name, success=bool(result.success))
        else:
            self._decided = {"observation": observed}

    def _record(self, observation: Observation) -> ObservationRecord:
        record = ObservationRecord.of(observation)
        if self._keep is not None:
            self._keep(observation.images, record.images)
        return record

    def _finish(self, **ending: Any) -> None:
        task = self._task
        prefix = tuple(action_record(action) for action in task.prefix)
        fields = {"seed": task.seed, "split": task.split, "task": task.task, "prefix": prefix, "sample": self._sample}
        self.episode = Episode.model_validate(fields | {"turns": tuple(self._turns)} | ending)

    @contextmanager
    def _recording(self) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            raise EvaluationError(
                f"turn {len(self)} of the episode of seed {self._task.seed} cannot be recorded: {problem(error)}"
            ) from error


def header_of(fleet: Fleet, recipe: Recipe, model: ModelRecord | None, substitution: str = "") -> Header:
    """The header of what is played in a fleet. Raises EvaluationError if the format cannot hold it."""
    fields = {
        "env": env_record(fleet.spec),
        "options": fleet.options,
        "fallback": fleet.fallback.name,
        "fallback_reward": fleet.fallback_reward,
        "expert": fleet.expert,
        "recipe": recipe,
        "model": model,
        "substitution": substitution,
        "versions": {"overworld": importlib.metadata.version("overworld")},
    }
    try:
        return Header.model_validate(fields)
    except ValueError as error:
        raise EvaluationError(f"episodes of {fleet.spec.id} cannot be recorded: {problem(error)}") from None
