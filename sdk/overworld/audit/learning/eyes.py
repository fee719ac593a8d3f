"""What the small learner sees of an observation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image as PillowImage
from torch import Tensor

from overworld.authoring.env import Image, Observation
from overworld.contract.frames import pixels_hash
from overworld.errors import EvaluationError

SIDE = 48
"""Pixels."""
_BLANK = 255
_KNOWN = 4096


class Eyes:
    """The pictures of this turn and of the one before, as RGB of 48 x 48 pixels: uint8 [2 * 3 * images, 48, 48].

    Two turns show what moves, and what was to be seen a turn ago. The images are those that the first observation
    names; one that is missing is blank. With `blank`, all are, always.

    Raises EvaluationError if the first observation has no image.
    """

    def __init__(self, first: Observation, *, blank: bool = False) -> None:
        self._names = [image.name for image in first.images]
        if not self._names:
            raise EvaluationError(
                "the first observation has no picture; --learn asks whether the picture matters, and needs one"
            )
        self._empty = torch.full((3, SIDE, SIDE), _BLANK, dtype=torch.uint8)
        self.channels = 2 * 3 * len(self._names)
        self._blank = self._empty.repeat(self.channels // 3, 1, 1) if blank else None
        self._known: dict[int, Tensor] = {}
        """Hash -> what it becomes: in many envs the same pictures come again and again."""

    def __call__(self, observation: Observation, last: Tensor | None) -> Tensor:
        """The view, given the one before, which is None at an episode's start: then this turn stands for it, too."""
        if self._blank is not None:
            return self._blank
        images = {image.name: image for image in observation.images}
        now = torch.cat([self._shrunk(images[name]) if name in images else self._empty for name in self._names])
        return torch.cat([now if last is None else last[self.channels // 2 :], now])

    def _shrunk(self, image: Image) -> Tensor:
        name = pixels_hash(image.pixels) if image.xxh64 is None else image.xxh64
        if len(self._known) >= _KNOWN:
            self._known.clear()
        if name not in self._known:
            self._known[name] = _shrunk(image)
        return self._known[name]


def stacked(views: Sequence[Tensor]) -> Tensor:
    """Views as one batch, uint8 [batch, channels, 48, 48]; the batch is 1 where all are one tensor, as blank ones are.

    A network gives the same for it, with the same gradients, since what it gives is broadcast.
    """
    return views[0][None] if all(view is views[0] for view in views) else torch.stack(list(views))


def _shrunk(image: Image) -> Tensor:
    """uint8 [3, 48, 48]: each pixel is the mean of the rectangle that it stands for."""
    picture = PillowImage.fromarray(image.pixels.squeeze(2) if image.pixels.shape[2] == 1 else image.pixels)
    small = picture.resize((SIDE, SIDE), PillowImage.Resampling.BOX).convert("RGB")
    return torch.from_numpy(np.array(small).transpose(2, 0, 1))
