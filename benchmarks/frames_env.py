"""An env for runs of the trainer: each turn shows a frame that was never seen before and says which word to reply."""

from __future__ import annotations

import random
import time
from typing import Any, ClassVar

import numpy as np
from overworld import ActionSpec, Env, EnvSpec, Expert, Image, Observation, Options, Transition
from pydantic import Field

WORDS = ("left", "right", "ahead")


class FramesOptions(Options):
    """Options of `Frames`."""

    size: int = Field(default=112, ge=28, le=2048, description="height and width of a frame in pixels")
    digits: int = Field(default=16, ge=0, description="length of the expert's thoughts, each digit a token")
    delay_ms: int = Field(default=0, ge=0, description="how long a step takes, without using the CPU")
    max_turns: int = 100_000


class Frames(Env):
    """A reward for the word that the text asks for. The expert thinks in random digits, so that replies have a length
    to be chosen and nothing in them is learnt but the form.
    """

    options_model: ClassVar[type[Options]] = FramesOptions
    options: FramesOptions
    spec = EnvSpec(
        id="bench/Frames",
        task="Do as the text says.",
        success="never",
        action=ActionSpec(WORDS),
        reward_max=1.0,
        has_expert=True,
    )

    def reset(self, seed: int, split: str, task: int | None) -> Observation:
        self._numpy = np.random.default_rng(seed)
        self._random = random.Random(seed)
        return self._look()

    def step(self, action: Any) -> Transition:
        time.sleep(self.options.delay_ms / 1000)
        reward = float(action == self._word)
        return Transition(self._look(), reward)

    def expert(self) -> Expert:
        digits = "".join(self._random.choices("0123456789", k=self.options.digits))
        return Expert(self._word, digits)

    def _look(self) -> Observation:
        self._word = self._random.choice(WORDS)
        size = self.options.size
        canvas = self.canvas("view", size, size)
        canvas[...] = self._numpy.integers(0, 256, (size, size, 3), np.uint8)
        return Observation((Image("view", canvas), f"Do: {self._word}"))


class SlowFrames(Frames):
    """Under a name of its own, so that a run can train in both."""

    spec = EnvSpec(
        id="bench/SlowFrames",
        task="Do as the text says.",
        success="never",
        action=ActionSpec(WORDS),
        reward_max=1.0,
        has_expert=True,
    )


ENVS = (f"{__name__}:Frames", f"{__name__}:SlowFrames")
