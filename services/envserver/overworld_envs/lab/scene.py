"""What the three tasks share: a square picture that is drawn in full each turn, and colours with names."""

from __future__ import annotations

import random
from abc import abstractmethod
from typing import ClassVar

import PIL
from overworld.authoring.env import End, Env, Image, Observation, Options, Transition
from PIL import features
from pydantic import Field

from overworld_envs.drawing import Colour, Pen

PROVENANCE = {
    "rules": "overworld lab 1",
    "renderer": "overworld lab 1",
    "pillow": f"{PIL.__version__}, FreeType {features.version('freetype2')}",
}
"""Digits and smooth edges come from Pillow, so pixels may differ between its versions."""

COLOURS: dict[str, Colour] = {
    "red": (214, 39, 40), "blue": (31, 88, 180), "green": (44, 150, 44), "yellow": (240, 200, 0),
    "purple": (140, 60, 170), "orange": (255, 127, 14), "cyan": (23, 190, 207), "brown": (120, 72, 40),
}  # fmt: skip
"""Colours that a small model can tell apart."""


class SceneOptions(Options):
    """Options of every task."""

    size: int = Field(default=224, ge=32, le=1024, description="height and width of the picture in pixels")


class Scene(Env):
    """A task with one picture, "view", and no text."""

    options_model: ClassVar[type[Options]] = SceneOptions
    options: SceneOptions

    def __init__(self, options: Options | None = None) -> None:
        super().__init__(options)
        self._random = random.Random()  # never the global one, which others may draw from

    @abstractmethod
    def draw(self, pen: Pen, size: int) -> None:
        """Draws the state, lengths being in pixels of a picture of `size`."""

    def observe(self) -> Observation:
        """The picture of the state."""
        size = self.options.size
        pen = Pen(size, size, (255, 255, 255))
        self.draw(pen, size)
        view = self.canvas("view", size, size)
        view[...] = pen.pixels()
        return Observation((Image("view", view),))

    def transition(self, reward: float = 0.0, *, success: bool | None = None) -> Transition:
        """The outcome of an action. With `success` the task is over, well or badly."""
        return Transition(self.observe(), reward, None if success is None else End.TASK, success)
