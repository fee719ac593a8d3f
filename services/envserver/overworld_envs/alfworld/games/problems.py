"""Writes a scene and a task as a game of ALFWorld: a PDDL problem within a JSON object."""

from __future__ import annotations

from typing import Any

from overworld_envs.alfworld.engine.upstream import DOMAIN, GRAMMAR, constants, goals
from overworld_envs.alfworld.games.scenes import HOLDS, LAMPS, OPENABLE, Scene

_MANGLED = {"|": "_bar_", "-": "_minus_", "+": "_plus_", ".": "_dot_"}
_TREATABLE: dict[str, frozenset[str]] = {
    predicate: frozenset(constants.VAL_ACTION_OBJECTS[predicate.capitalize()])
    for predicate in ("heatable", "coolable", "cleanable", "toggleable", "sliceable")
}
# The domain's actions name these; the translation fails without them, even if the scene has none.
_RECEPTACLE_CONSTANTS = {"SinkBasin", "Microwave", "Fridge"}
_OBJECT_CONSTANTS = {"Knife", "ButterKnife"}


def identifier(name: str) -> str:
    """A THOR name as a PDDL identifier: "Mug|-01.2" -> "Mug_bar__minus_01_dot_2"."""
    for sign, word in _MANGLED.items():
        name = name.replace(sign, word)
    return name


def treatable(kind: str, treatment: str) -> bool:
    """Whether objects of this kind can be treated: "clean", "heat" or "cool"."""
    return kind in _TREATABLE[f"{treatment}able"]


def problem(scene: Scene, task_type: str, goal_object: str, goal_target: str) -> str:
    """The PDDL problem. The agent starts in the middle of the room, away from all receptacles."""
    start = "loc_bar_0_bar_0_bar_0_bar_30_bar_start"
    standpoints = {
        receptacle.id: identifier("loc|" + "|".join(map(str, receptacle.standpoint)))
        for receptacle in scene.receptacles
    }
    kinds = {receptacle.kind for receptacle in scene.receptacles}
    object_kinds = {thing.kind for thing in scene.things}
    declared = [
        "agent1 - agent",
        *(f"{identifier(thing.id)} - object" for thing in scene.things),
        *(f"{kind}Type - otype" for kind in sorted(object_kinds | _OBJECT_CONSTANTS)),
        *(f"{identifier(receptacle.id)} - receptacle" for receptacle in scene.receptacles),
        *(f"{kind}Type - rtype" for kind in sorted(kinds | _RECEPTACLE_CONSTANTS)),
        *(f"{location} - location" for location in standpoints.values()),
        f"{start} - location",
    ]
    facts: list[str] = []
    for receptacle in scene.receptacles:
        name = identifier(receptacle.id)
        facts += [
            f"receptacleType {name} {receptacle.kind}Type",
            f"receptacleAtLocation {name} {standpoints[receptacle.id]}",
        ]
        if receptacle.kind in OPENABLE:
            facts.append(f"openable {name}")
    for thing in scene.things:
        name = identifier(thing.id)
        facts += [
            f"objectType {name} {thing.kind}Type",
            f"inReceptacle {name} {identifier(thing.receptacle.id)}",
            f"objectAtLocation {name} {standpoints[thing.receptacle.id]}",
            *(f"{predicate} {name}" for predicate, objects in _TREATABLE.items() if thing.kind in objects),
        ]
        if thing.kind not in LAMPS:
            facts.append(f"pickupable {name}")
    facts += [
        f"canContain {kind}Type {held}Type" for kind in sorted(kinds) for held in sorted(HOLDS[kind] & object_kinds)
    ]
    facts.append(f"atLocation agent1 {start}")
    goal = goals[task_type]["pddl"].format(obj=goal_object, recep=goal_target, toggle=goal_target).replace("#", "-")
    lines = ["(define (problem generated)", "(:domain alfred)", "(:objects", *declared, ")", "(:init"]
    # Upstream's goals already end with the bracket that closes the problem.
    return "\n".join([*lines, *(f"({fact})" for fact in facts), ")", goal.strip("\n")])


def game(text: str, goal_in_words: str) -> dict[str, Any]:
    """The content of a `game.tw-pddl`, given the PDDL problem. It has no walkthrough; the planner makes its own."""
    return {
        "pddl_domain": DOMAIN,
        "grammar": GRAMMAR.replace("UNKNOWN GOAL", goal_in_words),
        "pddl_problem": text,
        "solvable": True,
    }
