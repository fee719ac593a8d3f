"""The expert: the first step of the planner's plan, as a command with a short thought."""

from __future__ import annotations

from collections.abc import Mapping

from overworld.authoring.env import Expert

from overworld_envs.alfworld.engine.engine import Engine
from overworld_envs.alfworld.games.planner import Step, plan
from overworld_envs.alfworld.games.tasks import Task
from overworld_envs.alfworld.pictures.view import kind_of

_MADE: Mapping[str, str] = {"clean": "clean", "heat": "hot", "cool": "cool"}


def advise(task: Task, engine: Engine) -> Expert:
    """The next command. Raises LookupError if there is none: the game is won, or cannot be won any more."""
    steps = plan(task, engine.facts)
    if not steps:
        raise LookupError("there is no plan from here")
    step = steps[0]
    arguments = {"r": step.receptacle} if step.object is None else {"o": step.object, "r": step.receptacle}
    return Expert(engine.command(step.action, **arguments), _thought(task, step, engine))


def _thought(task: Task, step: Step, engine: Engine) -> str:
    """The reason, in terms of the goal and of what is in sight; never what closed receptacles hold."""
    entities = engine.game.entities
    place = entities[step.receptacle].name
    held = next((entities[thing].name for _, thing in engine.facts.of("holds")), "")
    wanted = _article(task.object)
    if step.action == "openobject":
        return f"The {place} is closed, so I open it."
    match step.purpose, step.action:
        case "fetch", "gotolocation":
            return f"I still need {wanted}, so I go to {place} to look for one."
        case "fetch", _:
            return f"Here is {entities[step.object or ''].name}, and I need {wanted}: I take it."
        case "treat", "gotolocation":
            return f"I hold {held}, which has to be {_MADE[task.treatment or '']} first, so I go to {place}."
        case "treat", _:
            return f"I hold {held} at the {place}, so I {task.treatment} it."
        case "place", "gotolocation":
            return f"I hold {held}, which belongs in or on {_article(task.target)}, so I go to {place}."
        case "place", _:
            return f"I am at {place} with {held}, where it belongs: I put it there."
        case "light", "gotolocation":
            return f"I hold {held} and need the light of {_article(task.target)}, so I go to {place}."
        case "light", _:
            return f"I hold {held}, and here is {entities[step.object or ''].name}: I turn it on."
        case "drop", "gotolocation":
            return f"I hold {held}, which I don't need now, so I go to {place} to put it down."
    return f"I don't need {held} now: I put the {kind_of(held)} down at {place}."


def _article(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"
