"""Memory: what was shown at the start decides at the end, and nothing in between repeats it."""

from __future__ import annotations

from typing import ClassVar

from overworld.authoring.env import ActionSpec, EnvSpec, Expert, Observation, Options, Transition
from pydantic import Field

from overworld_envs.drawing import Pen
from overworld_envs.lab.scene import COLOURS, PROVENANCE, Scene, SceneOptions

_WALL = (200, 200, 200)
_FLOOR = (140, 140, 140)


class MemoryOptions(SceneOptions):
    """Options of Memory."""

    delay: int = Field(default=2, ge=0, le=60, description="pictures of the empty corridor between light and doors")
    colours: int = Field(default=4, ge=2, le=8, description="colours of light and doors")
    max_turns: int = Field(
        default=20, ge=1, le=100_000, description="turns after which the host ends an episode (TIME_LIMIT)"
    )


class Memory(Scene):
    """A light at the start of a corridor has the colour of one of the two doors at its end.

    An agent that sees only the current picture is right half of the time. All pictures of the corridor are the same.
    """

    options_model: ClassVar[type[Options]] = MemoryOptions
    options: MemoryOptions
    spec = EnvSpec(
        id="lab/Memory",
        task=(
            "At the start of a corridor there is a coloured light. Go forward until you stand before two doors, then "
            "take the one, left or right, that has the colour of the light."
        ),
        success="The door of the light's colour was taken.",
        action=ActionSpec(("forward", "left", "right")),
        reward_min=0.0,
        reward_max=1.0,
        max_turns=20,
        has_expert=True,
        provenance=PROVENANCE,
    )

    _doors = ("", "")
    _light = ""
    _place = 0

    def reset(self, seed: int, split: str, task: int | None) -> Observation:
        """Draws the doors, and which of them has the light's colour."""
        self._random.seed(seed)
        left, right = self._random.sample(list(COLOURS)[: self.options.colours], 2)
        self._doors = (left, right)
        self._light = self._random.choice(self._doors)
        self._place = 0
        return self.observe()

    def step(self, action: str) -> Transition:
        """Walks on, or takes a door; elsewhere there is nothing to the left and right."""
        if self._at_doors and action != "forward":
            success = self._doors[action == "right"] == self._light
            return self.transition(float(success), success=success)
        if action == "forward" and not self._at_doors:
            self._place += 1
        return self.transition()

    def expert(self) -> Expert:
        """Remembers the light."""
        if self._at_doors:
            left, right = self._doors
            action = "left" if left == self._light else "right"
            return Expert(action, f"The light was {self._light}, the doors are {left} and {right}.")
        seen = f"The light is {self._light}." if self._place == 0 else f"The light was {self._light}."
        return Expert("forward", seen)

    def draw(self, pen: Pen, size: int) -> None:
        """The corridor, with the light at its start and the doors at its end."""
        pen.panel((0, 0, size, 0.8 * size), 0, _WALL)
        pen.panel((0, 0.8 * size, size, size), 0, _FLOOR)
        if self._at_doors:
            for door, left in zip(self._doors, (0.1, 0.55), strict=True):
                pen.panel((left * size, 0.2 * size, (left + 0.35) * size, 0.8 * size), 0.02 * size, COLOURS[door])
        elif self._place == 0:
            pen.disc(0.5 * size, 0.4 * size, 0.25 * size, COLOURS[self._light])

    @property
    def _at_doors(self) -> bool:
        return self._place > self.options.delay
