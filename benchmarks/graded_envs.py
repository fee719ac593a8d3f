"""Five small envs of graded difficulty, for `overworld audit --learn` to tell apart.

Coin   Unlearnable: the picture shows the last toss, the answer is the next one.
Safe   Solvable blind, by one fixed sequence; the picture is of no use.
Fork   Blind gets three quarters: the way to the fork is always the same, which road to take stands on the sign.
Sign   Only by looking, and easy: one arrow, one turn.
Doors  Only by looking, and harder: three rooms in a row, in each the door that has the colour of the key.
"""

from __future__ import annotations

import random

import numpy as np
from overworld import ActionSpec, End, Env, EnvSpec, Image, Observation, Transition
from PIL import Image as PillowImage
from PIL import ImageDraw

SIDE = 64  # pixels
_RED, _GREEN, _BLUE, _GOLD = (214, 62, 58), (66, 160, 84), (62, 104, 206), (236, 188, 62)
_SKY, _GRASS, _ROAD, _WOOD, _STEEL = (168, 208, 236), (116, 168, 88), (202, 192, 172), (134, 94, 58), (120, 128, 138)


class Drawn(Env):
    """An env with one picture, drawn with Pillow, and chance of its own. At the end a frame says how it went."""

    def reset(self, seed: int, split: str, task: int | None) -> Observation:
        """Starts an episode that depends on the seed alone."""
        self._chance = random.Random(seed)
        self._won: bool | None = None
        self._begin()
        return self._look()

    def _begin(self) -> None:
        raise NotImplementedError

    def _draw(self, pen: ImageDraw.ImageDraw) -> None:
        raise NotImplementedError

    def _look(self) -> Observation:
        picture = PillowImage.new("RGB", (SIDE, SIDE), _SKY)
        pen = ImageDraw.Draw(picture)
        self._draw(pen)
        if self._won is not None:
            pen.rectangle((0, 0, SIDE - 1, SIDE - 1), outline=_GREEN if self._won else _RED, width=4)
        canvas = self.canvas("view", SIDE, SIDE)
        canvas[...] = np.asarray(picture)
        return Observation((Image("view", canvas),))

    def _end(self, reward: float, success: bool) -> Transition:
        self._won = success
        return Transition(self._look(), reward, End.TASK, success)


class Coin(Drawn):
    """Says how the coin will fall, having seen how it fell the last time."""

    spec = EnvSpec(
        id="graded/Coin",
        task="The picture shows how the coin fell the last time. How will it fall next?",
        success="The coin fell as you said.",
        action=ActionSpec(("heads", "tails")),
        reward_max=1.0,
        max_turns=300,
    )

    def _begin(self) -> None:
        self._shown, self._next = self._chance.choices(self.spec.action.vocabulary, k=2)

    def step(self, action: str) -> Transition:
        """1 if the coin falls so."""
        won = action == self._next
        self._shown = self._next
        return self._end(float(won), won)

    def _draw(self, pen: ImageDraw.ImageDraw) -> None:
        pen.ellipse((8, 8, 55, 55), fill=_GOLD, outline=_WOOD, width=3)
        if self._shown == "heads":
            pen.ellipse((24, 16, 40, 34), fill=_WOOD)
            pen.pieslice((16, 34, 48, 66), 180, 360, fill=_WOOD)
        else:
            pen.polygon(((32, 16), (46, 44), (18, 44)), fill=_WOOD)


class Safe(Drawn):
    """Opens a safe: five turns of the knob, which are always the same. The dial shows where it happens to stand."""

    spec = EnvSpec(
        id="graded/Safe",
        task="Open the safe.",
        success="All five actions were the right ones.",
        action=ActionSpec(("left", "right", "push")),
        reward_max=0.2,
        max_turns=300,
    )
    _combination = ("left", "push", "right", "right", "push")

    def _begin(self) -> None:
        self._turn = self._right = 0

    def step(self, action: str) -> Transition:
        """0.2 for each action that is the right one in its turn."""
        right = action == self._combination[self._turn]
        self._turn += 1
        self._right += right
        reward = 0.2 * right
        if self._turn == len(self._combination):
            return self._end(reward, self._right == len(self._combination))
        return Transition(self._look(), reward)

    def _draw(self, pen: ImageDraw.ImageDraw) -> None:
        pen.rectangle((0, 0, SIDE, SIDE), fill=_STEEL)
        pen.ellipse((8, 8, 55, 55), fill=(226, 228, 230), outline=(60, 64, 70), width=3)
        angle = self._chance.randrange(360)
        pen.pieslice((12, 12, 51, 51), angle - 12, angle + 12, fill=_RED)
        pen.ellipse((26, 26, 37, 37), fill=(60, 64, 70))


class Fork(Drawn):
    """Walks three steps to a fork and takes the road that the sign there names. Who leaves the road has lost."""

    spec = EnvSpec(
        id="graded/Fork",
        task="Walk ahead to the fork, then take the road that the sign points to.",
        success="You took the right road.",
        action=ActionSpec(("ahead", "left", "right")),
        reward_max=0.5,
        max_turns=300,
    )
    _steps = 3

    def _begin(self) -> None:
        self._walked = 0
        self._way = self._chance.choice(("left", "right"))
        self._cloud = self._chance.randrange(4, 44), self._chance.randrange(3, 8)

    def step(self, action: str) -> Transition:
        """0.5 for reaching the fork, 0.5 for the right road."""
        if self._walked == self._steps:
            won = action == self._way
            return self._end(0.5 * won, won)
        if action != "ahead":
            return self._end(0.0, False)
        self._walked += 1
        return Transition(self._look(), 0.5 * (self._walked == self._steps))

    def _draw(self, pen: ImageDraw.ImageDraw) -> None:
        x, y = self._cloud
        pen.ellipse((x, y, x + 15, y + 6), fill=(244, 246, 248))
        pen.rectangle((0, 28, SIDE, SIDE), fill=_GRASS)
        if self._walked == self._steps:
            pen.polygon(((22, 63), (41, 63), (63, 34), (52, 30), (32, 48), (11, 30), (0, 34)), fill=_ROAD)
            _signpost(pen, 32, 20, self._way)
        else:
            width = 6 + 3 * self._walked
            pen.polygon(((10, 63), (53, 63), (32 + width, 28), (31 - width, 28)), fill=_ROAD)


class Sign(Drawn):
    """Goes where an arrow points."""

    spec = EnvSpec(
        id="graded/Sign",
        task="Go where the sign points.",
        success="You went there.",
        action=ActionSpec(("left", "right", "up")),
        reward_max=1.0,
        max_turns=300,
    )

    def _begin(self) -> None:
        self._way = self._chance.choice(self.spec.action.vocabulary)
        self._place = self._chance.randrange(16, 48), self._chance.randrange(18, 34)

    def step(self, action: str) -> Transition:
        """1 for the right way."""
        won = action == self._way
        return self._end(float(won), won)

    def _draw(self, pen: ImageDraw.ImageDraw) -> None:
        pen.rectangle((0, 44, SIDE, SIDE), fill=_GRASS)
        _signpost(pen, *self._place, self._way)


class Doors(Drawn):
    """Three rooms in a row, each with three doors, of which the one in the colour of the key leads on."""

    spec = EnvSpec(
        id="graded/Doors",
        task="In each room, take the door that has the colour of the key.",
        success="You passed all three rooms.",
        action=ActionSpec(("left door", "middle door", "right door")),
        reward_max=1.0,
        max_turns=300,
    )
    _rooms = 3

    def _begin(self) -> None:
        self._passed = 0
        self._enter()

    def _enter(self) -> None:
        self._doors = self._chance.sample((_RED, _GREEN, _BLUE), 3)
        self._key = self._chance.choice(self._doors)

    def step(self, action: str) -> Transition:
        """1 for the last door, if all were right."""
        chosen = self._doors[self.spec.action.vocabulary.index(action)]
        if chosen != self._key:
            return self._end(0.0, False)
        self._passed += 1
        if self._passed == self._rooms:
            return self._end(1.0, True)
        self._enter()
        return Transition(self._look(), 0.0)

    def _draw(self, pen: ImageDraw.ImageDraw) -> None:
        pen.rectangle((0, 0, SIDE, SIDE), fill=(236, 228, 214))
        pen.rectangle((0, 46, SIDE, SIDE), fill=_WOOD)
        for place, colour in enumerate(self._doors):
            left = 4 + 20 * place
            pen.rectangle((left, 10, left + 15, 45), fill=colour)
            pen.ellipse((left + 11, 28, left + 13, 30), fill=_GOLD)
        pen.ellipse((16, 49, 28, 61), fill=self._key)
        pen.ellipse((20, 53, 24, 57), fill=_WOOD)
        pen.rectangle((28, 53, 48, 57), fill=self._key)
        pen.rectangle((43, 57, 47, 61), fill=self._key)


def _signpost(pen: ImageDraw.ImageDraw, x: int, y: int, way: str) -> None:
    """A post with an arrow around (x, y)."""
    pen.rectangle((x - 1, y, x + 1, y + 26), fill=_WOOD)
    arrow = [(-13, 0), (-3, -9), (-3, -4), (12, -4), (12, 4), (-3, 4), (-3, 9)]
    if way == "right":
        arrow = [(-across, down) for across, down in arrow]
    elif way == "up":
        arrow = [(down, across) for across, down in arrow]
    pen.polygon([(x + across, y + down) for across, down in arrow], fill=_RED)
