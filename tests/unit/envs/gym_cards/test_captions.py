"""Captions say what the pictures show: no picture has two of them."""

from __future__ import annotations

import random

import pytest
from overworld import make
from overworld.contract.frames import pixels_hash

GAMES = ("NumberLine", "EZPoints", "Points24", "Blackjack")


@pytest.mark.parametrize("game", GAMES)
def test_the_picture_alone_decides_about_the_caption(game: str) -> None:
    """With another deal, another episode and another history the same picture has the same words."""
    chance = random.Random(game)
    runner = make(f"gym_cards/{game}", size=64, expert=True)
    captions: dict[int, str] = {}
    for seed in range(30 if game == "Points24" else 120):
        result = runner.reset(seed)
        for _ in range(chance.randrange(6)):
            if result.end is not None:
                break
            result = runner.step(chance.choice(runner.spec.action.vocabulary))
        if result.expert is not None:
            picture = pixels_hash(result.observation.images[0].pixels)
            assert captions.setdefault(picture, result.expert.caption) == result.expert.caption
            assert result.expert.caption == runner.env.caption()
    assert len(set(captions.values())) > 20


def test_what_they_say() -> None:
    runner = make("gym_cards/EZPoints", size=32, expert=True)
    result = runner.reset(3)
    assert result.expert is not None
    assert result.expert.caption == "The cards are 5 and 7. The formula is empty."
    result = runner.step("5")
    assert result.expert is not None
    assert result.expert.caption == "The cards are 5 and 7. Formula so far: 5"
    runner = make("gym_cards/Blackjack", size=32, expert=True)
    result = runner.reset(3)
    assert result.expert is not None
    dealt = "The dealer's cards are J and one that lies face down. The player's cards are Q and A."
    assert result.expert.caption == dealt, "a value is knowledge, and not in the picture"


def test_only_who_may_ask_the_expert_gets_them() -> None:
    assert make("gym_cards/NumberLine", size=32).reset(0).expert is None
