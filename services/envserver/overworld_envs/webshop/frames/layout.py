"""A page with everything in its place, drawn by copying sprites.

The head (instruction and navigation) stays, what is below it scrolls; a bar at the right shows the position.
"""

from __future__ import annotations

import numpy as np
from overworld.authoring.env import Pixels

from overworld_envs.webshop.frames.sheet import GREY, LINE, WHITE, Sheet
from overworld_envs.webshop.frames.typeface import SPRITES, Colour


class Layout:
    """A page with everything in its place; `height` is that of what scrolls, in pixels."""

    def __init__(self, head: Sheet | None, body: Sheet) -> None:
        self._head = [] if head is None else head.pieces
        self._body = body.pieces
        self._head_lines = [] if head is None else head.lines
        self._body_lines = body.lines
        self._top = 0 if head is None else head.y
        self.height = body.y

    def draw(self, canvas: Pixels, scroll: int) -> None:
        """Draws all of `canvas`, uint8 [height, width, 3], with the body `scroll` pixels up."""
        canvas[...] = _row(canvas.shape[1], WHITE)
        for piece in self._body:
            _paste(canvas, piece.sprite, piece.x, self._top + piece.y - scroll)
        canvas[: self._top] = _row(canvas.shape[1], WHITE)  # what scrolled under the head
        for piece in self._head:
            _paste(canvas, piece.sprite, piece.x, piece.y)
        self._draw_bar(canvas, scroll)

    def words(self, canvas_height: int, scroll: int) -> list[str]:
        """The lines of text that a canvas of that height shows whole, or in their greater part."""
        below = scroll + self.view_height(canvas_height)
        seen = [line.text for line in self._body_lines if scroll <= (line.top + line.bottom) // 2 < below]
        return [line.text for line in self._head_lines] + seen

    def view_height(self, canvas_height: int) -> int:
        """Height of the visible part of the body, in pixels."""
        return max(1, canvas_height - self._top)

    def _draw_bar(self, canvas: Pixels, scroll: int) -> None:
        """The scroll bar."""
        height, width, _ = canvas.shape
        view = self.view_height(height)
        if self.height <= view:
            return
        bar = max(2, width // 100)
        canvas[self._top :, -bar:] = LINE
        start = self._top + view * scroll // self.height
        canvas[start : start + max(2, view * view // self.height), -bar:] = GREY


def _row(width: int, colour: Colour) -> Pixels:
    return SPRITES.get(("row", width, colour), lambda: np.full((1, width, 3), colour, np.uint8))


def _paste(canvas: Pixels, sprite: Pixels, x: int, y: int) -> None:
    """Copies the part of `sprite` that lies within `canvas`."""
    height, width, _ = sprite.shape
    bottom, right, _ = canvas.shape
    if y >= 0 and x >= 0 and y + height <= bottom and x + width <= right:
        canvas[y : y + height, x : x + width] = sprite
        return
    top, left = max(y, 0), max(x, 0)
    part = sprite[top - y : bottom - y, left - x : right - x] if y < bottom and x < right else sprite[:0]
    if part.size:
        canvas[top : top + part.shape[0], left : left + part.shape[1]] = part
