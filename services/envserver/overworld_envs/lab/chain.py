"""Chain: a long way with one reward at its end, which only those learn who can tell which steps led there."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from overworld.authoring.env import ActionSpec, EnvSpec, Expert, Observation, Options, Transition
from pydantic import Field

from overworld_envs.drawing import Pen
from overworld_envs.lab.scene import COLOURS, PROVENANCE, Scene, SceneOptions

_KEYS = ("left", "right")
_DIGITS = [*COLOURS.values(), (90, 90, 90), (0, 0, 0)]
"""Each digit has a colour of its own, since small models do not tell shapes apart."""


class ChainOptions(SceneOptions):
    """Options of Chain."""

    length: int = Field(default=20, ge=2, le=99, description="steps from the start to the end")
    colours: int = Field(default=4, ge=2, le=8, description="colours of the sign")
    reward_scale: float = Field(default=1.0, gt=0, le=1000, description="the reward at the end")
    max_turns: int = Field(
        default=120, ge=1, le=100_000, description="turns after which the host ends an episode (TIME_LIMIT)"
    )


class Chain(Scene):
    """The right key for the colour of the sign leads one step on, the wrong one a step back.

    Every other colour wants the same key. The sign has a new colour in each turn, so no fixed sequence of keys does
    better than chance.
    """

    options_model: ClassVar[type[Options]] = ChainOptions
    options: ChainOptions
    spec = EnvSpec(
        id="lab/Chain",
        task=(
            "The picture shows a coloured sign and, below it, how far you have come. One of the two keys is right for "
            "the colour of the sign, always the same one: it takes you a step on, the other one a step back. Find out "
            "which, and reach the end."
        ),
        success="The end of the chain was reached.",
        action=ActionSpec(_KEYS),
        reward_min=0.0,
        reward_max=1.0,
        max_turns=120,
        has_expert=True,
        provenance=PROVENANCE,
    )

    _position = 0
    _colour = 0

    def __init__(self, options: Options | None = None) -> None:
        super().__init__(options)
        self.spec = dataclasses.replace(type(self).spec, reward_max=self.options.reward_scale)

    def reset(self, seed: int, split: str, task: int | None) -> Observation:
        """The chain begins at 0."""
        self._random.seed(seed)
        self._position = 0
        self._turn_sign()
        return self.observe()

    def step(self, action: str) -> Transition:
        """Takes a step on or back."""
        self._position = max(self._position + (1 if action == self._right_key else -1), 0)
        if self._position == self.options.length:
            return self.transition(self.options.reward_scale, success=True)
        self._turn_sign()
        return self.transition()

    def expert(self) -> Expert:
        """Knows the keys."""
        name = list(COLOURS)[self._colour]
        return Expert(self._right_key, f"The sign is {name} and the position is {self._position}.")

    def draw(self, pen: Pen, size: int) -> None:
        """The sign, and the position in two digits."""
        pen.disc(0.5 * size, 0.27 * size, 0.2 * size, list(COLOURS.values())[self._colour])
        for place, digit in enumerate(f"{self._position:02}"):
            left = (0.14 + 0.4 * place) * size
            pen.symbol(digit, (left, 0.56 * size, left + 0.32 * size, 0.94 * size), _DIGITS[int(digit)])

    @property
    def _right_key(self) -> str:
        return _KEYS[self._colour % 2]

    def _turn_sign(self) -> None:
        self._colour = self._random.randrange(self.options.colours)
