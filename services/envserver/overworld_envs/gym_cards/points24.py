"""Points24: four cards that make 24, or cannot (RL4VLM, gym_cards/envs/points.py)."""

from __future__ import annotations

import random

from overworld.authoring.env import ActionSpec, EnvSpec

from overworld_envs.gym_cards.cards import RANKS, Card
from overworld_envs.gym_cards.game import PROVENANCE
from overworld_envs.gym_cards.points import NUMBERS, TEXT_SENTENCE, PointsGame
from overworld_envs.gym_cards.solver import Rules
from overworld_envs.gym_cards.table import Layout

_SUITS = ("H", "S", "D", "C")


class Points24(PointsGame):
    """Four cards of any kind: 73 % of the deals can be solved."""

    spec = EnvSpec(
        id="gym_cards/Points24",
        task=(
            "The picture shows four cards and a formula. Build a formula that equals 24 and uses each card's number "
            "once: an ace is 1; jack, queen and king are 10. Each action appends a number, an operator or a bracket, "
            'and "=" hands the finished formula in, of at most twenty symbols. '
            "A number that no unused card has costs a point." + TEXT_SENTENCE
        ),
        success="The formula equals 24 and uses all four cards.",
        action=ActionSpec((*NUMBERS, "+", "-", "*", "/", "(", ")", "=")),
        reward_min=-1.0,
        reward_max=10.0,
        max_turns=300,
        splits={"random": 0},
        default_split="random",
        has_expert=True,
        provenance=PROVENANCE,
    )
    rules = Rules(target=24, operators="+-*/", brackets=True, max_symbols=20)
    layout = Layout(
        cards=4,
        card_width=0.22,
        card_gap=0.02,
        card_top=0.03,
        label_top=0.355,
        panel_top=0.425,
        panel_bottom=0.975,
        rows=3,
        columns=8.5,
        column_width=0.106,
        letters=0.62,
    )

    @staticmethod
    def deal(generator: random.Random) -> list[Card]:
        """Four numbers, then four suits."""
        numbers = [generator.randint(1, 13) for _ in range(4)]
        return [Card(RANKS[number - 1], generator.choice(_SUITS)) for number in numbers]
