"""The sheet on which a page is set: rectangles, buttons and lines of text, each a sprite with its place.

Lengths are in units of 1/640 of the width, so a smaller frame shows the same page with fewer pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from overworld.authoring.env import Pixels
from PIL import Image, ImageDraw

from overworld_envs.webshop.frames.typeface import SPRITES, Colour, Style, lines, text_width, word_sprite

WHITE: Colour = (255, 255, 255)
INK: Colour = (25, 28, 32)
GREY: Colour = (100, 106, 112)
PALE: Colour = (243, 244, 246)
LINE: Colour = (214, 218, 222)
BAR: Colour = (28, 42, 66)
NOTE: Colour = (255, 247, 214)
LINK: Colour = (0, 88, 153)
VISITED: Colour = (110, 52, 140)
PRICE: Colour = (168, 30, 20)
BUY: Colour = (255, 190, 60)

_UNITS = 640


@dataclass(frozen=True, slots=True)
class Piece:
    """A sprite and where its upper left corner is."""

    x: int
    y: int
    sprite: Pixels


class Line(NamedTuple):
    """A line of text, and where it begins and ends from the top."""

    top: int
    bottom: int
    text: str


class Sheet:
    """Collects placed sprites, and the lines of text among them; `y` is how far down the sheet is used."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.pieces: list[Piece] = []
        self.lines: list[Line] = []
        self.y = 0
        self.button_height = self.unit(25)
        self._label_size = max(4, self.unit(14))

    def unit(self, length: float) -> int:
        """`length` units, in pixels."""
        return round(length * self.width / _UNITS)

    def style(self, size: int, colour: Colour, background: Colour, *, bold: bool = False) -> Style:
        """The style of text that is `size` units tall."""
        return Style(max(4, self.unit(size)), colour, background, "Semibold" if bold else "Regular")

    def put(self, sprite: Pixels, x: int, y: int) -> None:
        """Places a sprite."""
        self.pieces.append(Piece(x, y, sprite))

    def rows(self, rows: list[list[tuple[int, str]]], x: int, y: int, style: Style) -> int:
        """Places lines of words. Returns the y of the next line."""
        for row in rows:
            self.lines.append(Line(y, y + style.height, " ".join(word for _, word in row)))
            for offset, word in row:
                self.pieces.append(Piece(x + offset, y, word_sprite(word, style)))
            y += style.height
        return y

    def banner(self) -> None:
        """The bar with the shop's name."""
        height = self.unit(26)
        self.box(0, 0, self.width, height, BAR)
        name = self.style(16, WHITE, BAR, bold=True)
        self.rows([[(0, "WebShop")]], self.unit(12), self.unit(3), name)
        self.y = height

    def box(self, x: int, y: int, width: int, height: int, colour: Colour) -> None:
        """A filled rectangle."""
        key = ("box", width, height, colour)
        self.put(SPRITES.get(key, lambda: np.full((height, width, 3), colour, np.uint8)), x, y)

    def rounded(self, x: int, y: int, width: int, height: int, colour: Colour, edge: Colour) -> None:
        """A rectangle with rounded corners, on white."""

        def draw() -> Pixels:
            scale = 4
            image = Image.new("RGB", (width * scale, height * scale), WHITE)
            right, bottom = width * scale - 1, height * scale - 1
            radius, line = min(self.unit(5), height // 2) * scale, max(1, self.unit(1)) * scale
            ImageDraw.Draw(image).rounded_rectangle((0, 0, right, bottom), radius, colour, edge, line)
            return np.array(image.reduce(scale))

        if width > 0 and height > 0:
            self.put(SPRITES.get(("rounded", width, height, colour, edge), draw), x, y)

    def button_width(self, label: str) -> int:
        """Width of a button in pixels, at most that of the sheet less its margins."""
        style = Style(self._label_size, INK, WHITE)
        return max(1, min(text_width(label, style) + self.unit(18), self.width - self.unit(28)))

    def button(
        self, label: str, x: int, y: int, colour: Colour, ink: Colour, *, width: int = 0, height: int = 0
    ) -> int:
        """Places a button. Returns its width in pixels."""
        width, height = width or self.button_width(label), height or self.button_height
        self.rounded(x, y, width, height, colour, LINE if colour != BAR else BAR)
        style = Style(self._label_size, ink, colour)
        room = max(1, width - self.unit(12))
        rows = list(lines(label, style, room, limit=1))
        left = x + max(self.unit(6), (width - text_width(label, style)) // 2)
        self.rows(rows, left, y + (height - style.height) // 2, style)
        return width
