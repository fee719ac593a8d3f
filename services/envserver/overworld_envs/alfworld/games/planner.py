"""The expert's planner: the shortest plan from any state to the goal of one of the six tasks.

Upstream's planners search blindly for minutes, or follow hand-written rules that sometimes fail. But the six tasks are
simple: fetch an object, perhaps treat it, take it somewhere. So this planner writes out the actions for every choice
of object, device and target, and takes the shortest sequence. That takes less than a millisecond, finds a plan whenever
there is one, and the plan is as short as the one of Fast Downward's optimal search (a test compares them).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from typing import NamedTuple

from overworld_envs.alfworld.engine.facts import Arguments, KnownFacts
from overworld_envs.alfworld.games.tasks import Task

DEVICES: Mapping[str, str] = {"clean": "sinkbasin", "heat": "microwave", "cool": "fridge"}
"""Treatment -> the kind of receptacle that it needs."""
TREATED: Mapping[str, str] = {"clean": "isclean", "heat": "ishot", "cool": "iscool"}
"""Treatment -> the predicate that it makes true."""


class Step(NamedTuple):
    """An action of a plan: the PDDL action's name, its object if it has one, and its receptacle.

    `purpose` is "fetch", "treat", "place", "light" or "drop".
    """

    action: str
    object: str | None
    receptacle: str
    purpose: str


@dataclass(slots=True)
class _World:
    """The facts, indexed for planning."""

    here: str
    held: str | None
    location: dict[str, str]
    """Receptacle -> its location."""
    inside: dict[str, str]
    """Object -> the receptacle that it is in."""
    closed: set[str]
    kind: dict[str, str]
    """Object or receptacle -> its kind, e.g. "mug"."""
    holds: set[Arguments]
    """Kinds of receptacle and object that go together, such as ("fridgetype", "eggtype")."""

    def may_hold(self, receptacle: str, thing: str) -> bool:
        return (f"{self.kind[receptacle]}type", f"{self.kind[thing]}type") in self.holds


def plan(task: Task, facts: KnownFacts) -> list[Step] | None:
    """The shortest plan. Empty if the goal is met, None if it cannot be met."""
    world = _read(facts)
    if world is None:
        return None
    candidates = _looks(task, facts, world) if task.type == "look_at_obj_in_light" else _placements(task, facts, world)
    return min((each.steps for each in candidates), key=len, default=None)


def facts_of_problem(problem: str) -> KnownFacts:
    """The initial facts that a PDDL problem lists."""
    init = problem.lower().partition("(:init")[2].partition("(:goal")[0]
    found: dict[str, list[Arguments]] = {}
    for fact in re.findall(r"\(([^()]*)\)", init):
        predicate, *arguments = fact.split() or [""]
        found.setdefault(predicate, []).append(tuple(arguments))
    return _Listed(found)


class _Listed:
    def __init__(self, facts: Mapping[str, Sequence[Arguments]]) -> None:
        self._facts = facts

    def of(self, predicate: str) -> Iterable[Arguments]:
        return self._facts.get(predicate, ())


def _read(facts: KnownFacts) -> _World | None:
    here = next((location for _, location in facts.of("atlocation")), None)
    if here is None:
        return None
    typed = [*facts.of("objecttype"), *facts.of("receptacletype")]
    opened = {receptacle for (receptacle,) in facts.of("opened")}
    return _World(
        here,
        next((thing for _, thing in facts.of("holds")), None),
        dict(sorted(facts.of("receptacleatlocation"))),  # type: ignore[arg-type]
        dict(sorted(facts.of("inreceptacle"))),  # type: ignore[arg-type]
        {receptacle for (receptacle,) in facts.of("openable")} - opened,
        {name: kind.removesuffix("type") for name, kind in typed},
        set(facts.of("cancontain")),
    )


@dataclass(slots=True)
class _Draft:
    """A plan under construction, and what it has changed so far."""

    world: _World
    here: str = field(init=False)
    held: str | None = field(init=False)
    opened: set[str] = field(init=False, default_factory=set)
    moved: dict[str, str] = field(init=False, default_factory=dict)
    steps: list[Step] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.here, self.held = self.world.here, self.world.held

    def go(self, receptacle: str, purpose: str) -> None:
        location = self.world.location[receptacle]
        if location != self.here:
            self.here = location
            self.steps.append(Step("gotolocation", None, receptacle, purpose))

    def open(self, receptacle: str, purpose: str) -> None:
        self.go(receptacle, purpose)
        if receptacle in self.world.closed and receptacle not in self.opened:
            self.opened.add(receptacle)
            self.steps.append(Step("openobject", None, receptacle, purpose))

    def fetch(self, thing: str) -> None:
        if self.held != thing:
            source = self.moved.get(thing) or self.world.inside[thing]
            self.open(source, "fetch")
            self.steps.append(Step("pickupobject", thing, source, "fetch"))
            self.held = thing

    def put(self, receptacle: str, purpose: str) -> None:
        assert self.held is not None
        self.open(receptacle, purpose)
        self.steps.append(Step("putobject", self.held, receptacle, purpose))
        self.moved[self.held] = receptacle
        self.held = None

    def treat(self, treatment: str, device: str) -> None:
        self.go(device, "treat")
        self.steps.append(Step(f"{treatment}object", self.held, device, "treat"))


def _placements(task: Task, facts: KnownFacts, world: _World) -> Iterator[_Draft]:
    """All ways to bring the object, or two of them, to a target."""
    wanted = 2 if task.type == "pick_two_obj_and_place" else 1
    treatment = task.treatment
    treated = {thing for (thing,) in facts.of(TREATED[treatment])} if treatment else set()
    fit = {thing for (thing,) in facts.of(f"{treatment}able")} if treatment else None
    things = [thing for thing in _movable(task.object, facts, world) if fit is None or thing in fit]
    devices = _receptacles(DEVICES[treatment], world) if treatment else []
    for target in _receptacles(task.target, world):
        fitting = [thing for thing in things if world.may_hold(target, thing)]
        done = [thing for thing in things if world.inside.get(thing) == target and (not treatment or thing in treated)]
        missing = wanted - len(done)
        if missing <= 0:
            yield _Draft(world)
            continue
        for chosen in permutations([thing for thing in fitting if thing not in done], missing):
            for draft in _freed(world, chosen[0], target):
                if treatment and chosen[0] not in treated:
                    for device in devices:
                        with_device = _copied(draft)
                        with_device.fetch(chosen[0])
                        with_device.treat(treatment, device)
                        with_device.put(target, "place")
                        yield with_device
                    continue
                for thing in chosen:
                    draft.fetch(thing)
                    draft.put(target, "place")
                yield draft


def _looks(task: Task, facts: KnownFacts, world: _World) -> Iterator[_Draft]:
    """All ways to hold an object under a lamp."""
    lit = {thing for (thing,) in facts.of("istoggled")}
    lamps = [
        thing
        for (thing,) in sorted(facts.of("toggleable"))
        if world.kind.get(thing) == task.target and world.inside.get(thing) in world.location
    ]
    for thing in _movable(task.object, facts, world):
        for lamp in lamps:
            stand = world.inside[lamp]
            for draft in _freed(world, thing, stand):
                draft.fetch(thing)
                draft.go(stand, "light")
                if lamp not in lit:
                    draft.steps.append(Step("toggleobject", lamp, stand, "light"))
                yield draft


def _freed(world: _World, thing: str, target: str) -> Iterator[_Draft]:
    """Drafts in which the hand is free for `thing`: anything else is put down first, here or on the way."""
    held = world.held
    if held is None or held == thing:
        yield _Draft(world)
        return
    here = [receptacle for receptacle, location in world.location.items() if location == world.here]
    free = [
        receptacle for receptacle in world.location if world.kind.get(receptacle) and world.may_hold(receptacle, held)
    ]
    easiest = next((each for each in free if each not in world.closed), free[0] if free else None)
    for receptacle in dict.fromkeys((*here, world.inside.get(thing), target, easiest)):
        if receptacle in free:
            draft = _Draft(world)
            draft.put(receptacle, "drop")
            yield draft


def _copied(draft: _Draft) -> _Draft:
    copy = _Draft(draft.world)
    copy.here, copy.held = draft.here, draft.held
    copy.opened, copy.moved, copy.steps = set(draft.opened), dict(draft.moved), list(draft.steps)
    return copy


def _movable(kind: str, facts: KnownFacts, world: _World) -> list[str]:
    """Objects of a kind that can be picked up or are held."""
    things = sorted(thing for (thing,) in facts.of("pickupable") if world.kind.get(thing) == kind)
    return [thing for thing in things if thing == world.held or world.inside.get(thing) in world.location]


def _receptacles(kind: str, world: _World) -> list[str]:
    return [receptacle for receptacle in world.location if world.kind.get(receptacle) == kind]
