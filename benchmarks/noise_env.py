"""An env that shows noise: it costs what writing frames costs, plus as much CPU time as a simulator takes."""

from __future__ import annotations

import asyncio
import time
from typing import Any, ClassVar

import gymnasium
import numpy as np
from noise import PICTURES, bank, spin
from numpy.typing import NDArray
from overworld import ActionSpec, Env, EnvSpec, Image, Observation, Options, Transition
from pydantic import Field


class NoiseOptions(Options):
    """Options of `Noise`."""

    height: int = Field(default=224, ge=1, le=2048)
    width: int = Field(default=224, ge=1, le=2048)
    cost_us: int = Field(default=0, ge=0, description="CPU time of a step in microseconds")
    max_turns: int = 100_000


class Noise(Env):
    """Shows one of a few random pictures after the other."""

    options_model: ClassVar[type[Options]] = NoiseOptions
    spec = EnvSpec(id="bench/Noise", task="Look.", success="never", action=ActionSpec(("look",)))

    def __init__(self, options: NoiseOptions) -> None:
        super().__init__(options)
        self._size = options.height, options.width
        self._cost = options.cost_us * 1e-6
        self._bank = bank(*self._size)
        self._turn = 0

    def reset(self, seed: int, split: str, task: int | None) -> Observation:
        self._turn = seed
        return self._look()

    def step(self, action: Any) -> Transition:
        self._turn += 1
        spin(self._cost)
        return Transition(self._look(), 0.0)

    def _look(self) -> Observation:
        canvas = self.canvas("view", *self._size)
        canvas[...] = self._bank[self._turn % PICTURES]
        return Observation((Image("view", canvas),))


class WaitingOptions(NoiseOptions):
    """Options of the noise that waits."""

    seconds: float = Field(default=1.0, ge=0, description="how long a step waits")


class WaitingNoise(Noise):
    """Each step waits before it shows its picture. For threads."""

    options_model: ClassVar[type[Options]] = WaitingOptions
    options: WaitingOptions
    thread_safe = True
    spec = EnvSpec(id="bench/WaitingNoise", task="Look.", success="never", action=ActionSpec(("look",)))

    def step(self, action: Any) -> Transition:
        time.sleep(self.options.seconds)
        return super().step(action)


class AsyncNoise(WaitingNoise):
    """The same for an event loop."""

    spec = EnvSpec(id="bench/AsyncNoise", task="Look.", success="never", action=ActionSpec(("look",)))

    async def step(self, action: Any) -> Transition:  # type: ignore[override]  # WaitingNoise's is not
        await asyncio.sleep(self.options.seconds)
        return Noise.step(self, action)


class RecordedOptions(Options):
    """Options of `Recorded`."""

    file: str = Field(default="", description="frames as NumPy saves them, uint8 [frames, height, width, channels]")
    max_turns: int = 100_000


class Recorded(Env):
    """Shows the frames of a file, one after the other; the seed says where it begins."""

    options_model: ClassVar[type[Options]] = RecordedOptions
    spec = EnvSpec(id="bench/Recorded", task="Look.", success="never", action=ActionSpec(("look",)))

    def __init__(self, options: RecordedOptions) -> None:
        super().__init__(options)
        self._frames = np.load(options.file)
        self._turn = 0

    def reset(self, seed: int, split: str, task: int | None) -> Observation:
        self._turn = seed
        return self._look()

    def step(self, action: Any) -> Transition:
        self._turn += 1
        return Transition(self._look(), 0.0)

    def _look(self) -> Observation:
        frame = self._frames[self._turn % len(self._frames)]
        canvas = self.canvas("view", *frame.shape[:2])
        canvas[...] = frame
        return Observation((Image("view", canvas),))


class GymNoise(gymnasium.Env[NDArray[np.uint8], int]):
    """The same for Gymnasium."""

    def __init__(self, height: int, width: int, cost_us: int) -> None:
        self.observation_space = gymnasium.spaces.Box(0, 255, (height, width, 3), np.uint8)
        self.action_space = gymnasium.spaces.Discrete(1)  # type: ignore[assignment]
        self._cost = cost_us * 1e-6
        self._bank = bank(height, width)
        self._turn = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self._turn = seed or 0
        return self._bank[self._turn % PICTURES].copy(), {}

    def step(self, action: int) -> Any:
        self._turn += 1
        spin(self._cost)
        return self._bank[self._turn % PICTURES].copy(), 0.0, False, False, {}
