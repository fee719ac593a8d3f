"""Blank frames, the control of an evaluation: what an agent still achieves that sees nothing."""

from __future__ import annotations

import functools

import numpy as np

from overworld.authoring.env import Image, Observation
from overworld.contract.frames import pixels_hash
from overworld.evaluation.episodes import ImageRecord

BLANK_FRAMES = "blank_frames"
"""The word for it in `Header.substitution`."""

_WHITE = 255


def without_pictures(observation: Observation) -> Observation:
    """The same with white pictures of the same sizes."""
    parts = tuple(white(part) if isinstance(part, Image) else part for part in observation.parts)
    return Observation(parts, observation.admissible)


def white(image: Image) -> Image:
    """A white picture of the same name and size."""
    pixels = np.full_like(image.pixels, _WHITE)
    return Image(image.name, pixels, pixels_hash(pixels))


def white_record(image: ImageRecord) -> ImageRecord:
    """The record of the same."""
    return image.model_copy(update={"xxh64": _white_hash(image.shape)})


@functools.lru_cache(maxsize=256)
def _white_hash(shape: tuple[int, int, int]) -> str:
    return f"{pixels_hash(np.full(shape, _WHITE, np.uint8)):016x}"
