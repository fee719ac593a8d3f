"""What the four games share: options, a square picture, the episode's return, and provenance."""

from __future__ import annotations

import random
from typing import ClassVar

import numpy as np
import PIL
from overworld.authoring.env import End, Env, Image, Observation, Options, Pixels, Transition
from PIL import features
from pydantic import Field

PROVENANCE = {
    "rules": "gym_cards 0.0.1, RL4VLM b989b57",
    "renderer": "overworld cards 1",
    "pillow": f"{PIL.__version__}, FreeType {features.version('freetype2')}",
}
"""Fonts and smooth edges come from Pillow, so pixels may differ between its versions."""


class GameOptions(Options):
    """Options of every game."""

    size: int = Field(default=300, ge=32, le=2048, description="height and width of the picture in pixels")
    colours: bool = Field(
        default=False, description="give each digit, rank and symbol a colour of its own, for agents that see little"
    )


class Game(Env):
    """A game with one picture, "view", which is drawn in full at a reset and then only where it changes."""

    options_model: ClassVar[type[Options]] = GameOptions
    options: GameOptions

    def __init__(self, options: Options | None = None) -> None:
        super().__init__(options)
        self._random = random.Random()  # never the global one, which others may draw from
        self._view = Image("view", np.zeros((1, 1, 3), np.uint8))  # the canvas comes with the first reset
        self._return = 0.0

    @property
    def picture(self) -> Pixels:
        """The episode's canvas, uint8 [size, size, 3]."""
        return self._view.pixels

    def start(self) -> None:
        """Begins an episode, with a canvas on which everything is still to be drawn."""
        self._view = Image("view", self.canvas("view", self.options.size, self.options.size))
        self._return = 0.0

    def text(self) -> str:
        """What the observation says besides the picture; never what only the picture should show."""
        return ""

    def observe(self) -> Observation:
        """The picture, then the text."""
        text = self.text()
        return Observation((self._view, text) if text else (self._view,))

    def transition(self, reward: float, end: End | None = None, *, success: bool = False) -> Transition:
        """The outcome of a move. The metric is in every turn, since the host may end an episode after any of them."""
        self._return += reward
        metrics = {"positive_return": float(self._return > 0)}
        return Transition(self.observe(), reward, end, success if end is not None else None, metrics)
