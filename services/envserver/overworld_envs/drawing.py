"""Pictures out of sprites: small opaque images, drawn once with Pillow, kept, and copied into the canvas with NumPy.

Everything is drawn at four times its size and averaged down, so edges are smooth at any size. Letters come from
Pillow's built-in font; nothing is read from files.
"""

from __future__ import annotations

import functools

import numpy as np
from overworld.authoring.env import Pixels
from PIL import Image, ImageDraw, ImageFont

from overworld_envs.sprites import SpriteCache

Colour = tuple[int, int, int]

WHITE: Colour = (255, 255, 255)
BLACK: Colour = (0, 0, 0)
_BLANK: Colour = (190, 190, 190)

SPRITES = SpriteCache(max_bytes=48 * 2**20)
"""The sprites of all envs in this process."""


def fill(canvas: Pixels, colour: Colour) -> None:
    """Paints `canvas`, or a part of one, in one colour."""
    width = canvas.shape[1]
    # Row by row: NumPy copies a whole row at once, but would write a lone pixel value three bytes at a time.
    canvas[...] = SPRITES.get(("row", width, colour), lambda: np.full((1, width, 3), colour, np.uint8))


def paste(canvas: Pixels, sprite: Pixels, left: int, top: int) -> None:
    """Copies `sprite` to its place in `canvas`, in which it must fit."""
    height, width, _ = sprite.shape
    canvas[top : top + height, left : left + width] = sprite


def label(text: str, height: int, colour: Colour, background: Colour) -> Pixels:
    """A word, as wide as it needs to be; `height` is that of a line."""

    def draw() -> Pixels:
        capital = 0.62 * height
        pen = Pen(max(1, round(text_width(text, capital, _LABEL_BOLD))), height, background)
        pen.text(text, (0, 0.14 * height, pen.width, 0.14 * height + capital), colour, bold=_LABEL_BOLD)
        return pen.pixels()

    return SPRITES.get(("label", text, height, colour, background), draw)


Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels of the sprite."""


class Pen:
    """Draws one sprite; lengths are in its pixels and may be fractions."""

    def __init__(self, width: int, height: int, background: Colour) -> None:
        self.width = width
        self.height = height
        self._scale = 4 if max(width, height) <= 512 else 2  # bounds the memory that drawing takes
        self._image = Image.new("RGB", (width * self._scale, height * self._scale), background)
        self._draw = ImageDraw.Draw(self._image)

    def pixels(self) -> Pixels:
        """What was drawn, uint8 [height, width, 3]."""
        return np.array(self._image.reduce(self._scale))

    def panel(self, box: Box, radius: float, colour: Colour) -> None:
        """A rectangle with round corners."""
        left, top, right, bottom = (edge * self._scale for edge in box)
        self._draw.rounded_rectangle((left, top, right - 1, bottom - 1), radius * self._scale, colour)

    def polygon(self, points: list[tuple[float, float]], colour: Colour) -> None:
        """A filled polygon."""
        self._draw.polygon([(x * self._scale, y * self._scale) for x, y in points], colour)

    def disc(self, x: float, y: float, radius: float, colour: Colour) -> None:
        """A filled circle."""
        x, y, radius = x * self._scale, y * self._scale, radius * self._scale
        self._draw.ellipse((x - radius, y - radius, x + radius, y + radius), colour)

    def line(self, start: tuple[float, float], end: tuple[float, float], width: float, colour: Colour) -> None:
        """A line with flat ends."""
        points = [(x * self._scale, y * self._scale) for x, y in (start, end)]
        self._draw.line(points, colour, max(1, round(width * self._scale)))

    def symbol(self, symbol: str, box: Box, colour: Colour) -> None:
        """A digit, number, letter, operator, bracket or blank; `box` is what a digit would fill."""
        left, top, right, bottom = box
        x, y, height = (left + right) / 2, (top + bottom) / 2, bottom - top
        arm = min(0.36 * height, 0.4 * (right - left))
        thick = 0.14 * height
        match symbol:
            case " ":
                foot, end = bottom + 0.1 * height, 0.12 * height
                for start, stop in (((x - arm, foot), (x + arm, foot)), ((x - arm, foot), (x - arm, foot - end)),
                                    ((x + arm, foot), (x + arm, foot - end))):  # fmt: skip
                    self.line(start, stop, 0.06 * height, _BLANK)
            case "+":
                self.line((x - arm, y), (x + arm, y), thick, colour)
                self.line((x, y - arm), (x, y + arm), thick, colour)
            case "-":
                self.line((x - arm, y), (x + arm, y), thick, colour)
            case "*":
                for across, down in ((0.0, 1.0), (0.87, 0.5), (0.87, -0.5)):
                    self.line((x - arm * across, y - arm * down), (x + arm * across, y + arm * down), thick, colour)
            case "/":
                self.line((x - 0.8 * arm, bottom), (x + 0.8 * arm, top), thick, colour)
            case _:
                self.text(symbol, box, colour, bold=_SYMBOL_BOLD, centred=True)

    def text(self, text: str, box: Box, colour: Colour, *, bold: float, centred: bool = False) -> None:
        """`text` with capitals as tall as `box`, squeezed if it would be too wide."""
        left, top, right, bottom = (edge * self._scale for edge in box)
        font, stroke = _font(bottom - top, bold)
        x0, y0, x1, y1 = (round(edge) for edge in font.getbbox(text, anchor="ls", stroke_width=stroke))
        mask = Image.new("L", (max(1, x1 - x0), max(1, y1 - y0)))
        ImageDraw.Draw(mask).text((-x0, -y0), text, 255, font, anchor="ls", stroke_width=stroke)
        room = max(1, int(right - left))
        if mask.width > room:
            mask = mask.resize((room, mask.height), Image.Resampling.BOX)
        start = left + (room - mask.width) / 2 if centred else left
        base = bottom - stroke
        if text in "()":  # taller than a digit: centred on it
            base = (top + bottom) / 2 - (y0 + y1) / 2
        self._image.paste(colour, (round(start), round(base + y0)), mask)


def text_width(text: str, capital: float, bold: float) -> float:
    """How wide `text` is when its capitals are `capital` tall."""
    font, stroke = _font(capital * 8, bold)
    x0, _, x1, _ = font.getbbox(text, anchor="ls", stroke_width=stroke)
    return (x1 - x0) / 8


_SYMBOL_BOLD = 0.045
_LABEL_BOLD = 0.03
"""Width of the stroke around letters that makes them bold, as a fraction of their height."""

_CAPITAL = 0.72
"""Height of a digit in Pillow's font, as a fraction of the font's size."""


def _font(capital: float, bold: float) -> tuple[ImageFont.FreeTypeFont, int]:
    """The font whose digits, with the stroke around them, are `capital` tall, and the stroke's width."""
    stroke = round(bold * capital)
    return _sized_font(max(1, round((capital - 2 * stroke) / _CAPITAL))), stroke


@functools.lru_cache(maxsize=16)
def _sized_font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("Pillow lacks FreeType: install the wheel from PyPI or build Pillow with FreeType")
    return font
