"""Agents to hold a model against, in the same episodes: the env's expert, chance, a person."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from overworld.authoring.env import Action, EnvSpec
from overworld.authoring.runner import Result
from overworld.errors import EvaluationError


class ExpertAgent:
    """Does what the env's expert advises, for which the fleet must have been opened with `expert=True`."""

    name: Literal["expert"] = "expert"

    def __init__(self, spec: EnvSpec) -> None:
        self._spec = spec

    def choose(self, result: Result, noise: int) -> tuple[Action | None, str]:
        """The advice. Raises EvaluationError if there is none."""
        if result.expert is None:
            raise EvaluationError(
                "there is no expert's advice: does the server allow it (overworld serve --allow-expert)?"
            )
        return self._spec.action.read(result.expert.action), result.expert.thoughts


class RandomAgent:
    """Draws among the actions that the env lists, all equally likely."""

    name: Literal["random"] = "random"

    def __init__(self, spec: EnvSpec) -> None:
        self._spec = spec

    def choose(self, result: Result, noise: int) -> tuple[Action | None, str]:
        """The action. Raises EvaluationError where none are listed."""
        actions = result.observation.admissible or self._spec.action.vocabulary
        if not actions:
            raise EvaluationError(
                f"{self._spec.id} does not list its actions, so none can be drawn: leave out `random`"
            )
        return actions[noise % len(actions)], ""


class PersonAgent:
    """Asks a person, one turn at a time."""

    name: Literal["person"] = "person"

    def __init__(self, ask: Callable[[Result], Action | None]) -> None:
        self._ask = ask

    def choose(self, result: Result, noise: int) -> tuple[Action | None, str]:
        """What the person does. Raises what `ask` raises."""
        return self._ask(result), ""
