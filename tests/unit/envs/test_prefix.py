"""A prefix leads to what its actions lead to one by one, though simulators draw no picture that nobody sees."""

import random
from typing import Any

import numpy as np
import pytest
from overworld import Result, Runner, make
from overworld.authoring.env import Action

MINIWORLD = ("Hallway", "PickupObjects")
ENVS = (
    *((f"miniworld/{task}", {"width": 32, "height": 24}) for task in MINIWORLD),
    ("miniworld/Hallway", {"width": 32, "height": 24, "move_repeat": 3, "turn_repeat": 3, "domain_rand": True}),
    ("miniworld/TMaze", {"width": 32, "height": 24, "render": "exact"}),
    ("alfworld/all", {"size": 64}),
    ("webshop/synthetic", {"width": 160, "height": 120}),
)
NONSENSE: tuple[Action | None, ...] = (None, "fly")


def some_action(result: Result, runner: Runner, chance: random.Random) -> Action | None:
    if result.turn % 4 == 2:
        return chance.choice(NONSENSE)
    choices = result.observation.admissible or runner.spec.action.vocabulary
    return chance.choice(choices) if choices else "search[red shoe]"


def assert_equal(one: Result, other: Result) -> None:
    assert (one.turn, one.reward, one.end, one.success) == (other.turn, other.reward, other.end, other.success)
    assert (one.outcome, one.executed, one.metrics) == (other.outcome, other.executed, other.metrics)
    assert (one.observation.text, one.observation.admissible) == (other.observation.text, other.observation.admissible)
    for image, twin in zip(one.observation.images, other.observation.images, strict=True):
        np.testing.assert_array_equal(image.pixels, twin.pixels)


@pytest.mark.parametrize(("env", "options"), ENVS, ids=[f"{env} {options}" for env, options in ENVS])
def test_a_prefix_of_any_length_shows_the_picture_of_its_last_turn(env: str, options: dict[str, Any]) -> None:
    steps, prefixes = make(env, **options), make(env, **options)
    chance = random.Random(env)
    result, actions = steps.reset(7), list[Action | None]()
    skipped = 0
    while result.end is None and len(actions) < 8:
        actions.append(some_action(result, steps, chance))
        result = steps.step(actions[-1])
        skipped += result.executed is None
        assert_equal(prefixes.reset(7, prefix=actions), result)
        if chance.random() < 0.3 and result.end is None:  # and it goes on from there
            follow = some_action(result, steps, chance)
            actions.append(follow)
            result = steps.step(follow)
            assert_equal(prefixes.step(follow), result)
    assert skipped > 0
    steps.close()
    prefixes.close()


@pytest.mark.parametrize("env", ["miniworld/Hallway", "alfworld/all", "webshop/synthetic"])
def test_pictures_within_a_prefix_are_not_drawn(env: str, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = make(env)
    chance = random.Random(1)
    result, actions = runner.reset(3), list[Action | None]()
    while len(actions) < 6:
        choices = result.observation.admissible or runner.spec.action.vocabulary or ("search[shoe]",)
        actions.append(chance.choice(choices))
        result = runner.step(actions[-1])
        if result.end is not None:
            result, actions = runner.reset(3), []
    artist = {"miniworld/Hallway": "_camera", "alfworld/all": "_schematic", "webshop/synthetic": "_layout"}[env]
    drawer = type(getattr(runner.env, artist))
    drawn: list[str] = []
    draw = drawer.draw

    def noted(*arguments: Any) -> None:
        drawn.append(env)
        draw(*arguments)

    monkeypatch.setattr(drawer, "draw", noted)
    runner.reset(3, prefix=actions)
    assert len(drawn) == 1
    runner.reset(3, prefix=[*actions, None])  # what is skipped shows the turn before
    assert len(drawn) == 2
    runner.step((result.observation.admissible or runner.spec.action.vocabulary or ("search[shoe]",))[0])
    assert len(drawn) == 3
    runner.close()
