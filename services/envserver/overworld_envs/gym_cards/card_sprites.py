"""How cards look: rank and suit on white, and the back."""

from __future__ import annotations

import math

from overworld.authoring.env import Pixels

from overworld_envs.drawing import BLACK, SPRITES, WHITE, Colour, Pen
from overworld_envs.gym_cards.cards import Card
from overworld_envs.gym_cards.symbols import COLOURS, FELT

_EDGE: Colour = (28, 58, 43)
_RED: Colour = (205, 25, 35)
_BACK: Colour = (36, 66, 138)
_LATTICE: Colour = (120, 148, 205)


def face(card: Card, width: int, height: int, *, colours: bool) -> Pixels:
    """A card face up on felt, uint8 [height, width, 3]. With `colours` each rank has its own."""

    def draw() -> Pixels:
        pen = _blank(width, height)
        ink = _RED if card.suit in "DH" else BLACK
        rank = COLOURS[card.rank] if colours else ink
        pen.symbol(card.rank, (0.08 * width, 0.07 * height, 0.92 * width, 0.45 * height), rank)
        _suit(pen, card.suit, 0.5 * width, 0.72 * height, 0.21 * height, ink)
        return pen.pixels()

    return SPRITES.get(("face", card, width, height, colours), draw)


def back(width: int, height: int) -> Pixels:
    """A card face down on felt, uint8 [height, width, 3]; always the same."""

    def draw() -> Pixels:
        pen = _blank(width, height)
        rim = 0.08 * width
        pen.panel((rim, rim, width - rim, height - rim), 0.05 * width, _BACK)
        step = (width - 2 * rim) / 4
        rows = round((height - 2 * rim) / step)
        for row in range(rows):
            for column in range(4):
                x, y = rim + (column + 0.5) * step, rim + (row + 0.5) * (height - 2 * rim) / rows
                pen.polygon([(x, y - 0.33 * step), (x + 0.33 * step, y), (x, y + 0.33 * step), (x - 0.33 * step, y)],
                            _LATTICE)  # fmt: skip
        return pen.pixels()

    return SPRITES.get(("back", width, height), draw)


def _blank(width: int, height: int) -> Pen:
    pen = Pen(width, height, FELT)
    edge = max(0.3, 0.012 * width)
    radius = 0.09 * width
    pen.panel((0, 0, width, height), radius, _EDGE)
    pen.panel((edge, edge, width - edge, height - edge), radius - edge, WHITE)
    return pen


def _suit(pen: Pen, suit: str, x: float, y: float, size: float, colour: Colour) -> None:
    """Draws the suit's symbol centred on (x, y), reaching `size` up and down."""

    def polygon(points: list[tuple[float, float]]) -> None:
        pen.polygon([(x + size * across, y + size * down) for across, down in points], colour)

    match suit:
        case "H":
            polygon(_HEART)
        case "D":
            polygon([(0, -1), (0.76, 0), (0, 1), (-0.76, 0)])
        case "S":
            polygon([(across, -0.9 * down - 0.12) for across, down in _HEART])
            polygon(_STEM)
        case "C":
            for across, down in ((0, -0.52), (-0.49, 0.2), (0.49, 0.2)):
                pen.disc(x + size * across, y + size * down, 0.46 * size, colour)
            polygon([(-0.3, -0.2), (0.3, -0.2), (0.2, 0.3), (-0.2, 0.3)])
            polygon(_STEM)
        case _:
            raise ValueError(f"no suit {suit!r}")


def _heart() -> list[tuple[float, float]]:
    """A heart between -1 and 1, tip down: a well-known parametric curve."""
    turns = [2 * math.pi * k / 120 for k in range(120)]
    return [
        (
            math.sin(t) ** 3 * 0.98,
            -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t) + 2.5) / 14.5,
        )
        for t in turns
    ]


_HEART = _heart()
_STEM = [(-0.06, 0.2), (0.06, 0.2), (0.12, 0.7), (0.34, 0.98), (-0.34, 0.98), (-0.12, 0.7)]
