"""Formulas for the reward of a turn. Success, goal-condition rate and legality are metrics whatever the formula."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

Formula = Literal["success", "rl4vlm", "delta"]


class Turn(NamedTuple):
    """The outcome of a turn. Rates are fractions of the goal conditions that are met."""

    won: bool
    rate: float
    rate_before: float
    legal: bool


@dataclass(frozen=True, slots=True)
class Reward:
    """A formula and its bounds."""

    of: Callable[[Turn], float]
    smallest: float
    largest: float


REWARDS: Mapping[Formula, Reward] = {
    "success": Reward(lambda turn: float(turn.won), 0.0, 1.0),
    "rl4vlm": Reward(lambda turn: 50.0 * turn.won + turn.rate - (not turn.legal), -1.0, 51.0),
    "delta": Reward(lambda turn: turn.rate - turn.rate_before + turn.won, -1.0, 2.0),
}
"""success: TextWorld's score. rl4vlm: the formula in RL4VLM's alf_utils. delta: the progress that the turn made."""
