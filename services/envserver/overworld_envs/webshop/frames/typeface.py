"""Text in pixels: words as sprites, and lines broken to a width. Text is drawn, never interpreted."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Literal

import numpy as np
from overworld.authoring.env import Pixels
from PIL import Image, ImageDraw, ImageFont

from overworld_envs.sprites import SpriteCache

Colour = tuple[int, int, int]
Weight = Literal["Regular", "Semibold"]

SPRITES = SpriteCache(max_bytes=24 * 2**20)
"""What this process drew most recently."""

_CACHED_CHARS = 24


@dataclass(frozen=True, slots=True)
class Style:
    """How words look. `size` is in pixels; the colour behind them is part of the sprite."""

    size: int
    colour: Colour
    background: Colour
    weight: Weight = "Regular"

    @property
    def height(self) -> int:
        """Height of a line in pixels."""
        return round(self.size * 1.26)


def lines(text: str, style: Style, width: int, limit: int = 10_000) -> Iterator[list[tuple[int, str]]]:
    """`text` in lines of at most `width` pixels, each a list of (x, word). After `limit` lines it ends with "…".

    Wider words are broken. Characters that cannot be shown become U+FFFD.
    """
    space = _width(" ", style.size, style.weight)
    line: list[tuple[int, str]] = []
    x, count = 0.0, 1
    for word in _pieces(text, style, width):
        advance = _width(word, style.size, style.weight)
        if line and x + advance > width:
            if count == limit:
                end = _width("…", style.size, style.weight)
                while line and x - space + end > width:
                    x = line.pop()[0]
                yield [*line, (round(max(0.0, x - space)), "…")]
                return
            yield line
            line, x, count = [], 0.0, count + 1
        line.append((round(x), word))
        x += advance + space
    if line:
        yield line


def text_width(text: str, style: Style) -> int:
    """Width of `text` on one line, in pixels."""
    words = [_shown(word) for word in text.split()]
    space = _width(" ", style.size, style.weight)
    return round(sum(_width(word, style.size, style.weight) for word in words) + space * max(0, len(words) - 1))


def word_sprite(word: str, style: Style) -> Pixels:
    """A word, uint8 [style.height, its width, 3]."""

    def draw() -> Pixels:
        font = _font(style.size, style.weight)
        width = max(1, round(_width(word, style.size, style.weight)))
        image = Image.new("RGB", (width, style.height), style.background)
        ImageDraw.Draw(image).text((0, round(style.size * 0.96)), word, style.colour, font, anchor="ls")
        return np.array(image)

    if len(word) > _CACHED_CHARS:
        return draw()
    return SPRITES.get((word, style), draw)


def _pieces(text: str, style: Style, width: int) -> Iterator[str]:
    for word in text.split():
        word = _shown(word)
        if _width(word, style.size, style.weight) <= width:
            yield word
            continue
        piece = ""
        for character in word:
            if piece and _width(piece + character, style.size, style.weight) > width:
                yield piece
                piece = ""
            piece += character
        yield piece


def _shown(word: str) -> str:
    if word.isprintable():
        return word
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in word)


def _width(word: str, size: int, weight: Weight) -> float:
    if len(word) > _CACHED_CHARS:
        return _font(size, weight).getlength(word)
    return _short_width(word, size, weight)


@functools.lru_cache(maxsize=32_768)
def _short_width(word: str, size: int, weight: Weight) -> float:
    return _font(size, weight).getlength(word)


@functools.lru_cache(maxsize=32)
def _font(size: int, weight: Weight) -> ImageFont.FreeTypeFont:
    path = resources.files("font_source_sans_pro") / "files" / f"SourceSansPro-{weight}.ttf"
    with resources.as_file(path) as file:
        return ImageFont.truetype(file, size, layout_engine=ImageFont.Layout.BASIC)
