"""Reach: continuous actions, as tensors of two numbers."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from overworld.authoring.env import ActionSpec, EnvSpec, Expert, Observation, Options, Transition
from pydantic import Field

from overworld_envs.drawing import Pen
from overworld_envs.lab.scene import COLOURS, PROVENANCE, Scene, SceneOptions

_STRIDE = 0.25
_RADIUS = 0.08
_LEAST_DISTANCE = 0.4
_MARGIN = 0.1
_GRID = (225, 225, 225)


class ReachOptions(SceneOptions):
    """Options of Reach."""

    max_turns: int = Field(
        default=12, ge=1, le=100_000, description="turns after which the host ends an episode (TIME_LIMIT)"
    )


class Reach(Scene):
    """A hand on a table of side 1 moves by a quarter of the action's two numbers, right and up, to a target.

    A turn earns the share of the first distance by which it came closer, so that the rewards of a whole way add up to
    nearly 1.
    """

    options_model: ClassVar[type[Options]] = ReachOptions
    options: ReachOptions
    spec = EnvSpec(
        id="lab/Reach",
        task=(
            "The picture shows a table with a blue hand and a red target, from above. An action is two numbers: how "
            "far the hand moves to the right and how far up, where 1 is a quarter of the table. Reach the target."
        ),
        success="The hand reached the target.",
        action=ActionSpec(low=np.full(2, -1.0, np.float32), high=np.full(2, 1.0, np.float32)),
        reward_min=-1.0,
        reward_max=1.0,
        max_turns=12,
        has_expert=True,
        provenance=PROVENANCE,
    )

    _hand = (0.0, 0.0)
    _target = (0.0, 0.0)
    _first_distance = 1.0

    def reset(self, seed: int, split: str, task: int | None) -> Observation:
        """Draws hand and target, some way from each other."""
        self._random.seed(seed)
        self._hand, self._target = self._draw_place(), self._draw_place()
        while self._distance < _LEAST_DISTANCE:
            self._target = self._draw_place()
        self._first_distance = self._distance
        return self.observe()

    def step(self, action: NDArray[Any]) -> Transition:
        """Moves the hand, which stays on the table."""
        before = self._distance
        x, y = (
            min(max(place + _STRIDE * float(move), 0.0), 1.0) for place, move in zip(self._hand, action, strict=True)
        )
        self._hand = x, y
        reward = (before - self._distance) / self._first_distance
        return self.transition(reward, success=True if self._distance <= _RADIUS else None)

    def expert(self) -> Expert:
        """Goes straight to the target, in words of two decimals."""
        right, up = (goal - place for goal, place in zip(self._target, self._hand, strict=True))
        longest = max(abs(right), abs(up)) / _STRIDE
        moves = (round(way / _STRIDE / max(longest, 1.0), 2) for way in (right, up))
        thoughts = (
            f"The target is {abs(right):.2f} to the {'right' if right > 0 else 'left'} of the hand and "
            f"{abs(up):.2f} {'above' if up > 0 else 'below'} it."
        )
        return Expert(" ".join(f"{move:g}" for move in moves), thoughts)

    def draw(self, pen: Pen, size: int) -> None:
        """The table with lines a quarter apart, the target and the hand on it."""
        for line in range(1, 4):
            at = line * _STRIDE * size
            pen.line((at, 0), (at, size), 0.008 * size, _GRID)
            pen.line((0, at), (size, at), 0.008 * size, _GRID)
        for (x, y), colour in ((self._target, COLOURS["red"]), (self._hand, COLOURS["blue"])):
            pen.disc(x * size, (1 - y) * size, _RADIUS * size, colour)

    @property
    def _distance(self) -> float:
        return math.dist(self._hand, self._target)

    def _draw_place(self) -> tuple[float, float]:
        return self._random.uniform(_MARGIN, 1 - _MARGIN), self._random.uniform(_MARGIN, 1 - _MARGIN)
