"""Blackjack against a dealer with an infinite deck (RL4VLM, gym_cards/envs/blackjack.py)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from overworld.authoring.env import ActionSpec, End, EnvSpec, Expert, Observation, Options, Transition

from overworld_envs.drawing import WHITE, fill, label, paste
from overworld_envs.gym_cards.card_sprites import back, face
from overworld_envs.gym_cards.cards import LETTERS, RANKS, Card, in_words
from overworld_envs.gym_cards.game import PROVENANCE, Game
from overworld_envs.gym_cards.odds import DEALER_STANDS, DECK, LIMIT, chances, total
from overworld_envs.gym_cards.symbols import FELT

_SUITS = "CDHS"
_FACES = ("J", "Q", "K")
_PER_ROW = 5


class Blackjack(Game):
    """ "hit" takes a card, "stand" lets the dealer draw to 17 or more; the hand nearer to 21 and not above it wins.

    1 for a win, 0 for a draw, -1 for a loss; a natural earns nothing extra. A value of 10 is always a jack, queen or
    king. The picture shows the dealer's first card only, also at the end.
    """

    spec = EnvSpec(
        id="gym_cards/Blackjack",
        task=(
            "The picture shows a game of Blackjack: the dealer's cards, one of them face down, and below them yours. "
            "Come nearer to 21 than the dealer without exceeding it: an ace is 11, or 1 where 11 would be too much; "
            'jack, queen and king are 10. "hit" takes a card, "stand" ends your turn, '
            "and the dealer then draws up to 17 or more."
        ),
        success="The hand beat the dealer's; a draw is no success.",
        action=ActionSpec(("stand", "hit")),
        reward_min=-1.0,
        reward_max=1.0,
        max_turns=300,
        splits={"random": 0},
        default_split="random",
        has_expert=True,
        provenance=PROVENANCE,
    )

    def __init__(self, options: Options | None = None) -> None:
        super().__init__(options)
        size = self.options.size
        self._card_width, self._card_height = round(0.185 * size), round(0.185 * 1.4 * size)
        self._generator = np.random.Generator(np.random.PCG64(0))
        self._dealer: list[Card] = []
        self._player: list[Card] = []

    def reset(self, seed: int, split: str, task: int | None) -> Observation:
        """Deals two cards to the dealer and two to the player, from the generator that Gymnasium makes of `seed`."""
        self._generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))
        self._dealer = [self._draw(), self._draw()]
        self._player = [self._draw(), self._draw()]
        self._pick(_SUITS)  # upstream draws these two for a picture that it no longer shows; later draws depend on it
        if self._dealer[0].value == 10:
            self._pick(_FACES)
        self.start()
        self._draw_table()
        return self.observe()

    def step(self, action: str) -> Transition:
        """Hits or stands."""
        if action == "hit":
            self._player.append(self._draw())
            self._draw_player(len(self._player) - 1)
            return self.transition(-1.0, End.TASK) if _total(self._player) > LIMIT else self.transition(0.0)
        while _total(self._dealer) < DEALER_STANDS:
            self._dealer.append(self._draw())
        mine, theirs = _total(self._player), _total(self._dealer)
        if theirs > LIMIT:
            theirs = 0
        return self.transition(float(mine > theirs) - float(mine < theirs), End.TASK, success=mine > theirs)

    def expert(self) -> Expert:
        """Plays for the largest chance to win, 43.16 % over all deals; a draw counts as little as a loss."""
        mine, shown = _total(self._player), self._dealer[0]
        odds = chances(*_hard(self._player), shown.value)
        soft = "a soft " if mine != _hard(self._player)[0] else ""
        action, verdict = ("hit", "Hitting") if odds.hit > odds.stand else ("stand", "Standing")
        hand, theirs = in_words(self._player, plain="A"), in_words([shown], plain="A")  # an ace is 1 or 11
        thoughts = (
            f"My cards are {hand}, {soft}{mine} in all, and the dealer shows {theirs}. "
            f"{verdict} wins more often, so I {action}."
        )
        return Expert(action, thoughts)

    def caption(self) -> str:
        """The cards that lie open, by their rank."""
        shown, hand = (in_words(cards, plain=LETTERS) for cards in (self._dealer[:1], self._player))
        return f"The dealer's cards are {shown} and one that lies face down. The player's cards are {hand}."

    def _pick(self, choices: Sequence[str]) -> str:
        return choices[int(self._generator.integers(len(choices)))]  # what Generator.choice does, but faster

    def _draw(self) -> Card:
        value = DECK[int(self._generator.integers(len(DECK)))]
        suit = self._pick(_SUITS)
        return Card(self._pick(_FACES) if value == 10 else RANKS[value - 1], suit)

    def _draw_table(self) -> None:
        size = self.options.size
        fill(self.picture, FELT)
        for word, top in (("Dealer", 0.012), ("Player", 0.35)):
            paste(self.picture, label(word, round(0.065 * size), WHITE, FELT), round(0.02 * size), round(top * size))
        top = round(0.078 * size)
        shown = face(self._dealer[0], self._card_width, self._card_height, colours=self.options.colours)
        paste(self.picture, shown, self._card_left(0), top)
        paste(self.picture, back(self._card_width, self._card_height), self._card_left(1), top)
        self._draw_player(0)

    def _draw_player(self, first: int) -> None:
        """Draws the player's cards from number `first` on, five a row. From the third row on, rows overlap."""
        top, bottom = round(0.418 * self.options.size), round(0.985 * self.options.size)
        rows = -(-len(self._player) // _PER_ROW)
        pitch = bottom - top - self._card_height
        if rows > 2:
            pitch //= rows - 1
            first = 0  # rows move together
            fill(self.picture[top:], FELT)
        elif rows == 2:
            pitch = min(pitch, round(1.03 * self._card_height))
        for at in range(first, len(self._player)):
            row, column = divmod(at, _PER_ROW)
            card = face(self._player[at], self._card_width, self._card_height, colours=self.options.colours)
            paste(self.picture, card, self._card_left(column), top + row * pitch)

    def _card_left(self, column: int) -> int:
        return round((0.5 + (column - 2) * 0.195) * self.options.size - self._card_width / 2)


def _hard(hand: list[Card]) -> tuple[int, bool]:
    """The total with aces as 1, and whether there is an ace."""
    return sum(card.value for card in hand), any(card.rank == "A" for card in hand)


def _total(hand: list[Card]) -> int:
    return total(*_hard(hand))
