"""Product pictures from the operator's folder, or labelled placeholders."""

from __future__ import annotations

import colorsys
import logging
import re
import zlib
from pathlib import Path

import numpy as np
from overworld.authoring.env import Pixels
from PIL import Image, ImageDraw

from overworld_envs.webshop.catalogue.products import Product
from overworld_envs.webshop.frames.typeface import SPRITES, Style, lines, text_width, word_sprite

_logger = logging.getLogger(__name__)

_FILE = re.compile(r"[\w.+%,-]{1,200}\.(?:jpe?g|png|webp|gif)", re.ASCII | re.IGNORECASE)
_MAX_PIXELS = 40_000_000


class Pictures:
    """Pictures in `folder`, each named as the last part of its URL, e.g. "41abc.jpg"; placeholders if it is None."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def picture(self, product: Product, url: str, size: int) -> Pixels:
        """The picture at `url`, or the placeholder for `product`, uint8 [size, size, 3]."""
        name = url.rsplit("/", 1)[-1]
        if self._folder is not None and _FILE.fullmatch(name):
            path = self._folder / name
            return SPRITES.get(
                (path, size), lambda: _loaded(path, size) if path.is_file() else placeholder(product, size)
            )
        return placeholder(product, size)


def placeholder(product: Product, size: int) -> Pixels:
    """A coloured square with the product's kind on it, uint8 [size, size, 3]."""
    label = product.query or product.category

    def draw() -> Pixels:
        hue = zlib.crc32(label.encode()) % 360 / 360
        light, dark = (_colour(hue, saturation, value) for saturation, value in ((0.16, 0.97), (0.55, 0.45)))
        image = Image.new("RGB", (size, size), light)
        edge = max(1, size // 60)
        ImageDraw.Draw(image).rectangle((0, 0, size - 1, size - 1), outline=dark, width=edge)
        pixels = np.array(image)
        width = max(4, size - 6 * edge)
        styles = [Style(letters, dark, light) for letters in range(max(5, size // 6), 4, -1)]
        fitting = (one for one in styles if all(text_width(word, one) <= width for word in label.split()))
        style = next(fitting, styles[-1])
        rows = list(lines(label, style, width, limit=max(1, size // style.height - 1)))
        top = (size - style.height * len(rows)) // 2
        for row, words in enumerate(rows):
            left = (size - words[-1][0] - word_sprite(words[-1][1], style).shape[1]) // 2
            for x, word in words:
                sprite = word_sprite(word, style)[: max(0, size - top - row * style.height)]
                start = max(0, left + x)
                room = pixels[top + row * style.height :, start : start + sprite.shape[1]][: sprite.shape[0]]
                room[...] = sprite[: room.shape[0], : room.shape[1]]
        return pixels

    return SPRITES.get(("placeholder", label, size), draw)


def _loaded(path: Path, size: int) -> Pixels:
    """The picture in the middle of a white square; a grey cross and a warning if it cannot be read."""
    try:
        with Image.open(path, formats=("JPEG", "PNG", "WEBP", "GIF")) as image:
            if image.width * image.height > _MAX_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels are too many")
            image.draft("RGB", (size, size))
            small = image.convert("RGB")
            small.thumbnail((size, size))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        _logger.warning("%s cannot be shown as a picture: %s", path, error)
        return _cross(size)
    square = Image.new("RGB", (size, size), (255, 255, 255))
    square.paste(small, ((size - small.width) // 2, (size - small.height) // 2))
    return np.array(square)


def _cross(size: int) -> Pixels:
    image = Image.new("RGB", (size, size), (235, 235, 235))
    pen = ImageDraw.Draw(image)
    for line in ((0, 0, size, size), (0, size, size, 0)):
        pen.line(line, (180, 180, 180), max(1, size // 30))
    return np.array(image)


def _colour(hue: float, saturation: float, value: float) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)
