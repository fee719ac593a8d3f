"""The six task types, and the task that a game's PDDL problem states."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

TASK_TYPES = (
    "pick_and_place_simple",
    "look_at_obj_in_light",
    "pick_clean_then_place_in_recep",
    "pick_heat_then_place_in_recep",
    "pick_cool_then_place_in_recep",
    "pick_two_obj_and_place",
)

TREATMENTS: Mapping[str, str] = {
    "pick_clean_then_place_in_recep": "clean",
    "pick_heat_then_place_in_recep": "heat",
    "pick_cool_then_place_in_recep": "cool",
}
"""Task type -> what must be done to the object first."""


@dataclass(frozen=True, slots=True)
class Task:
    """A goal. Kinds are in lower case, as in the engine. `target` is a receptacle's kind, or a lamp's for looking."""

    type: str
    object: str
    target: str

    @property
    def treatment(self) -> str | None:
        """ "clean", "heat", "cool" or None."""
        return TREATMENTS.get(self.type)


def task_of_problem(task_type: str, problem: str) -> Task:
    """The task that the goal of a PDDL problem states.

    Raises ValueError if the goal is not one of the six or does not match `task_type`.
    """
    if task_type not in TASK_TYPES:
        raise ValueError(f"task type {task_type!r} is not one of {', '.join(TASK_TYPES)}")
    goal = problem.lower().partition("(:goal")[2]
    objects = re.findall(r"\(objecttype\s+\?\w+\s+(\w+)type\s*\)", goal)
    receptacles = re.findall(r"\(receptacletype\s+\?\w+\s+(\w+)type\s*\)", goal)
    predicates = set(re.findall(r"\(([\w=]+)\s", goal)) - {"goal", "and", "exists"}
    looking = task_type == "look_at_obj_in_light"
    kinds = set(objects)
    wanted = _PREDICATES[task_type]
    if predicates not in ([wanted | here for here in _LAMP_IS_HERE] if looking else [wanted]):
        raise ValueError(
            f"its goal is not that of {task_type}: it speaks of {', '.join(sorted(predicates)) or 'nothing'}"
        )
    if looking:
        toggled = re.search(r"\(objecttype\s+(\?\w+)\s+(\w+)type\s*\)\s*\(toggleable\s+\1\s*\)", goal)
        others = kinds - {toggled[2]} if toggled else kinds
        if toggled is None or len(others) != 1:
            raise ValueError("its goal does not name one lamp and one object")
        return Task(task_type, others.pop(), toggled[2])
    if len(kinds) != 1 or len(set(receptacles)) != 1:
        raise ValueError("its goal does not name one kind of object and one kind of receptacle")
    return Task(task_type, objects[0], receptacles[0])


_PLACED = frozenset({"inreceptacle", "objecttype", "receptacletype"})
_PREDICATES: Mapping[str, frozenset[str]] = {
    "pick_and_place_simple": _PLACED,
    "pick_two_obj_and_place": _PLACED | {"not", "="},
    "pick_clean_then_place_in_recep": _PLACED | {"cleanable", "isclean"},
    "pick_heat_then_place_in_recep": _PLACED | {"heatable", "ishot"},
    "pick_cool_then_place_in_recep": _PLACED | {"coolable", "iscool"},
    "look_at_obj_in_light": frozenset({"objecttype", "toggleable", "istoggled", "atlocation", "holds"}),
}
_LAMP_IS_HERE = {"inreceptacle", "receptacleatlocation"}, {"objectatlocation"}
"""How the later and the earlier games of ALFWorld say that the lamp is where the agent is."""
