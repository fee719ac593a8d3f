"""An env with a bit of everything that the contract has, for the checker to look at."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from typing import Literal

import numpy as np
from overworld import ActionSpec, End, Env, EnvSpec, Expert, Image, Observation, Options, Transition
from pydantic import Field

_MOVES = {"go north": (-1, 0), "go south": (1, 0), "go west": (0, -1), "go east": (0, 1)}
_SIDE = 3
_MOST_MOVES = 12


class WalkOptions(Options):
    max_turns: int = Field(default=40, ge=1, le=1000)
    colour: Literal["red", "blue"] = "red"
    noisy: bool = False


class Walk(Env):
    """A walk on 3 x 3 cells to the far corner; at the border fewer moves are admissible."""

    options_model = WalkOptions
    options: WalkOptions
    spec = EnvSpec(
        id="checked/Walk",
        task="Walk to the corner.",
        success="The walker reached the corner.",
        action=ActionSpec((*_MOVES, "wait")),
        reward_min=-1.0,
        reward_max=2.0,
        splits={"endless": 0, "ten": 10},
        has_expert=True,
        provenance={"rules": "walk 1"},
    )

    def reset(self, seed: int, split: str, task: int | None) -> Observation:
        self._rng = random.Random(f"{seed} {split} {task}")
        self._place = (0, self._rng.randrange(2))
        self._moves = 0
        self._chance = self._rng.randrange(200)
        return self._look()

    def step(self, action: str) -> Transition:
        if action == "wait":
            self.wait()
        else:
            self._place = tuple(at + by for at, by in zip(self._place, _MOVES[action], strict=True))  # type: ignore[assignment]
        self._moves += 1
        self._chance = self._rng.randrange(200)
        won = self._place == (_SIDE - 1, _SIDE - 1)
        end = End.TASK if won else End.RULE if self._moves == _MOST_MOVES else None
        reward = 2.0 if won else -0.25
        return Transition(self._look(), reward, end, None if end is None else won, {"moves": float(self._moves)})

    def wait(self) -> None:
        """Takes no time here."""

    def expert(self) -> Expert:
        row, _ = self._place
        return Expert("go south" if row < _SIDE - 1 else "go east", f"The walker is at {self._place}.")

    def _look(self) -> Observation:
        row, column = self._place
        canvas = self.canvas("view", 4 * _SIDE, 4 * _SIDE)
        canvas[...] = self._chance
        canvas[4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = (255, 0, 0)
        inset = np.full((3, 5, 1), self._moves, np.uint8)
        free = [
            move for move, (down, right) in _MOVES.items() if 0 <= row + down < _SIDE and 0 <= column + right < _SIDE
        ]
        return Observation(
            (f"{self._moves} moves", Image("view", canvas), Image("inset", inset)),
            (*free, "wait"),
            {"place": np.array(self._place, np.int32)},
        )


class SlowWalk(Walk):
    """As Walk, but the first wait of an episode takes 0.25 s."""

    spec = replace(Walk.spec, id="checked/SlowWalk")

    def reset(self, seed: int, split: str, task: int | None) -> Observation:
        self._waited = False
        return super().reset(seed, split, task)

    def wait(self) -> None:
        if not self._waited:
            self._waited = True
            time.sleep(0.25)


SLOW_WALK = f"{__name__}:SlowWalk"
WALK = f"{__name__}:Walk"
