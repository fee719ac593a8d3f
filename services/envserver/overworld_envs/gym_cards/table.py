"""The picture of a point game: cards in a row on felt, and below them a white panel with the formula."""

from __future__ import annotations

from dataclasses import dataclass

from overworld.authoring.env import Pixels

from overworld_envs.drawing import SPRITES, WHITE, Pen, fill, label, paste
from overworld_envs.gym_cards.card_sprites import face
from overworld_envs.gym_cards.cards import Card
from overworld_envs.gym_cards.symbols import FELT, glyph


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things are, in fractions of the picture's side. A symbol takes one column of the panel, "10" takes 1.5."""

    cards: int
    card_width: float
    card_gap: float
    card_top: float
    label_top: float
    panel_top: float
    panel_bottom: float
    rows: int
    columns: float
    column_width: float
    letters: float
    """Height of a digit as a fraction of a row's."""


class Table:
    """Draws one env's episodes."""

    def __init__(self, layout: Layout, size: int, *, colours: bool) -> None:
        self._layout = layout
        self._size = size
        self._colours = colours
        self._card_width = round(layout.card_width * size)
        self._card_height = round(layout.card_width * 1.4 * size)
        self._column = int(layout.column_width * size)
        self._row_height = int((layout.panel_bottom - layout.panel_top - 0.03) * size / layout.rows)
        self._right = int(layout.columns * self._column)
        self._left = (size - self._right) // 2
        self._top = round((layout.panel_top + layout.panel_bottom) / 2 * size - self._row_height * layout.rows / 2)
        self._row = 0
        self._x = 0

    def deal(self, canvas: Pixels, cards: list[Card]) -> None:
        """Draws the whole picture, with an empty formula."""
        layout, size = self._layout, self._size
        cut = round(layout.label_top * size)
        fill(canvas[:cut], FELT)
        step = layout.card_width + layout.card_gap
        margin = (1 - step * len(cards) + layout.card_gap) / 2
        for at, card in enumerate(cards):
            sprite = face(card, self._card_width, self._card_height, colours=self._colours)
            paste(canvas, sprite, round((margin + at * step) * size), round(layout.card_top * size))
        paste(canvas, SPRITES.get(("panel", layout, size), self._empty_panel), 0, cut)
        self._row = self._x = 0

    def write(self, canvas: Pixels, symbol: str) -> None:
        """Appends a symbol to the formula; nothing else changes."""
        width = self._column * 3 // 2 if symbol == "10" else self._column
        if self._x + width > self._right:
            self._row, self._x = self._row + 1, 0
        sprite = glyph(symbol, width, self._row_height, letters=self._layout.letters, colours=self._colours)
        paste(canvas, sprite, self._left + self._x, self._top + self._row * self._row_height)
        self._x += width

    def _empty_panel(self) -> Pixels:
        layout, size = self._layout, self._size
        cut = round(layout.label_top * size)
        pen = Pen(size, size - cut, FELT)
        edges = (0.03 * size, layout.panel_top * size - cut, 0.97 * size, layout.panel_bottom * size - cut)
        pen.panel(edges, 0.02 * size, WHITE)
        strip = pen.pixels()
        paste(strip, label("Formula", round(0.065 * size), WHITE, FELT), round(0.03 * size), 0)
        return strip
