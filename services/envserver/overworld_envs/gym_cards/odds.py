"""Chances of winning at Blackjack, by dynamic programming over the infinite deck of upstream's game.

A hand is its hard total, aces counted as 1, and whether it has an ace, which adds 10 where that does not exceed 21. The
dealer's second card is unknown, so it is distributed like every later draw.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

DECK = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 10, 10, 10)
"""The values in a suit; every draw is uniform over them."""

DEALER_STANDS = 17
LIMIT = 21


class Chances(NamedTuple):
    """Probabilities of winning."""

    stand: float
    hit: float
    """Assuming optimal play afterwards."""

    @property
    def best(self) -> float:
        """The larger of the two."""
        return max(self.stand, self.hit)


def total(hard: int, ace: bool) -> int:
    """What a hand counts."""
    return hard + 10 if ace and hard + 10 <= LIMIT else hard


@functools.cache
def chances(hard: int, ace: bool, dealer: int) -> Chances:
    """The chances of a hand that is not bust, against the dealer's visible card of value `dealer`, 1 to 10."""
    mine = total(hard, ace)
    stand = sum(chance for score, chance in dealer_scores(dealer, dealer == 1) if score < mine)
    hit = 0.0
    for value in DECK:
        if hard + value <= LIMIT:
            hit += chances(hard + value, ace or value == 1, dealer).best / len(DECK)
    return Chances(stand, hit)


@functools.cache
def dealer_scores(hard: int, ace: bool) -> tuple[tuple[int, float], ...]:
    """(score, probability) of each total that a dealer with this hand can end with: 17 to 21, or 0 if bust."""
    held = total(hard, ace)
    if hard > LIMIT:
        return ((0, 1.0),)
    if held >= DEALER_STANDS:
        return ((held, 1.0),)
    scores: dict[int, float] = {}
    for value in DECK:
        for score, chance in dealer_scores(hard + value, ace or value == 1):
            scores[score] = scores.get(score, 0.0) + chance / len(DECK)
    return tuple(sorted(scores.items()))


def best_win_rate() -> float:
    """The chance of a win before the deal: 43.16 %. Maximising the mean reward wins 42.95 %, but loses less often."""
    deals = [(dealer, one, two) for dealer in DECK for one in DECK for two in DECK]
    return sum(chances(one + two, 1 in (one, two), dealer).best for dealer, one, two in deals) / len(deals)
