"""What the picture shows is nowhere in the text, and what nobody may see is nowhere at all."""

from __future__ import annotations

import random
from collections import defaultdict
from typing import Any

import pytest
from overworld import Observation, Result, make
from overworld_envs.gym_cards.cards import RANKS, SUITS, Card

GAMES = ("NumberLine", "EZPoints", "Points24", "Blackjack")


def texts(observation: Observation) -> tuple[str, ...]:
    return tuple(part for part in observation.parts if isinstance(part, str))


@pytest.mark.parametrize("game", GAMES)
def test_texts_of_different_states_differ_only_with_the_formula(game: str) -> None:
    """Over random play, a formula always comes with the same text, whatever the cards, numbers and turns."""
    runner = make(f"gym_cards/{game}", size=32)
    env: Any = runner.env
    choices = random.Random(1)
    seen: dict[tuple[str, ...], set[Any]] = defaultdict(set)
    states = set()
    for seed in range(300):
        result = runner.reset(seed)
        while True:
            observation = result.observation
            seen[tuple(getattr(env, "_formula", ()))].add(
                (
                    texts(observation),
                    observation.admissible,
                    tuple(observation.tensors),
                    runner.spec.task,
                    env.spec.task,
                )
            )
            states.add(observation.images[0].pixels.tobytes())
            if result.end is not None:
                break
            result = runner.step(choices.choice(runner.spec.action.vocabulary))
    assert len(states) > 25
    assert all(len(shown) == 1 for shown in seen.values())
    ((words, admissible, tensors, _, _),) = seen[()]
    assert words == (("Formula so far:",) if game in ("EZPoints", "Points24") else ())
    assert admissible == tensors == ()


def test_the_text_is_the_formula_as_it_was_played() -> None:
    runner = make("gym_cards/EZPoints", size=32)
    result = runner.reset(0)
    numbers = [card.value for card in runner.env._cards]  # type: ignore[attr-defined]
    wrong = next(number for number in range(1, 11) if number not in numbers)
    for action, text in (
        (str(numbers[0]), f"{numbers[0]}"),
        ("+", f"{numbers[0]} +"),
        (str(wrong), f"{numbers[0]} +  "),
    ):
        result = runner.step(action)
        assert texts(result.observation) == (f"Formula so far: {text}",)


@pytest.mark.parametrize("game", ["EZPoints", "Points24"])
def test_the_formula_can_be_left_to_the_picture(game: str) -> None:
    runner = make(f"gym_cards/{game}", size=32, formula_in_text=False)
    result = runner.reset(0, prefix=["+", "*"])
    assert texts(result.observation) == ()
    assert "text" not in runner.spec.task
    assert make(f"gym_cards/{game}").spec.task == f"{runner.spec.task} The text repeats the formula so far."


def test_the_picture_comes_first() -> None:
    parts = make("gym_cards/Points24", size=32).reset(0).observation.parts
    assert [type(part).__name__ for part in parts] == ["Image", "str"]


def test_the_hole_card_is_nowhere() -> None:
    """Two games that differ in the dealer's hidden card look alike in all that a client gets, but for the outcome."""
    seen, hidden = (make("gym_cards/Blackjack", size=64, expert=True) for _ in range(2))
    choices = random.Random(2)
    outcomes = set()
    for seed in range(150):
        pair: list[Result] = [seen.reset(seed), hidden.reset(seed)]
        dealer: list[Card] = hidden.env._dealer  # type: ignore[attr-defined]
        dealer[1] = choices.choice([Card(rank, suit) for rank in RANKS for suit in SUITS if (rank, suit) != dealer[1]])
        hidden.env._draw_table()  # type: ignore[attr-defined]
        while True:
            one, other = pair
            assert (one.observation.images[0].pixels == other.observation.images[0].pixels).all()
            assert texts(one.observation) == texts(other.observation) == ()
            assert (one.expert, one.executed, one.outcome) == (other.expert, other.executed, other.outcome)
            if one.end is not None:
                assert other.end is one.end
                outcomes.add((one.reward, other.reward))
                break
            assert one.metrics == other.metrics
            action = choice(choices, seed)
            pair = [seen.step(action), hidden.step(action)]
    assert any(one != other for one, other in outcomes)  # the hidden card did matter


def choice(choices: random.Random, seed: int) -> str:
    return "stand" if seed % 3 == 0 else choices.choice(["stand", "hit"])


def test_an_end_reveals_nothing_of_the_dealer() -> None:
    runner = make("gym_cards/Blackjack", size=64)
    before = runner.reset(1).observation.images[0].pixels.copy()
    result = runner.step("stand")
    assert result.end is not None
    assert (result.observation.images[0].pixels == before).all()
    assert set(result.metrics) == {"positive_return"}
