"""Icons of household things: a shape and a few colours per kind. A kind without one is a plain box."""

from __future__ import annotations

from collections.abc import Callable

from overworld_envs.drawing import Colour, Pen

Draw = Callable[["Brush"], None]

_WOOD: Colour = (170, 120, 72)
_DARK: Colour = (70, 70, 78)
_STEEL: Colour = (160, 168, 178)
_SILVER: Colour = (205, 210, 216)
_WHITE: Colour = (248, 248, 246)
_RED: Colour = (205, 52, 48)
_GREEN: Colour = (84, 158, 74)
_BLUE: Colour = (72, 122, 196)
_YELLOW: Colour = (248, 204, 72)
_TAN: Colour = (214, 178, 120)
_BROWN: Colour = (130, 86, 50)
_PINK: Colour = (236, 160, 180)
_INK: Colour = (52, 54, 64)


class Brush:
    """Draws into a square of a sprite; all lengths are fractions of its side."""

    def __init__(self, pen: Pen, left: float, top: float, side: float, *, on: bool = False) -> None:
        self._pen, self._left, self._top, self._side = pen, left, top, side
        self.on = on

    def box(self, left: float, top: float, right: float, bottom: float, colour: Colour, radius: float = 0.05) -> None:
        """A rectangle with rounded corners."""
        x0, y0 = self._at(left, top)
        x1, y1 = self._at(right, bottom)
        if x1 - x0 >= 0.5 and y1 - y0 >= 0.5:
            radius = min(radius * self._side, (x1 - x0) / 2.2, (y1 - y0) / 2.2)
            self._pen.panel((x0, y0, x1, y1), radius, colour)

    def disc(self, x: float, y: float, radius: float, colour: Colour) -> None:
        """A circle."""
        self._pen.disc(*self._at(x, y), radius * self._side, colour)

    def line(self, x0: float, y0: float, x1: float, y1: float, width: float, colour: Colour) -> None:
        """A line."""
        self._pen.line(self._at(x0, y0), self._at(x1, y1), width * self._side, colour)

    def shape(self, colour: Colour, *points: tuple[float, float]) -> None:
        """A polygon."""
        self._pen.polygon([self._at(x, y) for x, y in points], colour)

    def _at(self, x: float, y: float) -> tuple[float, float]:
        return self._left + x * self._side, self._top + y * self._side


def draw_icon(pen: Pen, kind: str, left: float, top: float, side: float, *, on: bool = False) -> None:
    """Draws the icon of a kind, e.g. "mug" or "fridge". A lamp that is `on` shines."""
    ICONS.get(kind, _box(_TAN))(Brush(pen, left, top, side, on=on))


def _ball(colour: Colour, leaf: Colour | None = None, radius: float = 0.36) -> Draw:
    def draw(brush: Brush) -> None:
        brush.disc(0.5, 0.56, radius, colour)
        brush.disc(0.4, 0.45, 0.08, _lighter(colour))
        if leaf:
            brush.line(0.5, 0.24, 0.53, 0.1, 0.06, _BROWN)
            brush.shape(leaf, (0.53, 0.18), (0.76, 0.08), (0.7, 0.24))

    return draw


def _egg(colour: Colour) -> Draw:
    def draw(brush: Brush) -> None:
        brush.disc(0.5, 0.6, 0.29, colour)
        brush.disc(0.5, 0.44, 0.22, colour)
        brush.disc(0.42, 0.42, 0.06, _WHITE)

    return draw


def _bottle(colour: Colour, cap: Colour, *, wide: float = 0.36, neck: float = 0.14, shoulder: float = 0.38) -> Draw:
    def draw(brush: Brush) -> None:
        brush.box(0.5 - neck / 2, 0.14, 0.5 + neck / 2, 0.5, colour)
        brush.box(0.5 - wide / 2, shoulder, 0.5 + wide / 2, 0.94, colour, 0.09)
        brush.box(0.5 - neck * 0.65, 0.06, 0.5 + neck * 0.65, 0.18, cap, 0.03)
        brush.box(0.5 - wide / 2, 0.58, 0.5 + wide / 2, 0.76, _lighter(colour), 0)

    return draw


def _spray(brush: Brush) -> None:
    brush.box(0.34, 0.42, 0.7, 0.94, _BLUE, 0.09)
    brush.box(0.46, 0.22, 0.58, 0.46, _WHITE)
    brush.box(0.26, 0.1, 0.66, 0.26, _RED, 0.04)
    brush.line(0.32, 0.24, 0.4, 0.38, 0.06, _RED)


def _vessel(colour: Colour, *, handle: bool = False, low: bool = False) -> Draw:
    def draw(brush: Brush) -> None:
        top = 0.42 if low else 0.2
        if handle:
            brush.disc(0.74, 0.52, 0.19, colour)
            brush.disc(0.74, 0.52, 0.1, _WHITE)
        side, foot = (0.08, 0.3) if low else (0.22, 0.3)
        brush.shape(colour, (side, top), (1 - side, top), (1 - foot, 0.88), (foot, 0.88))
        brush.box(side, top - 0.05, 1 - side, top + 0.05, _lighter(colour), 0.04)

    return draw


def _plate(brush: Brush) -> None:
    brush.disc(0.5, 0.5, 0.43, _SILVER)
    brush.disc(0.5, 0.5, 0.39, _WHITE)
    brush.disc(0.5, 0.5, 0.25, (228, 230, 234))


def _pan(brush: Brush) -> None:
    brush.line(0.6, 0.4, 0.97, 0.08, 0.11, _BROWN)
    brush.disc(0.4, 0.58, 0.36, _DARK)
    brush.disc(0.4, 0.58, 0.27, (104, 106, 114))


def _pot(brush: Brush) -> None:
    brush.box(0.03, 0.42, 0.97, 0.54, _DARK)
    brush.box(0.16, 0.3, 0.84, 0.88, _STEEL, 0.08)
    brush.box(0.12, 0.24, 0.88, 0.34, _SILVER, 0.04)


def _kettle(brush: Brush) -> None:
    brush.line(0.3, 0.4, 0.5, 0.12, 0.07, _DARK)
    brush.line(0.5, 0.12, 0.7, 0.4, 0.07, _DARK)
    brush.shape(_RED, (0.7, 0.6), (0.97, 0.36), (0.97, 0.46), (0.8, 0.74))
    brush.disc(0.5, 0.64, 0.29, _RED)
    brush.disc(0.5, 0.36, 0.07, _DARK)


def _blade(handle: Colour, *, blunt: bool = False) -> Draw:
    def draw(brush: Brush) -> None:
        tip = (0.86, 0.08) if blunt else (0.95, 0.04)
        brush.shape(_STEEL, (0.36, 0.5), tip, (0.9, 0.22) if blunt else (0.8, 0.32), (0.5, 0.64))
        brush.line(0.08, 0.92, 0.42, 0.58, 0.15, handle)

    return draw


def _fork(brush: Brush) -> None:
    brush.line(0.1, 0.9, 0.6, 0.4, 0.09, _STEEL)
    for shift in (-0.13, 0.0, 0.13):
        brush.line(0.6 + shift, 0.4 + shift, 0.82 + shift, 0.18 + shift, 0.06, _STEEL)
    brush.line(0.47, 0.27, 0.73, 0.53, 0.08, _STEEL)


def _spoon(colour: Colour, bowl: float) -> Draw:
    def draw(brush: Brush) -> None:
        brush.line(0.08, 0.92, 0.6, 0.4, 0.09, colour)
        brush.disc(0.68, 0.32, bowl, colour)
        brush.disc(0.68, 0.32, bowl * 0.6, _lighter(colour))

    return draw


def _spatula(brush: Brush) -> None:
    brush.line(0.08, 0.92, 0.5, 0.5, 0.09, _WOOD)
    brush.shape(_DARK, (0.42, 0.38), (0.66, 0.08), (0.92, 0.34), (0.62, 0.58))


def _shaker(colour: Colour, dots: Colour) -> Draw:
    def draw(brush: Brush) -> None:
        brush.shape(colour, (0.34, 0.34), (0.66, 0.34), (0.74, 0.92), (0.26, 0.92))
        brush.box(0.32, 0.12, 0.68, 0.38, _STEEL, 0.1)
        for x in (0.42, 0.5, 0.58):
            brush.disc(x, 0.22, 0.025, _INK)
        brush.disc(0.5, 0.66, 0.1, dots)

    return draw


def _book(brush: Brush) -> None:
    brush.box(0.14, 0.1, 0.86, 0.92, _BLUE, 0.05)
    brush.box(0.14, 0.1, 0.26, 0.92, (46, 84, 146), 0.03)
    brush.box(0.36, 0.26, 0.76, 0.42, _WHITE, 0.02)


def _paper(brush: Brush) -> None:
    brush.box(0.12, 0.08, 0.88, 0.94, _WHITE, 0.02)
    brush.box(0.2, 0.16, 0.8, 0.28, _INK, 0)
    for y in (0.4, 0.52, 0.64, 0.76):
        brush.box(0.2, y, 0.8, y + 0.04, _STEEL, 0)


def _laptop(brush: Brush) -> None:
    brush.box(0.16, 0.14, 0.84, 0.68, _DARK, 0.04)
    brush.box(0.22, 0.2, 0.78, 0.62, (128, 186, 232), 0.02)
    brush.shape(_STEEL, (0.16, 0.7), (0.84, 0.7), (0.97, 0.86), (0.03, 0.86))


def _phone(colour: Colour, *, keys: bool = False) -> Draw:
    def draw(brush: Brush) -> None:
        brush.box(0.3, 0.06, 0.7, 0.95, colour, 0.08)
        if keys:
            for y in (0.2, 0.38, 0.56, 0.74):
                for x in (0.41, 0.59):
                    brush.disc(x, y, 0.05, _RED if y < 0.3 and x > 0.5 else _SILVER)
        else:
            brush.box(0.35, 0.15, 0.65, 0.8, (128, 186, 232), 0.02)

    return draw


def _card(brush: Brush) -> None:
    brush.box(0.06, 0.24, 0.94, 0.8, (72, 96, 168), 0.07)
    brush.box(0.06, 0.36, 0.94, 0.48, _INK, 0)
    brush.box(0.14, 0.58, 0.36, 0.7, _YELLOW, 0.03)


def _ring(outer: Colour, inner: Colour, hole: float = 0.1) -> Draw:
    def draw(brush: Brush) -> None:
        brush.disc(0.5, 0.5, 0.42, outer)
        brush.disc(0.5, 0.5, 0.3, inner)
        brush.disc(0.5, 0.5, hole, _WHITE)

    return draw


def _clock(*, strap: bool = False) -> Draw:
    def draw(brush: Brush) -> None:
        if strap:
            brush.box(0.36, 0.02, 0.64, 0.98, _BROWN, 0.05)
        else:
            brush.disc(0.28, 0.2, 0.13, _RED)
            brush.disc(0.72, 0.2, 0.13, _RED)
        radius = 0.28 if strap else 0.38
        brush.disc(0.5, 0.54, radius, _DARK if strap else _RED)
        brush.disc(0.5, 0.54, radius - 0.08, _WHITE)
        brush.line(0.5, 0.54, 0.5, 0.36, 0.05, _INK)
        brush.line(0.5, 0.54, 0.62, 0.6, 0.05, _INK)

    return draw


def _keys(brush: Brush) -> None:
    brush.disc(0.34, 0.32, 0.24, _YELLOW)
    brush.disc(0.34, 0.32, 0.13, _WHITE)
    brush.line(0.46, 0.46, 0.9, 0.9, 0.1, _YELLOW)
    brush.line(0.72, 0.72, 0.86, 0.6, 0.08, _YELLOW)


def _stick(colour: Colour, tip: Colour, width: float = 0.12) -> Draw:
    def draw(brush: Brush) -> None:
        brush.line(0.2, 0.84, 0.84, 0.2, width, colour)
        brush.shape(tip, (0.06, 0.96), (0.14, 0.76), (0.26, 0.88))

    return draw


def _bat(brush: Brush) -> None:
    brush.line(0.1, 0.92, 0.6, 0.42, 0.09, _WOOD)
    brush.line(0.48, 0.54, 0.9, 0.12, 0.2, _WOOD)


def _racket(brush: Brush) -> None:
    brush.line(0.08, 0.94, 0.46, 0.56, 0.1, _DARK)
    brush.disc(0.64, 0.36, 0.31, _RED)
    brush.disc(0.64, 0.36, 0.23, _WHITE)
    for shift in (-0.1, 0.0, 0.1):
        brush.line(0.44, 0.36 + shift, 0.84, 0.36 + shift, 0.02, _STEEL)
        brush.line(0.64 + shift, 0.16, 0.64 + shift, 0.56, 0.02, _STEEL)


def _pillow(brush: Brush) -> None:
    brush.box(0.06, 0.2, 0.94, 0.84, _PINK, 0.22)
    brush.box(0.16, 0.3, 0.84, 0.74, (246, 190, 204), 0.16)


def _cloth(colour: Colour, stripe: Colour) -> Draw:
    def draw(brush: Brush) -> None:
        brush.box(0.14, 0.1, 0.86, 0.92, colour, 0.04)
        brush.box(0.14, 0.64, 0.86, 0.74, stripe, 0)
        brush.box(0.14, 0.8, 0.86, 0.84, stripe, 0)

    return draw


def _block(colour: Colour, mark: Colour | None = None) -> Draw:
    def draw(brush: Brush) -> None:
        brush.box(0.1, 0.32, 0.9, 0.78, colour, 0.12)
        if mark:
            brush.box(0.1, 0.6, 0.9, 0.78, mark, 0.08)

    return draw


def _roll(brush: Brush) -> None:
    brush.box(0.24, 0.16, 0.76, 0.9, _WHITE, 0.12)
    brush.box(0.24, 0.5, 0.76, 0.54, _SILVER, 0)
    brush.disc(0.5, 0.22, 0.16, _SILVER)
    brush.disc(0.5, 0.22, 0.08, _BROWN)


def _tissues(brush: Brush) -> None:
    brush.shape(_WHITE, (0.3, 0.42), (0.42, 0.1), (0.52, 0.26), (0.64, 0.12), (0.7, 0.42))
    brush.box(0.1, 0.4, 0.9, 0.9, _BLUE, 0.05)
    brush.box(0.28, 0.42, 0.72, 0.5, _WHITE, 0.04)


def _candle(brush: Brush) -> None:
    brush.box(0.34, 0.4, 0.66, 0.94, (240, 226, 190), 0.05)
    brush.line(0.5, 0.42, 0.5, 0.3, 0.04, _INK)
    brush.disc(0.5, 0.22, 0.1, (246, 150, 40))
    brush.disc(0.5, 0.24, 0.05, _YELLOW)


def _statue(brush: Brush) -> None:
    brush.box(0.22, 0.8, 0.78, 0.94, _DARK, 0.02)
    brush.shape(_STEEL, (0.34, 0.8), (0.38, 0.42), (0.62, 0.42), (0.66, 0.8))
    brush.disc(0.5, 0.26, 0.16, _STEEL)


def _lamp(*, tall: bool) -> Draw:
    def draw(brush: Brush) -> None:
        if brush.on:
            brush.disc(0.5, 0.3, 0.32, (255, 240, 160))
        foot = 0.96 if tall else 0.9
        brush.line(0.5, 0.34, 0.5, foot, 0.06, _DARK)
        brush.box(0.26, foot - 0.07, 0.74, foot, _DARK, 0.03)
        shade = _YELLOW if brush.on else (120, 128, 150)
        brush.shape(shade, (0.36, 0.08), (0.64, 0.08), (0.8, 0.42), (0.2, 0.42))

    return draw


def _can(brush: Brush) -> None:
    brush.box(0.28, 0.38, 0.74, 0.92, _GREEN, 0.06)
    brush.shape(_GREEN, (0.3, 0.8), (0.02, 0.32), (0.12, 0.28), (0.36, 0.6))
    brush.line(0.42, 0.38, 0.62, 0.16, 0.06, _GREEN)
    brush.line(0.62, 0.16, 0.88, 0.5, 0.06, _GREEN)


def _plunger(brush: Brush) -> None:
    brush.line(0.5, 0.06, 0.5, 0.6, 0.09, _WOOD)
    brush.shape(_RED, (0.34, 0.58), (0.66, 0.58), (0.82, 0.92), (0.18, 0.92))


def _box(colour: Colour) -> Draw:
    def draw(brush: Brush) -> None:
        brush.box(0.12, 0.24, 0.88, 0.9, colour, 0.03)
        brush.box(0.12, 0.24, 0.88, 0.38, _lighter(colour), 0.03)
        brush.box(0.44, 0.24, 0.56, 0.56, _BROWN, 0)

    return draw


def _door(body: Colour, *, split: float = 0.0) -> Draw:
    def draw(brush: Brush) -> None:
        brush.box(0.14, 0.04, 0.86, 0.96, _darker(body), 0.05)
        brush.box(0.19, 0.09, 0.81, 0.91, body, 0.03)
        if split:
            brush.box(0.14, split, 0.86, split + 0.05, _darker(body), 0)
        brush.box(0.68, 0.42 + split / 4, 0.74, 0.62 + split / 4, _INK, 0.02)

    return draw


def _drawer(brush: Brush) -> None:
    brush.box(0.06, 0.22, 0.94, 0.78, _darker(_WOOD), 0.05)
    brush.box(0.12, 0.28, 0.88, 0.72, _WOOD, 0.03)
    brush.box(0.38, 0.46, 0.62, 0.54, _INK, 0.03)


def _microwave(brush: Brush) -> None:
    brush.box(0.04, 0.2, 0.96, 0.82, _DARK, 0.05)
    brush.box(0.1, 0.28, 0.66, 0.74, (120, 140, 150), 0.03)
    for y in (0.34, 0.5, 0.66):
        brush.disc(0.81, y, 0.05, _SILVER)


def _safe(brush: Brush) -> None:
    brush.box(0.1, 0.1, 0.9, 0.9, _STEEL, 0.05)
    brush.disc(0.5, 0.5, 0.22, _DARK)
    brush.disc(0.5, 0.5, 0.12, _SILVER)


def _table(colour: Colour, *, solid: bool = False) -> Draw:
    def draw(brush: Brush) -> None:
        if solid:
            brush.box(0.1, 0.36, 0.9, 0.92, _darker(colour), 0.02)
        else:
            brush.box(0.12, 0.38, 0.2, 0.94, _darker(colour), 0.02)
            brush.box(0.8, 0.38, 0.88, 0.94, _darker(colour), 0.02)
        brush.box(0.04, 0.28, 0.96, 0.42, colour, 0.03)

    return draw


def _shelf(brush: Brush) -> None:
    for y in (0.2, 0.5, 0.8):
        brush.box(0.08, y, 0.92, y + 0.09, _WOOD, 0.02)
    brush.box(0.08, 0.08, 0.15, 0.96, _darker(_WOOD), 0.02)
    brush.box(0.85, 0.08, 0.92, 0.96, _darker(_WOOD), 0.02)


def _seat(colour: Colour, *, wide: bool) -> Draw:
    def draw(brush: Brush) -> None:
        edge = 0.02 if wide else 0.14
        brush.box(edge + 0.08, 0.16, 0.92 - edge, 0.7, _darker(colour), 0.12)
        brush.box(edge, 0.4, edge + 0.16, 0.88, colour, 0.07)
        brush.box(0.84 - edge, 0.4, 1 - edge, 0.88, colour, 0.07)
        brush.box(edge + 0.1, 0.58, 0.9 - edge, 0.86, colour, 0.05)

    return draw


def _bed(brush: Brush) -> None:
    brush.box(0.04, 0.16, 0.14, 0.92, _BROWN, 0.03)
    brush.box(0.86, 0.44, 0.96, 0.92, _BROWN, 0.03)
    brush.box(0.1, 0.5, 0.9, 0.8, _BLUE, 0.05)
    brush.box(0.14, 0.38, 0.4, 0.56, _WHITE, 0.07)


def _basin(brush: Brush) -> None:
    brush.shape(_SILVER, (0.06, 0.44), (0.94, 0.44), (0.78, 0.88), (0.22, 0.88))
    brush.box(0.04, 0.4, 0.96, 0.5, _WHITE, 0.04)
    brush.line(0.5, 0.42, 0.5, 0.14, 0.08, _STEEL)
    brush.line(0.5, 0.16, 0.72, 0.16, 0.08, _STEEL)
    brush.line(0.7, 0.14, 0.7, 0.28, 0.06, _STEEL)


def _burner(brush: Brush) -> None:
    brush.box(0.06, 0.06, 0.94, 0.94, _DARK, 0.06)
    for radius, colour in ((0.36, (214, 92, 52)), (0.29, _DARK), (0.22, (214, 92, 52)), (0.15, _DARK)):
        brush.disc(0.5, 0.5, radius, colour)


def _toaster(brush: Brush) -> None:
    brush.box(0.28, 0.12, 0.72, 0.5, _TAN, 0.08)
    brush.box(0.1, 0.3, 0.9, 0.86, _STEEL, 0.1)
    brush.box(0.22, 0.3, 0.78, 0.38, _INK, 0.02)


def _coffee(brush: Brush) -> None:
    brush.box(0.16, 0.08, 0.84, 0.94, _DARK, 0.06)
    brush.box(0.26, 0.36, 0.74, 0.82, (226, 226, 228), 0.03)
    brush.box(0.38, 0.54, 0.62, 0.82, _BROWN, 0.03)


def _bin(brush: Brush) -> None:
    brush.shape(_STEEL, (0.18, 0.26), (0.82, 0.26), (0.72, 0.94), (0.28, 0.94))
    brush.box(0.12, 0.16, 0.88, 0.28, _DARK, 0.05)


def _toilet(brush: Brush) -> None:
    brush.box(0.22, 0.06, 0.78, 0.42, _WHITE, 0.05)
    brush.box(0.18, 0.44, 0.82, 0.56, _SILVER, 0.06)
    brush.shape(_WHITE, (0.22, 0.54), (0.78, 0.54), (0.64, 0.92), (0.36, 0.92))


def _holder(brush: Brush) -> None:
    brush.box(0.06, 0.2, 0.94, 0.3, _STEEL, 0.04)
    brush.box(0.24, 0.26, 0.76, 0.86, (226, 232, 240), 0.03)


def _cart(brush: Brush) -> None:
    _shelf(brush)
    brush.disc(0.2, 0.94, 0.06, _INK)
    brush.disc(0.8, 0.94, 0.06, _INK)


def _lighter(colour: Colour) -> Colour:
    red, green, blue = (round(part + (255 - part) * 0.35) for part in colour)
    return red, green, blue


def _darker(colour: Colour) -> Colour:
    red, green, blue = (round(part * 0.72) for part in colour)
    return red, green, blue


ICONS: dict[str, Draw] = {
    "apple": _ball(_RED, _GREEN),
    "tomato": _ball((226, 70, 44), _GREEN, 0.38),
    "potato": _egg((186, 142, 86)),
    "egg": _egg((246, 232, 206)),
    "lettuce": _ball((118, 186, 84)),
    "bread": _block((206, 150, 84), (170, 112, 56)),
    "basketball": _ball((226, 122, 44)),
    "winebottle": _bottle((88, 32, 52), _INK),
    "glassbottle": _bottle((120, 190, 176), _SILVER),
    "soapbottle": _bottle((104, 178, 168), _WHITE, wide=0.44, shoulder=0.34),
    "spraybottle": _spray,
    "vase": _bottle((150, 104, 178), (150, 104, 178), wide=0.5, neck=0.22),
    "cup": _vessel((104, 168, 206)),
    "mug": _vessel(_BLUE, handle=True),
    "bowl": _vessel((226, 140, 72), low=True),
    "plate": _plate,
    "pan": _pan,
    "pot": _pot,
    "kettle": _kettle,
    "knife": _blade(_INK),
    "butterknife": _blade(_WOOD, blunt=True),
    "fork": _fork,
    "spoon": _spoon(_STEEL, 0.17),
    "ladle": _spoon(_DARK, 0.24),
    "spatula": _spatula,
    "saltshaker": _shaker(_WHITE, _SILVER),
    "peppershaker": _shaker((120, 104, 96), _INK),
    "book": _book,
    "newspaper": _paper,
    "laptop": _laptop,
    "cellphone": _phone(_INK),
    "remotecontrol": _phone(_DARK, keys=True),
    "creditcard": _card,
    "cd": _ring(_SILVER, (188, 200, 226)),
    "alarmclock": _clock(),
    "watch": _clock(strap=True),
    "keychain": _keys,
    "pen": _stick(_BLUE, _INK),
    "pencil": _stick(_YELLOW, _INK),
    "baseballbat": _bat,
    "tennisracket": _racket,
    "pillow": _pillow,
    "cloth": _cloth((236, 208, 130), _RED),
    "towel": _cloth((134, 176, 216), _WHITE),
    "handtowel": _cloth((188, 216, 176), _GREEN),
    "soapbar": _block(_PINK),
    "dishsponge": _block(_YELLOW, _GREEN),
    "toiletpaper": _roll,
    "toiletpaperroll": _roll,
    "papertowel": _roll,
    "papertowelroll": _roll,
    "tissuebox": _tissues,
    "candle": _candle,
    "statue": _statue,
    "box": _box(_TAN),
    "desklamp": _lamp(tall=False),
    "floorlamp": _lamp(tall=True),
    "wateringcan": _can,
    "plunger": _plunger,
    "fridge": _door(_SILVER, split=0.32),
    "cabinet": _door(_WOOD),
    "drawer": _drawer,
    "microwave": _microwave,
    "safe": _safe,
    "countertop": _table((176, 176, 184), solid=True),
    "dresser": _table(_WOOD, solid=True),
    "tvstand": _table(_BROWN, solid=True),
    "diningtable": _table(_WOOD),
    "coffeetable": _table(_BROWN),
    "sidetable": _table(_TAN),
    "desk": _table((196, 150, 96)),
    "shelf": _shelf,
    "cart": _cart,
    "sofa": _seat((92, 130, 160), wide=True),
    "armchair": _seat((168, 96, 80), wide=False),
    "ottoman": _block((168, 120, 140), (128, 88, 104)),
    "bed": _bed,
    "sinkbasin": _basin,
    "bathtubbasin": _basin,
    "stoveburner": _burner,
    "toaster": _toaster,
    "coffeemachine": _coffee,
    "garbagecan": _bin,
    "laundryhamper": _bin,
    "toilet": _toilet,
    "toiletpaperhanger": _holder,
    "towelholder": _holder,
    "handtowelholder": _holder,
}
"""Kind -> how it is drawn."""
