"""How much of a task's goal is met: ALFRED's goal conditions, recomputed from facts.

Upstream's text engine only knows whether the game is won. Its THOR env counts conditions (alfworld/env/tasks.py): one
for placing an object, two for placing two or for looking at one in light, three if the object must be treated first.
"""

from __future__ import annotations

from collections import Counter

from overworld_envs.alfworld.engine.facts import KnownFacts
from overworld_envs.alfworld.games.planner import TREATED
from overworld_envs.alfworld.games.tasks import Task


class Progress:
    """Counts the goal conditions of one game's task."""

    def __init__(self, task: Task, facts: KnownFacts) -> None:
        self._task = task
        self._objects = {name for name, kind in facts.of("objecttype") if kind == f"{task.object}type"}
        self._lamps = {name for name, kind in facts.of("objecttype") if kind == f"{task.target}type"}
        self._targets = {name for name, kind in facts.of("receptacletype") if kind == f"{task.target}type"}

    def rate(self, facts: KnownFacts) -> float:
        """The fraction of the conditions that are met, 0 to 1."""
        task = self._task
        if task.type == "look_at_obj_in_light":
            held = any(thing in self._objects for _, thing in facts.of("holds"))
            return (held + self._lit(facts)) / 2
        placed = [
            (thing, receptacle)
            for thing, receptacle in facts.of("inreceptacle")
            if thing in self._objects and receptacle in self._targets
        ]
        if task.type == "pick_two_obj_and_place":
            return min(2, max(Counter(receptacle for _, receptacle in placed).values(), default=0)) / 2
        if task.treatment is None:
            return float(bool(placed))
        treated = {thing for (thing,) in facts.of(TREATED[task.treatment])} & self._objects
        return (bool(placed) + bool(treated) + any(thing in treated for thing, _ in placed)) / 3

    def _lit(self, facts: KnownFacts) -> bool:
        """Whether a lamp of the right kind is on where the agent is."""
        here = {location for _, location in facts.of("atlocation")}
        near = {receptacle for receptacle, location in facts.of("receptacleatlocation") if location in here}
        on = {thing for (thing,) in facts.of("istoggled")} & self._lamps
        return any(thing in on and receptacle in near for thing, receptacle in facts.of("inreceptacle"))
