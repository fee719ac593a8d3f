"""Household scenes: the floor plans that ALFWorld ships, with their receptacles, furnished with objects.

A floor plan gives the position and the standpoint of most receptacles, and the kinds of everything else. A receptacle
without a position (a stove burner, a toaster, a towel holder, ...) gets one near another, the same in every game.
"""

from __future__ import annotations

import functools
import itertools
import json
import random
from dataclasses import dataclass

from overworld_envs.alfworld.engine.upstream import LAYOUTS, constants

ROOMS: dict[str, range] = dict(constants.SCENE_TYPE)
"""Kitchen, LivingRoom, Bedroom, Bathroom -> their floor plans."""
UNSEEN: frozenset[int] = frozenset(constants.TEST_SCENE_NUMBERS)
"""Floor plans that ALFRED reserves for `valid_unseen`."""

HOLDS: dict[str, frozenset[str]] = {
    kind: frozenset(objects)
    for kind, objects in constants.VAL_RECEPTACLE_OBJECTS.items()
    if kind not in constants.MOVABLE_RECEPTACLES_SET
}
"""Kind of receptacle -> the kinds of objects that it may hold."""
OPENABLE: frozenset[str] = frozenset(constants.OPENABLE_CLASS_SET) - {"Box"}
LAMPS: frozenset[str] = frozenset(constants.VAL_ACTION_OBJECTS["Toggleable"])
_LAMP_STANDS = {
    "DeskLamp": ("Desk", "SideTable", "Dresser", "CoffeeTable", "DiningTable", "Shelf"),
    "FloorLamp": ("SideTable", "Dresser", "ArmChair", "Sofa", "CoffeeTable", "DiningTable", "Bed", "Desk"),
}
_SEVERAL = {"StoveBurner": 4}
_SURFACES = {"CounterTop", "DiningTable", "CoffeeTable", "SideTable", "Desk", "Dresser", "Bed", "Sofa"}
_MAX_INSTANCES: int = constants.MAX_NUM_OF_OBJ_INSTANCES


@dataclass(frozen=True, slots=True)
class Receptacle:
    """Something to put objects in or on. `id` is THOR's, e.g. "Cabinet|+00.68|+00.50|-02.20"."""

    id: str
    kind: str
    standpoint: tuple[int, int, int, int]
    """Where the agent stands to use it: x and z in quarters of a metre, rotation in quarter turns, horizon in degrees.
    No two receptacles of a room share one."""


@dataclass(frozen=True, slots=True)
class Thing:
    """An object and the receptacle that it starts in."""

    id: str
    kind: str
    receptacle: Receptacle


@dataclass(frozen=True, slots=True)
class Scene:
    """A room at the start of an episode."""

    plan: int
    receptacles: tuple[Receptacle, ...]
    things: tuple[Thing, ...]


def room_of(plan: int) -> str:
    """Kitchen, LivingRoom, Bedroom or Bathroom."""
    return next(room for room, plans in ROOMS.items() if plan in plans)


@functools.cache
def receptacles(plan: int) -> tuple[Receptacle, ...]:
    """All receptacles of a floor plan."""
    placed = json.loads((LAYOUTS / f"FloorPlan{plan}-openable.json").read_text())
    found: list[Receptacle] = []
    taken: set[tuple[int, int, int, int]] = set()
    for name, (x, z, rotation, horizon) in sorted(placed.items()):
        kind = _kind(name)
        if kind in HOLDS:
            pose = round(4 * x), round(4 * z), rotation // 90, horizon
            whole = f"{name.partition('|Sink')[0]}|{kind}" if kind.endswith("Basin") else name
            found.append(Receptacle(whole, kind, _free(pose, taken)))
    present = {receptacle.kind for receptacle in found}
    missing = [kind for kind in _named(plan) if kind in HOLDS and kind not in present]
    rng = random.Random(plan)
    points = [receptacle.standpoint for receptacle in found]
    for kind in missing:
        for _ in range(_SEVERAL.get(kind, 1)):
            x, z, rotation, _ = rng.choice(points)
            standpoint = _free((x, z, rotation, 30), taken)
            base = kind.removesuffix("Basin")
            across, up = x / 4 + rng.uniform(-1, 1), rng.uniform(0.4, 1.2)
            name = f"{base}|{across:+06.2f}|{up:+06.2f}|{z / 4 - 0.75:+06.2f}"
            found.append(Receptacle(f"{name}|{kind}" if base != kind else name, kind, standpoint))
    return tuple(found)


def furnish(plan: int, rng: random.Random) -> Scene:
    """The floor plan with one to three objects of each kind that belongs there, in receptacles that may hold them."""
    where = receptacles(plan)
    things: list[Thing] = []
    names: set[str] = set()

    def put(kind: str, receptacle: Receptacle) -> None:
        _, x, y, z, *_ = receptacle.id.split("|")
        for attempt in itertools.count():
            across, deep = rng.uniform(-0.3, 0.3), rng.uniform(-0.3, 0.3)
            name = (
                f"{kind}|{float(x) + across:+06.2f}|{float(y) + 0.05 + 0.01 * attempt:+06.2f}|{float(z) + deep:+06.2f}"
            )
            if name not in names:
                break
        names.add(name)
        things.append(Thing(name, kind, receptacle))

    for kind in _named(plan):
        stands = _LAMP_STANDS.get(kind)
        if stands is not None:
            fitting = [receptacle for receptacle in where if receptacle.kind in stands]
            if fitting:
                put(kind, rng.choice(fitting))
            continue
        fitting = [receptacle for receptacle in where if kind in HOLDS[receptacle.kind]]
        if fitting:
            for _ in range(rng.randint(1, _MAX_INSTANCES)):
                put(kind, _place(fitting, rng))
    return Scene(plan, where, tuple(things))


def _place(fitting: list[Receptacle], rng: random.Random) -> Receptacle:
    """Draws the kind first, so that twenty cabinets together are as likely as one fridge; surfaces are likelier."""
    kinds = sorted({receptacle.kind for receptacle in fitting})
    kind = rng.choices(kinds, [3 if kind in _SURFACES else 1 for kind in kinds])[0]
    return rng.choice([receptacle for receptacle in fitting if receptacle.kind == kind])


def _named(plan: int) -> list[str]:
    """The kinds of everything in a floor plan, sorted."""
    kinds: set[str] = set(json.loads((LAYOUTS / f"FloorPlan{plan}-objects.json").read_text()))
    if "Lamp" in kinds:  # THOR's name for it in a few bedrooms
        kinds.add("DeskLamp")
    if "PaperTowelRoll" in kinds:
        kinds.add("PaperTowel")
    return sorted(kinds)


def _kind(name: str) -> str:
    first, *_, last = name.split("|")
    return f"{first}Basin" if last.endswith("Basin") else first


def _free(standpoint: tuple[int, int, int, int], taken: set[tuple[int, int, int, int]]) -> tuple[int, int, int, int]:
    """The standpoint, or one close to it if it is taken: a location with two receptacles has one text for both."""
    x, z, rotation, horizon = standpoint
    for step in itertools.count():
        candidate = (x + step // 4 % 4, z + step // 16, rotation, horizon - 15 * (step % 4))
        if candidate not in taken:
            taken.add(candidate)
            return candidate
    raise AssertionError("unreachable")
