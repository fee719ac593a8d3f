"""Pictures show what the agent is entitled to see, all of it, and nothing else."""

import random
from collections.abc import Mapping

import numpy as np
import pytest
from overworld.authoring.env import Pixels
from overworld_envs.alfworld.engine.engine import Engine
from overworld_envs.alfworld.engine.facts import Facts
from overworld_envs.alfworld.engine.grammar import Entity
from overworld_envs.alfworld.expert import advise
from overworld_envs.alfworld.games.scenes import HOLDS
from overworld_envs.alfworld.games.tasks import TASK_TYPES
from overworld_envs.alfworld.pictures.icons import ICONS
from overworld_envs.alfworld.pictures.schematic import Schematic
from overworld_envs.alfworld.pictures.view import Place, Seen, View, in_words, view

from tests.unit.envs.alfworld.conftest import MakeGame, Play


def picture(facts: Facts, entities: Mapping[str, Entity], size: int = 300) -> Pixels:
    canvas = np.zeros((size, size, 3), np.uint8)
    Schematic(size).draw(canvas, view(facts, entities))
    return canvas


def without_what_is_hidden(engine: Engine) -> Facts:
    """The facts less all that the agent cannot see from where it stands."""
    facts = engine.facts
    here = {location for _, location in facts.of("atlocation")}
    standing = facts.of("receptacleatlocation")
    at = {receptacle for receptacle, location in standing if location in here}
    shut = {receptacle for (receptacle,) in facts.of("openable") - facts.of("opened")}
    visible = {thing for thing, place in facts.of("inreceptacle") if place in at - shut}
    visible |= {thing for _, thing in facts.of("holds")}
    known = {
        "atlocation": facts.of("atlocation"),
        "holds": facts.of("holds"),
        "receptacleatlocation": {fact for fact in standing if fact[0] in at} if at else standing,
        "inreceptacle": {fact for fact in facts.of("inreceptacle") if fact[0] in visible},
        "openable": {fact for fact in facts.of("openable") if fact[0] in at},
        "opened": {fact for fact in facts.of("opened") if fact[0] in at},
    }
    for look in ("ishot", "iscool", "isclean", "issliced", "istoggled"):
        known[look] = {fact for fact in facts.of(look) if fact[0] in visible}
    return Facts(engine.game.vocabulary, known)


@pytest.mark.parametrize("task_type", TASK_TYPES)
def test_hidden_facts_leave_no_trace_in_the_pixels(task_type: str, game_file: MakeGame, play: Play) -> None:
    file = game_file(task_type)
    engine = play(file)
    chance = random.Random(task_type)
    for turn in range(40):
        entities = engine.game.entities
        assert np.array_equal(picture(engine.facts, entities), picture(without_what_is_hidden(engine), entities))
        if engine.won:
            break
        expert = turn % 2 and chance.random() < 0.7
        engine.step(advise(file.task, engine).action if expert else chance.choice(engine.commands))


def test_a_closed_fridge_tells_nothing_and_an_open_one_all(game_file: MakeGame, play: Play) -> None:
    file = game_file("pick_cool_then_place_in_recep")
    engine = play(file)
    engine.step("go to fridge 1")
    assert view(engine.facts, engine.game.entities).places == (Place("fridge 1", "closed", ()),)
    text = engine.step("open fridge 1")
    (place,) = view(engine.facts, engine.game.entities).places
    assert place.door == "open"
    assert all(f"a {thing.name}" in text for thing in place.contents)
    assert text.count(" a ") == len(place.contents)


def differ(one: View, other: View, size: int = 300) -> bool:
    pictures = [np.zeros((size, size, 3), np.uint8) for _ in range(2)]
    for canvas, seen in zip(pictures, (one, other), strict=True):
        Schematic(size).draw(canvas, seen)
    return not np.array_equal(pictures[0], pictures[1])


def at(*contents: Seen, door: str = "open", name: str = "cabinet 1", held: Seen | None = None) -> View:
    return View((Place(name, door, contents),), (), held)


@pytest.mark.parametrize("size", [64, 112, 300, 1024])
def test_everything_that_a_view_holds_shows(size: int) -> None:
    base = at(Seen("egg 1"))
    looks = ("hot", "cool", "clean", "sliced", "on")
    others = [
        at(Seen("egg 2")),
        at(Seen("mug 1")),
        at(),
        at(Seen("egg 1"), Seen("egg 2")),
        at(Seen("egg 1"), name="cabinet 2"),
        at(Seen("egg 1"), door=""),
        at(door="closed"),
        at(Seen("egg 1"), held=Seen("egg 2")),
        at(Seen("egg 1"), held=Seen("egg 2", ("hot",))),
        View((), ("cabinet 1", "cabinet 2"), None),
        View((), ("cabinet 1",), None),
        *(at(Seen("egg 1", (look,))) for look in looks),
    ]
    views = [base, *others]
    for number, one in enumerate(views):
        for other in views[number + 1 :]:
            assert differ(one, other, size), (one, other)


def test_a_full_table_counts_what_finds_no_room() -> None:
    many = tuple(Seen(f"mug {number}") for number in range(1, 60))
    assert differ(at(*many), at(*many[:-1]))


def test_every_kind_of_thing_has_an_icon() -> None:
    kinds = {kind.lower() for kind in HOLDS} | {kind.lower() for objects in HOLDS.values() for kind in objects}
    assert {kind for kind in kinds if not kind.endswith("sliced")} <= ICONS.keys() | {"boots"}


def test_words_for_a_view() -> None:
    """Nothing of what a closed receptacle holds, since a view has none of that."""
    middle = View((), ("bed 1", "shelf 2"), None)
    assert in_words(middle) == "You are in the middle of the room and see bed 1, shelf 2. You hold nothing."
    closed = View((Place("fridge 1", "closed", ()),), (), Seen("egg 2", ("hot", "sliced")))
    assert in_words(closed) == "You are at fridge 1, which is closed. You hold egg 2 (hot, sliced)."
    two = View((Place("drawer 1", "open", (Seen("pen 1"),)), Place("desk 1", "", ())), (), None)
    drawer, desk = "You are at drawer 1, which is open. In or on it: pen 1.", "You are at desk 1. In or on it: nothing."
    assert in_words(two) == f"{drawer} {desk} You hold nothing."
