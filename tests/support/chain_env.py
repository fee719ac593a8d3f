"""An env whose state is a hash over all that it executed since its reset: one step more or less changes it."""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import replace

import numpy as np
from overworld import ActionSpec, End, Env, EnvSpec, Image, Observation, Transition

WORDS = ("a", "b", "wait", "task", "rule", "raise")
ENDS = {"task": End.TASK, "rule": End.RULE}
SPLITS = {"endless": 0, "four": 4}


def first(seed: int, split: str, task: int | None) -> str:
    """The state after a reset."""
    return _hash(f"{seed} {split} {task}")


def following(state: str, word: str) -> str:
    """The state after a word was executed."""
    return _hash(f"{state} {word}")


def reward(state: str) -> float:
    """What the step that led to the state earned."""
    return int(state[:2], 16) / 16


def pixels(state: str) -> np.ndarray:
    """The picture of a state, uint8 [2, 4, 3]."""
    return np.frombuffer(hashlib.sha256(state.encode()).digest()[:24], np.uint8).reshape(2, 4, 3)


class Chain(Env):
    """Ends at once by `task` and `rule`; fails by `raise`."""

    spec = EnvSpec(
        id="toy/Chain", task="Link.", success="by task", action=ActionSpec(WORDS), reward_max=16.0, splits=SPLITS
    )

    def reset(self, seed: int, split: str, task: int | None) -> Observation:
        self._state = first(seed, split, task)
        return self._look()

    def step(self, action: str) -> Transition:
        if action == "raise":
            raise RuntimeError("as asked")
        if action == "wait":
            time.sleep(0.01)
        self._state = following(self._state, action)
        end = ENDS.get(action)
        return Transition(self._look(), reward(self._state), end, None if end is None else end is End.TASK)

    def _look(self) -> Observation:
        canvas = self.canvas("view", 2, 4)
        canvas[...] = pixels(self._state)
        return Observation((self._state, Image("view", canvas)))


class FrailChain(Chain):
    """Whose worker dies by `crash`."""

    spec = replace(Chain.spec, id="toy/FrailChain", action=ActionSpec((*WORDS, "crash")))

    def step(self, action: str) -> Transition:
        if action == "crash":
            os._exit(1)
        return super().step(action)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


CHAIN = f"{__name__}:Chain"
FRAIL_CHAIN = f"{__name__}:FrailChain"
