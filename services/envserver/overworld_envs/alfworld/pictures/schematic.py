"""The picture: a schematic of a `View`, composed of sprites that are drawn once.

Top: where the agent stands, and whether the door is open. Middle: what it sees there, each object with its icon, its
name and how it looks; in the middle of the room, the receptacles. Bottom: what it holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from overworld.authoring.env import Pixels

from overworld_envs.alfworld.pictures.icons import draw_icon
from overworld_envs.alfworld.pictures.view import Place, Seen, View, kind_of
from overworld_envs.drawing import SPRITES, Colour, Pen, fill, paste, text_width

RENDERER = "overworld household schematic 1"

_WALL: Colour = (238, 232, 220)
_BAR: Colour = (44, 54, 74)
_BAR_TEXT: Colour = (255, 255, 255)
_HAND: Colour = (250, 224, 196)
_INK: Colour = (34, 36, 44)
_SURFACE: Colour = (250, 247, 240)
_INSIDE: Colour = (226, 230, 236)
_EDGE: Colour = (150, 128, 100)
_BADGES: dict[str, Colour] = {
    "hot": (204, 58, 40),
    "cool": (40, 112, 190),
    "clean": (28, 140, 112),
    "sliced": (140, 82, 160),
    "on": (190, 130, 0),
    "open": (40, 140, 70),
    "closed": (176, 74, 44),
}
_BOLD, _PLAIN = 0.04, 0.02
_MIN_ROW = 15 / 300
_MAX_ROW = 54 / 300
_MAX_ROWS = 12


class Schematic:
    """Draws views as squares of `size` pixels."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._top = round(0.12 * size)
        self._bottom = round(0.85 * size)
        self._margin = max(1, round(0.02 * size))

    def draw(self, canvas: Pixels, view: View) -> None:
        """Fills the whole `canvas`, uint8 [size, size, 3]."""
        size = self._size
        paste(canvas, self._header(view), 0, 0)
        fill(canvas[self._top : self._bottom], _WALL)
        if view.places:
            height = (self._bottom - self._top) // len(view.places)
            for at, place in enumerate(view.places):
                self._place(canvas, place, self._top + at * height, height, named=len(view.places) > 1)
        else:
            receptacles = [Seen(name) for name in _ranges(view.receptacles)]
            self._grid(canvas, receptacles, self._margin, self._top + self._margin, size - 2 * self._margin,
                       self._bottom - self._top - 2 * self._margin, _WALL)  # fmt: skip
        paste(canvas, self._hand(view.held), 0, self._bottom)

    def _header(self, view: View) -> Pixels:
        single = view.places[0] if len(view.places) == 1 else None
        title = single.name if single else "several places" if view.places else "middle of the room"
        door = single.door if single else ""
        size, height = self._size, self._top

        def draw() -> Pixels:
            pen = Pen(size, height, _BAR)
            right = 0.98 * size
            if door:
                right = _badge(pen, door, right, 0.18 * height, 0.64 * height) - 0.02 * size
            left = 0.03 * size
            if single:
                draw_icon(pen, kind_of(single.name), 0.02 * size, 0.08 * height, 0.84 * height)
                left = 0.05 * size + 0.84 * height
            pen.text(title, (left, 0.28 * height, right, 0.72 * height), _BAR_TEXT, bold=_BOLD)
            return pen.pixels()

        return SPRITES.get(("alfworld header", title, door, size), draw)

    def _place(self, canvas: Pixels, place: Place, top: int, height: int, *, named: bool) -> None:
        margin, width = self._margin, self._size
        if named:
            bar = max(8, round(0.06 * self._size))
            paste(canvas, self._name_bar(place, bar), 0, top)
            top, height = top + bar, height - bar
        paste(canvas, self._body(place, width, height), 0, top)
        if place.door == "closed":
            return
        if not place.contents:
            paste(canvas, self._note("nothing here", _INSIDE if place.door else _SURFACE), 4 * margin, top + 5 * margin)
            return
        self._grid(canvas, place.contents, 3 * margin, top + 3 * margin, width - 6 * margin, height - 6 * margin,
                   _INSIDE if place.door else _SURFACE)  # fmt: skip

    def _name_bar(self, place: Place, height: int) -> Pixels:
        size = self._size

        def draw() -> Pixels:
            pen = Pen(size, height, _WALL)
            right = _badge(pen, place.door, 0.97 * size, 0.1 * height, 0.8 * height) if place.door else 0.97 * size
            pen.text(place.name, (0.03 * size, 0.25 * height, right, 0.8 * height), _INK, bold=_BOLD)
            return pen.pixels()

        return SPRITES.get(("alfworld name", place.name, place.door, size, height), draw)

    def _body(self, place: Place, width: int, height: int) -> Pixels:
        """The receptacle without its contents."""
        kind, door, margin = kind_of(place.name), place.door, self._margin

        def draw() -> Pixels:
            pen = Pen(width, height, _WALL)
            edges = (margin, margin, width - margin, height - margin)
            inner = (2.2 * margin, 2.2 * margin, width - 2.2 * margin, height - 2.2 * margin)
            pen.panel(edges, 1.5 * margin, _EDGE)
            pen.panel(inner, margin, {"open": _INSIDE, "closed": (206, 190, 168)}.get(door, _SURFACE))
            if door == "closed":
                side = min(0.6 * height, 0.5 * width)
                draw_icon(pen, kind, (width - side) / 2, 0.08 * height, side)
                line = min(0.11 * height, 0.08 * width)
                pen.text("closed", (0, height - 2.2 * line, width, height - 1.2 * line), _INK, bold=_BOLD, centred=True)
            return pen.pixels()

        return SPRITES.get(("alfworld body", kind if door == "closed" else "", door, width, height), draw)

    def _note(self, text: str, background: Colour) -> Pixels:
        height = max(8, round(0.07 * self._size))

        def draw() -> Pixels:
            pen = Pen(round(0.8 * self._size), height, background)
            pen.text(text, (0, 0.25 * height, pen.width, 0.75 * height), (120, 116, 110), bold=_PLAIN)
            return pen.pixels()

        return SPRITES.get(("alfworld note", text, background, self._size), draw)

    def _grid(
        self, canvas: Pixels, things: Sequence[Seen], left: int, top: int, width: int, height: int, background: Colour
    ) -> None:
        """Things in columns, as large as possible; the last cell counts those that do not fit."""
        columns = 2 if len(things) <= 2 * (height // max(1, round(0.075 * self._size))) else 3
        most = max(1, min(_MAX_ROWS, int(height / (_MIN_ROW * self._size))))
        rows = min(most, -(-len(things) // columns))
        row = min(height // rows, round(_MAX_ROW * self._size))
        column = width // columns
        cells = list(things)
        if len(cells) > rows * columns:
            hidden = len(cells) - rows * columns + 1
            cells = [*cells[: rows * columns - 1], Seen(f"and {hidden} more")]
        for at, thing in enumerate(cells):
            across, down = at // rows, at % rows
            paste(canvas, self._tile(thing, column, row, background), left + across * column, top + down * row)

    def _tile(self, thing: Seen, width: int, height: int, background: Colour) -> Pixels:
        def draw() -> Pixels:
            pen = Pen(width, height, background)
            side = 0.86 * height
            draw_icon(pen, kind_of(thing.name), 0.02 * width, 0.07 * height, side, on="on" in thing.looks)
            left = 0.05 * width + side
            room = width - left - 2
            capital = min(0.5 * height, 0.042 * self._size)
            share = sum(_badge_width(look, 1.0) + 0.15 for look in thing.looks)
            badge = min(0.72 * height, 0.065 * self._size)
            name = text_width(thing.name, capital, _PLAIN)
            two_lines = bool(share) and name + (0.4 + share) * badge > room and height >= 2.2 * capital
            if two_lines:  # the looks go below the name, otherwise after it
                badge = min(0.38 * height, badge, room / share)
                start, middle, name = left, 0.28 * height, room
            else:
                badge = min(badge, 0.5 * room / share) if share else badge
                name = min(name, room - share * badge)
                start, middle = left + name + 0.4 * badge, 0.5 * height
            pen.text(thing.name, (left, middle - capital / 2, left + name, middle + capital / 2), _INK, bold=_PLAIN)
            top = 0.56 * height if two_lines else (height - badge) / 2
            for look in thing.looks:
                start = _badge(pen, look, start, top, badge, from_left=True) + 0.15 * badge
            return pen.pixels()

        return SPRITES.get(("alfworld tile", thing, width, height, background, self._size), draw)

    def _hand(self, held: Seen | None) -> Pixels:
        size, height = self._size, self._size - self._bottom

        def draw() -> Pixels:
            pen = Pen(size, height, _HAND)
            capital = 0.04 * size
            y = height / 2
            words = "in hand:" if held else "hands are empty"
            pen.text(words, (0.03 * size, y - capital / 2, 0.97 * size, y + capital / 2), _INK, bold=_BOLD)
            return pen.pixels()

        bar = SPRITES.get(("alfworld hand", held is not None, size), draw)
        if held is None:
            return bar

        def draw_held() -> Pixels:
            whole = bar.copy()
            left = round(0.3 * size)
            margin = max(1, round(0.02 * size))
            tile = self._tile(held, size - left - margin, height - 2 * margin, _HAND)
            paste(whole, tile, left, margin)
            return whole

        return SPRITES.get(("alfworld held", held, size), draw_held)


def _badge(pen: Pen, word: str, edge: float, top: float, height: float, *, from_left: bool = False) -> float:
    """Draws a coloured label with its right edge (or left) at `edge`; returns the opposite edge."""
    capital = 0.5 * height
    width = _badge_width(word, height)
    left = edge if from_left else edge - width
    pen.panel((left, top, left + width, top + height), 0.4 * height, _BADGES[word])
    middle = top + height / 2
    pen.text(word, (left, middle - capital / 2, left + width, middle + capital / 2), (255, 255, 255), bold=_BOLD,
             centred=True)  # fmt: skip
    return left + width if from_left else left


def _badge_width(word: str, height: float) -> float:
    return text_width(word, 0.5 * height, _BOLD) + 0.8 * height


def _ranges(names: Sequence[str]) -> Iterator[str]:
    """Sorted names, with those of one kind merged: "cabinet 1-21"."""
    for kind, group in groupby(names, kind_of):
        numbers = [name.rpartition(" ")[2] for name in group]
        first, last = numbers[0], numbers[-1]
        whole = numbers == [str(number) for number in range(1, len(numbers) + 1)]
        if len(numbers) == 1:
            yield f"{kind} {first}"
        elif whole:
            yield f"{kind} {first}-{last}"
        else:
            yield from (f"{kind} {number}" for number in numbers)
