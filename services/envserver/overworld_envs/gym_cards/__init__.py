"""Gym-Cards: the four card and number games of RL4VLM, with its rules and deals and our own pictures."""

from __future__ import annotations

from overworld.authoring.env import Env


def envs() -> list[type[Env]]:
    """The env classes of this simulator."""
    from overworld_envs.gym_cards.blackjack import Blackjack
    from overworld_envs.gym_cards.ez_points import EZPoints
    from overworld_envs.gym_cards.number_line import NumberLine
    from overworld_envs.gym_cards.points24 import Points24

    return [NumberLine, EZPoints, Points24, Blackjack]
