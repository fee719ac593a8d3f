"""What EZPoints and Points24 share: a formula of the numbers on the cards (RL4VLM, gym_cards/envs/{ez,}points.py)."""

from __future__ import annotations

import dataclasses
import random
from abc import abstractmethod
from typing import ClassVar

from overworld.authoring.env import End, Expert, Observation, Options, Transition
from pydantic import Field

from overworld_envs.gym_cards.cards import LETTERS, Card, in_words
from overworld_envs.gym_cards.formula import is_right
from overworld_envs.gym_cards.game import Game, GameOptions
from overworld_envs.gym_cards.solver import Rules, complete
from overworld_envs.gym_cards.table import Layout, Table

NUMBERS = tuple(str(number) for number in range(1, 11))
BLANK = " "
"""What an illegal number leaves in the formula."""

TEXT_SENTENCE = " The text repeats the formula so far."


class PointsOptions(GameOptions):
    """Options of the point games."""

    formula_in_text: bool = Field(default=True, description="whether the text, too, shows the formula so far")


class PointsGame(Game):
    """Each action appends a symbol to a formula; "=" submits it.

    A number is legal if an unused card shows it; otherwise it costs 1 and appends a blank. Operators are never checked.
    "=" ends the game: 10 if the formula, as Python understands it, equals the target and each card was used,
    else -1. An action after more than `rules.max_symbols` symbols, "=" too, ends it with -1.
    """

    options_model: ClassVar[type[Options]] = PointsOptions
    options: PointsOptions
    rules: ClassVar[Rules]
    layout: ClassVar[Layout]

    def __init__(self, options: Options | None = None) -> None:
        super().__init__(options)
        if not self.options.formula_in_text:
            self.spec = dataclasses.replace(self.spec, task=self.spec.task.removesuffix(TEXT_SENTENCE))
        self._table = Table(self.layout, self.options.size, colours=self.options.colours)
        self._cards: list[Card] = []
        self._left: list[int] = []
        self._formula: list[str] = []
        self._plan: list[str] | None = None

    @staticmethod
    @abstractmethod
    def deal(generator: random.Random) -> list[Card]:
        """The cards, drawn as upstream draws them from Python's `random`."""

    def reset(self, seed: int, split: str, task: int | None) -> Observation:
        """Deals from `seed`."""
        self._random.seed(seed)
        self._cards = self.deal(self._random)
        self._left = [card.value for card in self._cards]
        self._formula = []
        self._plan = None
        self.start()
        self._table.deal(self.picture, self._cards)
        return self.observe()

    def step(self, action: str) -> Transition:
        """Appends a symbol, or scores the formula."""
        if len(self._formula) > self.rules.max_symbols:
            return self.transition(-1.0, End.RULE)
        if action == "=":
            right = not self._left and is_right("".join(self._formula), self.rules.target)
            return self.transition(10.0 if right else -1.0, End.TASK, success=right)
        reward = 0.0
        symbol = action
        if action in NUMBERS:
            if int(action) in self._left:
                self._left.remove(int(action))
            else:
                symbol, reward = BLANK, -1.0
        self._formula.append(symbol)
        self._plan = self._plan[1:] if self._plan and self._plan[0] == symbol else None
        self._table.write(self.picture, symbol)
        return self.transition(reward)

    def text(self) -> str:
        """The formula so far."""
        return self._formula_in_words() if self.options.formula_in_text else ""

    def expert(self) -> Expert:
        """The next symbol of a right formula that extends the present one; "=" if there is none.

        A formula that cannot become right costs 1 whatever follows, and "=" ends the game at once.
        """
        target = self.rules.target
        if self._plan is None:
            self._plan = complete(self._formula, self._left, self.rules)
        cards = f"The cards are {in_words(self._cards)}."
        if self._plan is None:
            if self._formula:
                so_far = self._formula_in_words()
                return Expert("=", f"{cards} {so_far}, which I cannot turn into {target}, so I end with =.")
            return Expert("=", f"{cards} They cannot make {target} with + - * /, so I end with =.")
        whole = "".join((*self._formula, *self._plan)).replace(BLANK, "")
        so_far = self._formula_in_words() if self._formula else "The formula is empty"
        action = self._plan[0] if self._plan else "="
        return Expert(action, f"{cards} {whole}={target}. {so_far}, so the next symbol is {action}.")

    def caption(self) -> str:
        """The cards by their rank, and the formula."""
        formula = self._formula_in_words() if self._formula else "The formula is empty."
        return f"The cards are {in_words(self._cards, plain=LETTERS)}. {formula}"

    def _formula_in_words(self) -> str:
        return " ".join(("Formula so far:", *self._formula))
