"""What the agent can see from where it stands. A renderer gets nothing else, so no picture can show more.

Upstream's facts describe the whole world, including what closed receptacles hold. A `View` has only the receptacles
where the agent stands, what is in those that are open or have no door, what the agent holds, and how these objects
look; in the middle of the room, the names of all receptacles.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from overworld_envs.alfworld.engine.facts import KnownFacts
from overworld_envs.alfworld.engine.grammar import Entity

_LOOKS = (("ishot", "hot"), ("iscool", "cool"), ("isclean", "clean"), ("issliced", "sliced"), ("istoggled", "on"))


class Seen(NamedTuple):
    """An object in sight, e.g. Seen("egg 2", ("hot",)). `looks` is any of hot, cool, clean, sliced and on."""

    name: str
    looks: tuple[str, ...] = ()


class Place(NamedTuple):
    """A receptacle where the agent stands. `door` is "open", "closed", or "" if it has none."""

    name: str
    door: str
    contents: tuple[Seen, ...]


class View(NamedTuple):
    """Everything that the agent can see."""

    places: tuple[Place, ...]
    receptacles: tuple[str, ...]
    """The names of all receptacles in the middle of the room; empty elsewhere."""
    held: Seen | None


def kind_of(name: str) -> str:
    """ "egg 2" -> "egg"."""
    return name.rpartition(" ")[0] or name


def view(facts: KnownFacts, entities: Mapping[str, Entity]) -> View:
    """What can be seen in a state. `entities` maps identifiers to the names in texts."""
    looks: dict[str, tuple[str, ...]] = {}
    for predicate, look in _LOOKS:
        for (thing,) in facts.of(predicate):
            looks[thing] = (*looks.get(thing, ()), look)

    def seen(thing: str) -> Seen:
        return Seen(entities[thing].name, looks.get(thing, ()))

    here = {location for _, location in facts.of("atlocation")}
    standing = list(facts.of("receptacleatlocation"))
    at = {receptacle for receptacle, location in standing if location in here}
    openable = {receptacle for (receptacle,) in facts.of("openable")} & at
    opened = {receptacle for (receptacle,) in facts.of("opened")}
    contents: dict[str, list[Seen]] = {receptacle: [] for receptacle in at if receptacle not in openable - opened}
    if contents:
        for thing, receptacle in facts.of("inreceptacle"):
            if receptacle in contents:
                contents[receptacle].append(seen(thing))
    places = [
        Place(
            entities[receptacle].name,
            ("open" if receptacle in opened else "closed") if receptacle in openable else "",
            tuple(sorted(contents.get(receptacle, ()), key=lambda thing: _natural(thing.name))),
        )
        for receptacle in at
    ]
    names = () if at else tuple(sorted((entities[receptacle].name for receptacle, _ in standing), key=_natural))
    held = next((seen(thing) for _, thing in facts.of("holds")), None)
    return View(tuple(sorted(places, key=lambda place: _natural(place.name))), names, held)


def in_words(view: View) -> str:
    """A view as text: what its picture shows, and no more."""
    sentences = [_place_in_words(place) for place in view.places]
    if not view.places:
        sentences = [f"You are in the middle of the room and see {', '.join(view.receptacles) or 'nothing'}."]
    held = "nothing" if view.held is None else _seen_in_words(view.held)
    return " ".join((*sentences, f"You hold {held}."))


def _place_in_words(place: Place) -> str:
    door = f", which is {place.door}" if place.door else ""
    if place.door == "closed":
        return f"You are at {place.name}{door}."
    contents = ", ".join(map(_seen_in_words, place.contents)) or "nothing"
    return f"You are at {place.name}{door}. In or on it: {contents}."


def _seen_in_words(thing: Seen) -> str:
    return f"{thing.name} ({', '.join(thing.looks)})" if thing.looks else thing.name


def _natural(name: str) -> tuple[str, int]:
    """A sort key that puts "shelf 2" before "shelf 10"."""
    kind, _, number = name.rpartition(" ")
    return (kind, int(number)) if number.isdigit() else (name, 0)
