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
    delay_ms: int = Field(default=0, ge=0, description="how long a step takes, without using the CPU")
    max_turns: int = 100_000


class Frames(Env):
    """A reward for the word that the text asks for. The expert thinks in digits, each a token: always the same, so that
    the form of a reply is cloned within seconds and replies are of one length.
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
        return Expert(self._word, "0123456789012345")

    def _look(self) -> Observation:
        self._word = self._random.choice(WORDS)
        size = self.options.size
        canvas = self.canvas("view", size, size)
        canvas[...] = 255
        canvas[0] = self._numpy.integers(0, 256, (size, 3), np.uint8)
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
