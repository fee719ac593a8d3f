"""EZPoints: two cards that make 12 (RL4VLM, gym_cards/envs/ezpoints.py)."""

from __future__ import annotations

import random

from overworld.authoring.env import ActionSpec, EnvSpec

from overworld_envs.gym_cards.cards import RANKS, Card
from overworld_envs.gym_cards.game import PROVENANCE
from overworld_envs.gym_cards.points import NUMBERS, TEXT_SENTENCE, PointsGame
from overworld_envs.gym_cards.solver import Rules
from overworld_envs.gym_cards.table import Layout

_SUITS = ("H", "S", "D", "C")
_DIVISORS = (1, 2, 3, 4, 6)


class EZPoints(PointsGame):
    """Two cards of which the sum or the product is 12."""

    spec = EnvSpec(
        id="gym_cards/EZPoints",
        task=(
            "The picture shows two cards and a formula. Build a formula that equals 12 and uses each card's number "
            "once: an ace is 1; jack, queen and king are 10. Each action appends a number or an operator, "
            'and "=" hands the finished formula in, of at most five symbols. '
            "A number that no unused card has costs a point." + TEXT_SENTENCE
        ),
        success="The formula equals 12 and uses both cards.",
        action=ActionSpec((*NUMBERS, "+", "*", "=")),
        reward_min=-1.0,
        reward_max=10.0,
        max_turns=300,
        splits={"random": 0},
        default_split="random",
        has_expert=True,
        provenance=PROVENANCE,
    )
    rules = Rules(target=12, operators="+*", brackets=False, max_symbols=5)
    layout = Layout(
        cards=2,
        card_width=0.42,
        card_gap=0.05,
        card_top=0.035,
        label_top=0.645,
        panel_top=0.715,
        panel_bottom=0.965,
        rows=1,
        columns=7,
        column_width=0.13,
        letters=0.68,
    )

    @staticmethod
    def deal(generator: random.Random) -> list[Card]:
        """The first card is any but an ace; the second, which is never a face card, makes it up to 12."""
        number = generator.randint(2, 13)
        first = Card(RANKS[number - 1], generator.choice(_SUITS))
        value = first.value
        # The generator is asked only where there is a choice: what it gives next depends on it.
        other = 12 // value if value in _DIVISORS and generator.random() <= 0.5 else 12 - value
        cards = [first, Card(RANKS[other - 1], generator.choice(_SUITS))]
        return cards[::-1] if generator.random() <= 0.5 else cards
