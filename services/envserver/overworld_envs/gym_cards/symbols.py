"""Digits, ranks and operators as cells of a picture, and the games' colours."""

from __future__ import annotations

from overworld.authoring.env import Pixels

from overworld_envs.drawing import BLACK, SPRITES, WHITE, Colour, Pen

FELT: Colour = (53, 101, 77)

COLOURS: dict[str, Colour] = {
    "0": (160, 40, 160),
    "1": (0, 200, 0),
    "2": (255, 120, 0),
    "3": (0, 0, 0),
    "4": (0, 0, 255),
    "5": (0, 160, 255),
    "6": (120, 120, 40),
    "7": (160, 0, 40),
    "8": (255, 0, 255),
    "9": (0, 120, 120),
    "10": (255, 0, 40),
    "J": (80, 200, 120),
    "Q": (200, 200, 0),
    "K": (0, 0, 160),
    "+": (255, 80, 160),
    "-": (40, 0, 80),
    "*": (120, 120, 255),
    "/": (80, 40, 0),
    "(": (80, 80, 120),
    ")": (200, 120, 80),
}
"""Colours for agents that see little, e.g. a small model at 56 x 56 pixels: far from each other and from white, in
CIELAB and in RGB (found by a farthest-point search)."""
COLOURS["A"] = COLOURS["1"]


def glyph(symbol: str, width: int, height: int, *, letters: float, colours: bool) -> Pixels:
    """A cell with `symbol` in its middle on white; `letters` is the height of a digit as a fraction of the cell's.

    With `colours` each symbol has a colour of its own, else all are black. A blank, " ", shows as a small grey bracket.
    """

    def draw() -> Pixels:
        pen = Pen(width, height, WHITE)
        colour = COLOURS[symbol] if colours and symbol in COLOURS else BLACK
        pen.symbol(symbol, (0.04 * width, height * (1 - letters) / 2, 0.96 * width, height * (1 + letters) / 2), colour)
        return pen.pixels()

    return SPRITES.get(("glyph", symbol, width, height, letters, colours), draw)
