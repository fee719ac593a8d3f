"""What the envs say about themselves, and their options."""

from __future__ import annotations

from typing import Any

import PIL
import pytest
from overworld import End, make
from overworld.authoring.catalogue import load
from pydantic import ValidationError

from tests.support.optional import present

GAMES = ("NumberLine", "EZPoints", "Points24", "Blackjack")


def test_the_simulator_has_four_envs() -> None:
    assert list(load(["gym_cards"])) == [f"gym_cards/{game}" for game in GAMES]


@pytest.mark.parametrize(
    ("game", "vocabulary"),
    [
        ("NumberLine", "- +"),
        ("EZPoints", "1 2 3 4 5 6 7 8 9 10 + * ="),
        ("Points24", "1 2 3 4 5 6 7 8 9 10 + - * / ( ) ="),
        ("Blackjack", "stand hit"),
    ],
)
def test_actions_are_in_the_originals_order(game: str, vocabulary: str) -> None:
    assert make(f"gym_cards/{game}").spec.action.vocabulary == tuple(vocabulary.split())


@pytest.mark.parametrize("game", GAMES)
def test_specs(game: str) -> None:
    spec = make(f"gym_cards/{game}").spec
    assert spec.splits == ({"random": 0, "deals": 30} if game == "NumberLine" else {"random": 0})
    assert spec.default_split == "random"
    assert spec.has_expert
    assert spec.provenance["rules"] == "gym_cards 0.0.1, RL4VLM b989b57"
    assert PIL.__version__ in spec.provenance["pillow"]
    assert 2 <= spec.task.count(". ") + 1 <= 5
    assert len(spec.task) < 450


@pytest.mark.parametrize("game", GAMES)
def test_rewards_stay_within_the_spec(game: str) -> None:
    wise, foolish = make(f"gym_cards/{game}", expert=True, size=32), make(f"gym_cards/{game}", size=32)
    rewards = set()
    for seed in range(300):
        runner = wise if seed % 2 else foolish
        result = runner.reset(seed)
        while result.end is None:
            action = present(result.expert).action if seed % 2 else runner.spec.action.vocabulary[seed % 5 % 2]
            result = runner.step(action)
            rewards.add(result.reward)
    assert max(rewards) == wise.spec.reward_max
    assert min(rewards) >= wise.spec.reward_min


@pytest.mark.parametrize("game", GAMES)
@pytest.mark.parametrize(
    "options",
    [
        {"size": 31},
        {"size": 2049},
        {"size": 300.5},
        {"size": "large"},
        {"size": None},
        {"colours": "perhaps"},
        {"max_turns": 0},
        {"colour": True},
    ],
)
def test_wrong_options_are_refused(game: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(options))):
        make(f"gym_cards/{game}", **options)


def test_only_point_games_have_a_formula() -> None:
    for game in ("NumberLine", "Blackjack"):
        with pytest.raises(ValidationError, match="formula_in_text"):
            make(f"gym_cards/{game}", formula_in_text=False)


def test_turns_are_limited_as_upstream_registers_them() -> None:
    for game in GAMES:
        runner = make(f"gym_cards/{game}", size=32)
        assert runner.env.options.max_turns == runner.spec.max_turns == 300
        result = runner.reset(0)
        while result.end is None:
            result = runner.step(None)
        assert (result.turn, result.end, result.success) == (300, End.TIME_LIMIT, False)
