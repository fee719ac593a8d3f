"""Envs for tests of host and client: they count, wait, and misbehave on request."""

from __future__ import annotations

import os
import random
import time
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from overworld import ActionSpec, End, Env, EnvSpec, Expert, Image, Observation, Options, Transition
from pydantic import Field


class ToyOptions(Options):
    size: int = Field(default=32, ge=1, le=4096)
    second_image: bool = False
    broken: bool = False


class Toy(Env):
    """Counts up and down: 3 wins, -3 ends the episode. The picture shows the count and the episode's random number."""

    options_model = ToyOptions
    options: ToyOptions
    spec = EnvSpec(
        id="toy/Count",
        task="Count to three.",
        success="the count is three",
        action=ActionSpec(("up", "down", "crash", "hang", "raise", "slow", "big", "private")),
        reward_min=-1.0,
        reward_max=1.0,
        splits={"endless": 0, "four": 4},
        has_expert=True,
        provenance={"rules": os.environ.get("TOY_RULES", "toy 1")},
    )

    def __init__(self, options: ToyOptions) -> None:
        super().__init__(options)
        if options.broken:
            raise RuntimeError("this toy is broken")

    def reset(self, seed: int, split: str, task: int | None) -> Observation:
        self._count = 0
        self._rng = random.Random(f"{seed} {task}")
        self._chance = self._rng.randrange(100)
        return self._look()

    def step(self, action: str) -> Transition:
        if action == "crash":
            os._exit(3)
        if action == "hang":
            time.sleep(1000)
        if action == "raise":
            raise RuntimeError("boom")
        if action == "slow":
            time.sleep(0.3)
        if action == "big":
            return Transition(Observation((Image("big", np.zeros((5000, 5000, 3), np.uint8)),)), 0.0)
        self._count += {"up": 1, "down": -1}.get(action, 0)
        self._chance = self._rng.randrange(100)
        end = {3: End.TASK, -3: End.RULE}.get(self._count)
        look = self._look(private=action == "private")
        return Transition(
            look,
            {"up": 1.0, "down": -1.0}.get(action, 0.0),
            end,
            None if end is None else end is End.TASK,
            {"count": float(self._count)},
        )

    def expert(self) -> Expert:
        return Expert("up", f"The count is {self._count}.")

    def _look(self, private: bool = False) -> Observation:
        size = self.options.size
        canvas = np.empty((size, size, 3), np.uint8) if private else self.canvas("view", size, size)
        canvas[...] = self._chance
        canvas[0, 0] = self._count + 10
        parts: list[str | Image] = [Image("view", canvas), f"count {self._count}"]
        if self.options.second_image:
            parts.append(Image("small", np.full((size // 2 + 1, size, 3), self._chance, np.uint8)))
        return Observation(tuple(parts), tensors={"count": np.array(self._count, np.int64)})


class Painted(Toy):
    """Its pictures depend on the renderer, which a variable of the environment names; nothing else does."""

    spec = replace(
        Toy.spec,
        id="toy/Painted",
        pixels_reproducible="same machine",
        provenance={"rules": "painted 1", "renderer": os.environ.get("TOY_RENDERER", "brush")},
    )

    def _look(self, private: bool = False) -> Observation:
        look = super()._look(private)
        look.images[0].pixels[-1] = sum(self.spec.provenance["renderer"].encode()) % 256
        return look


class Commands(Env):
    """Free text; two commands are admissible at a time, and listed."""

    lists_admissible = True
    spec = EnvSpec(id="toy/Commands", task="Go.", success="never", action=ActionSpec(max_text_bytes=64))

    def reset(self, seed: int, split: str, task: int | None) -> Observation:
        self._turn = 0
        return self._look()

    def step(self, action: str) -> Transition:
        self._turn += 1
        return Transition(self._look(), 0.0)

    def _look(self) -> Observation:
        return Observation((), (f"go to shelf {self._turn}", f"go to shelf {self._turn}0"))


class Search(Env):
    """Free text that is not listed."""

    spec = EnvSpec(id="toy/Search", task="Search.", success="never", action=ActionSpec(max_text_bytes=64))

    def reset(self, seed: int, split: str, task: int | None) -> Observation:
        return Observation()

    def step(self, action: str) -> Transition:
        return Transition(Observation((action,)), 0.0)


class Reach(Env):
    """Tensor actions."""

    spec = EnvSpec(
        id="toy/Reach",
        task="Reach.",
        success="never",
        action=ActionSpec(low=np.zeros(2, np.float32), high=np.ones(2, np.float32)),
    )

    def reset(self, seed: int, split: str, task: int | None) -> Observation:
        return Observation()

    def step(self, action: NDArray[np.float32]) -> Transition:
        return Transition(Observation(), float(action.sum()))


class Slow(Env):
    """Each step takes 0.15 s. Without pictures: only texts tell two episodes apart."""

    spec = EnvSpec(id="toy/Slow", task="Wait.", success="never", action=ActionSpec(("wait", "crash", "print")))

    def reset(self, seed: int, split: str, task: int | None) -> Observation:
        self._seen = [os.getpid() if seed == 99 else 0]  # seed 99 makes an episode that cannot be repeated
        return Observation((f"{self._seen}",))

    def step(self, action: str) -> Transition:
        if action == "crash":
            os._exit(1)
        if action == "print":
            print("listening on nothing\n" * 20_000, flush=True)
        time.sleep(0.15)
        self._seen.append(len(self._seen))
        return Transition(Observation((f"{self._seen}",)), 0.0)


class GateOptions(Options):
    folder: str = ""


class Gated(Env):
    """Constructor and steps wait for files in a folder and are counted there, so that tests control them."""

    options_model = GateOptions
    options: GateOptions
    spec = EnvSpec(id="toy/Gated", task="Wait.", success="never", action=ActionSpec(("go", "crash")))

    def __init__(self, options: GateOptions) -> None:
        super().__init__(options)
        if options.folder:
            with open(f"{options.folder}/made", "a") as file:
                file.write("x")
            while os.path.exists(f"{options.folder}/hold"):
                time.sleep(0.01)
            if os.path.exists(f"{options.folder}/die"):
                os._exit(1)
            if os.path.exists(f"{options.folder}/refuse"):
                raise RuntimeError("not any more")

    def reset(self, seed: int, split: str, task: int | None) -> Observation:
        self._size = seed % 50 + 8
        self._turn = 0
        return self._look()

    def step(self, action: str) -> Transition:
        if action == "crash":
            os._exit(1)
        time.sleep(0.05)
        self._turn += 1
        return Transition(self._look(), 0.0)

    def _look(self) -> Observation:
        canvas = self.canvas("view", self._size, self._size)
        canvas[...] = self._turn
        return Observation((Image("view", canvas),))


GATED = f"{__name__}:Gated"
PAINTED = f"{__name__}:Painted"
SEARCH = f"{__name__}:Search"
SLOW = f"{__name__}:Slow"
TOY = f"{__name__}:Toy"
ENVS = tuple(f"{__name__}:{env.__name__}" for env in (Toy, Commands, Search, Reach, Slow, Gated))
