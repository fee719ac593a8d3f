"""Playing cards and what they count."""

from __future__ import annotations

from typing import NamedTuple

RANKS = ("A", "2", "3", "4", "5", "6", "7", "8", "9", "10", "J", "Q", "K")
"""In order; the index of a rank is its number less one."""

LETTERS = "AJQK"
"""The ranks that are not numbers."""

SUITS = "CDHS"
"""Clubs, diamonds, hearts, spades."""


class Card(NamedTuple):
    """A card, e.g. Card("10", "H")."""

    rank: str
    suit: str

    @property
    def value(self) -> int:
        """What it counts: an ace 1, a jack, queen or king 10."""
        return min(RANKS.index(self.rank) + 1, 10)


def in_words(cards: list[Card], *, plain: str = "") -> str:
    """The ranks, with the value of each letter that is not in `plain`, e.g. "7 and K (10)"."""
    names = [
        card.rank if card.rank.isdigit() or card.rank in plain else f"{card.rank} ({card.value})" for card in cards
    ]
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
