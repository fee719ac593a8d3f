"""Pictures of episodes: side by side, as thumbnails for film strips, as animations."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import PIL.Image

from overworld.authoring.env import Image, Pixels

_GIF_MILLISECONDS = 150
_LAST_MILLISECONDS = 1500
_SIDES = (160, 128, 96, 72, 48)
_QUALITY = 80


def side_by_side(images: Sequence[Image]) -> Pixels:
    """One RGB picture of all, uint8 [height, width, 3], on white."""
    height = max(image.pixels.shape[0] for image in images)
    parts = []
    for image in images:
        part = np.full((height, image.pixels.shape[1], 3), 255, np.uint8)
        part[: image.pixels.shape[0]] = image.pixels
        parts.append(part)
    return np.concatenate(parts, axis=1)


def write_gif(frames: Iterable[Pixels], path: Path) -> None:
    """Writes an animation of pictures of one size. Raises ValueError if there are none, OSError."""
    pictures = [PIL.Image.fromarray(frame) for frame in frames]
    if not pictures:
        raise ValueError("there are no pictures to write: the env shows none")
    durations = [_GIF_MILLISECONDS] * (len(pictures) - 1) + [_LAST_MILLISECONDS]
    pictures[0].save(path, "GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0)


def spread(count: int, most: int) -> list[int]:
    """At most `most` of the numbers below `count`, evenly spread: the first and the last among them, or the middle."""
    if count <= most:
        return list(range(count))
    if most < 2:
        return [count // 2] * most
    return [round(index * (count - 1) / (most - 1)) for index in range(most)]


def thumbnails(pictures: Iterable[Pixels], max_bytes: int) -> list[str]:
    """Data URLs of WebP pictures that take at most `max_bytes` together; as large as that allows.

    Where not even the smallest do, the last ones are empty.
    """
    pictures = list(pictures)
    urls: list[str] = []
    for side in _SIDES:
        urls = [_data_url(picture, side) for picture in pictures]
        if sum(map(len, urls)) <= max_bytes:
            return urls
    left = max_bytes
    for index, url in enumerate(urls):
        left -= len(url)
        if left < 0:
            urls[index] = ""
    return urls


def _data_url(picture: Pixels, side: int) -> str:
    image = PIL.Image.fromarray(picture)
    image.thumbnail((side * 2, side), PIL.Image.Resampling.BOX)
    data = io.BytesIO()
    image.save(data, "WEBP", quality=_QUALITY, method=4)
    return "data:image/webp;base64," + base64.b64encode(data.getvalue()).decode()
