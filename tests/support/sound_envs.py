"""Small envs in which nothing is wrong, for tests of the audit to plant defects in."""

from __future__ import annotations

import random

import numpy as np
from numpy.typing import NDArray
from overworld import ActionSpec, End, Env, EnvSpec, Expert, Image, Observation, Options, Transition
from pydantic import Field

MOVES = {"north": (-1, 0), "south": (1, 0), "west": (0, -1), "east": (0, 1)}
SIDE = 6
Place = tuple[int, int]


class MeadowOptions(Options):
    max_turns: int = Field(default=20, ge=1, le=1000)


class Meadow(Env):
    """A walk on a meadow to a flower; walker and flower are in the picture, and the seed puts them there."""

    options_model = MeadowOptions
    options: MeadowOptions
    spec = EnvSpec(
        id="sound/Meadow",
        task="Walk to the flower.",
        success="The walker stands on the flower.",
        action=ActionSpec(tuple(MOVES)),
        reward_min=-0.1,
        reward_max=1.0,
        has_expert=True,
    )
    walker: Place
    flower: Place
    moves: int

    def reset(self, seed: int, split: str, task: int | None) -> Observation:
        self.chance = random.Random(seed)
        self.begin()
        return self.look()

    def begin(self) -> None:
        places = [(row, column) for row in range(SIDE) for column in range(SIDE)]
        self.walker, self.flower = self.chance.sample(places, 2)
        self.moves = 0

    def step(self, action: str) -> Transition:
        self.moves += 1
        self.walk(action)
        won = self.walker == self.flower
        return Transition(
            self.look(),
            1.0 if won else -0.05,
            End.TASK if won else None,
            True if won else None,
            {"moves": float(self.moves)},
        )

    def walk(self, action: str) -> None:
        (row, column), (down, right) = self.walker, MOVES[action]
        self.walker = (min(max(row + down, 0), SIDE - 1), min(max(column + right, 0), SIDE - 1))

    def expert(self) -> Expert:
        down, right = self.flower[0] - self.walker[0], self.flower[1] - self.walker[1]
        move = "south" if down > 0 else "north" if down < 0 else "east" if right > 0 else "west"
        return Expert(move, f"The flower is {down} down and {right} right.")

    def look(self) -> Observation:
        return Observation((Image("view", self.draw()),))

    def draw(self) -> NDArray[np.uint8]:
        pixels = np.full((2 * SIDE, 2 * SIDE, 3), 60, np.uint8)
        for (row, column), colour in ((self.flower, (255, 200, 0)), (self.walker, (30, 60, 255))):
            pixels[2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = colour
        return pixels


COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}


class Colour(Env):
    """One question an episode: which colour is the picture? There is no expert."""

    spec = EnvSpec(
        id="sound/Colour",
        task="Name the colour.",
        success="The colour was named.",
        action=ActionSpec(tuple(COLOURS)),
        reward_min=0.0,
        reward_max=1.0,
    )
    colour: str

    def reset(self, seed: int, split: str, task: int | None) -> Observation:
        self.chance = random.Random(seed)
        self.colour = self.chance.choice(tuple(COLOURS))
        self.noise = self.chance.randrange(50)
        return self.look()

    def step(self, action: str) -> Transition:
        won = self.right(action)
        return Transition(self.look(), float(won), End.TASK, won)

    def right(self, action: str) -> bool:
        return action == self.colour

    def look(self) -> Observation:
        pixels = np.full((6, 6, 3), self.noise, np.uint8)
        pixels[1:5, 1:5] = COLOURS[self.colour]
        return Observation((Image("view", pixels),))


class Count(Env):
    """How many squares are there? The answer is free text, in one of three tries."""

    spec = EnvSpec(
        id="sound/Count",
        task="Count the white squares and answer with a number.",
        success="The number is right.",
        action=ActionSpec(max_text_bytes=512),
        reward_min=0.0,
        reward_max=1.0,
        splits={"train": 40, "test": 20, "all": 60},
        default_split="train",
        has_expert=True,
    )
    number: int
    tries: int

    def reset(self, seed: int, split: str, task: int | None) -> Observation:
        if split == "all":
            assert task is not None
            split, task = ("train", task) if task < 40 else ("test", task - 40)
        self.chance = random.Random(f"{split} {task}")
        self.number = self.chance.randrange(200, 999)
        self.tries = 0
        return self.look()

    def step(self, action: str) -> Transition:
        self.tries += 1
        won = self.right(action)
        end = End.TASK if won else End.RULE if self.tries == 3 else None
        return Transition(self.look(), float(won), end, None if end is None else won)

    def right(self, action: str) -> bool:
        return action.strip() == str(self.number)

    def expert(self) -> Expert:
        return Expert(str(self.number), "I count.")

    def look(self) -> Observation:
        return Observation((Image("view", self.draw()), self.text()))

    def text(self) -> str:
        return f"{3 - self.tries} tries are left."

    def draw(self) -> NDArray[np.uint8]:
        pixels = np.zeros(1024, np.uint8)
        pixels[: self.number] = 255
        return np.repeat(np.roll(pixels, self.tries).reshape(32, 32, 1), 3, 2)


class Passage(Meadow):
    """The meadow with walls around: at its border fewer moves are admissible."""

    lists_admissible = True
    spec = EnvSpec(
        id="sound/Passage",
        task="Walk to the flower.",
        success="The walker stands on the flower.",
        action=ActionSpec((*MOVES, "wait")),
        reward_min=-0.1,
        reward_max=1.0,
        has_expert=True,
    )

    def walk(self, action: str) -> None:
        if action != "wait":
            super().walk(action)

    def look(self) -> Observation:
        return Observation((Image("view", self.draw()),), self.admissible())

    def admissible(self) -> tuple[str, ...]:
        row, column = self.walker
        free = [move for move, (down, right) in MOVES.items() if 0 <= row + down < SIDE and 0 <= column + right < SIDE]
        return (*free, "wait")


class Dial(Env):
    """A dial is to be turned to the mark, by a number between -1 and 1 at a time."""

    spec = EnvSpec(
        id="sound/Dial",
        task="Turn the dial to the mark.",
        success="The dial is at the mark.",
        action=ActionSpec(low=np.full(1, -1, np.float32), high=np.ones(1, np.float32)),
        reward_min=-1.0,
        reward_max=1.0,
    )
    turns: int

    def reset(self, seed: int, split: str, task: int | None) -> Observation:
        chance = random.Random(seed)
        self.dial, self.mark = chance.uniform(-3, 3), chance.uniform(-3, 3)
        self.turns = 0
        return self.look()

    def step(self, action: NDArray[np.float32]) -> Transition:
        self.turns += 1
        self.dial = min(max(self.dial + float(action[0]), -4), 4)
        won = abs(self.dial - self.mark) < 0.5
        end = End.TASK if won else End.RULE if self.turns == 20 else None
        return Transition(self.look(), 1.0 if won else -0.02, end, None if end is None else won)

    def look(self) -> Observation:
        pixels = np.zeros((2, 81, 3), np.uint8)
        pixels[0, round(10 * self.dial) + 40] = 255
        pixels[1, round(10 * self.mark) + 40] = 255
        return Observation((Image("view", pixels),), tensors={"dial": np.array([self.dial], np.float32)})


class Cart(Env):
    """A cart is pushed to the mark. Pushes change its speed, so that its place shows them a turn later."""

    spec = EnvSpec(
        id="sound/Cart",
        task="Push the cart onto the mark.",
        success="The cart is on the mark.",
        action=ActionSpec(("left", "right", "none")),
        reward_min=-0.1,
        reward_max=1.0,
    )
    turns: int

    def reset(self, seed: int, split: str, task: int | None) -> Observation:
        chance = random.Random(seed)
        self.place, self.mark = chance.sample(range(5, 35), 2)
        self.speed = chance.choice((-1, 0, 1))
        self.turns = 0
        return self.look()

    def step(self, action: str) -> Transition:
        self.turns += 1
        self.place = min(max(self.place + self.speed, 0), 39)
        self.speed = min(max(self.speed + {"left": -1, "right": 1, "none": 0}[action], -2), 2)
        won = self.place == self.mark
        end = End.TASK if won else End.RULE if self.turns == 20 else None
        return Transition(self.look(), 1.0 if won else -0.02, end, None if end is None else won)

    def look(self) -> Observation:
        pixels = np.zeros((2, 40, 3), np.uint8)
        pixels[0, self.place] = pixels[1, self.mark] = 255
        return Observation((Image("view", pixels),))


class Signs(Env):
    """Four turns, each with a sign to be named; only the last one counts. Its actions look like hostile texts."""

    spec = EnvSpec(
        id="sound/Signs",
        task="Name the sign that you see.",
        success="The last sign was named.",
        action=ActionSpec(("*", ".", "1", "success")),
        reward_min=0.0,
        reward_max=1.0,
        has_expert=True,
    )
    turns: int

    def reset(self, seed: int, split: str, task: int | None) -> Observation:
        self.chance = random.Random(seed)
        self.turns = 0
        return self.look()

    def step(self, action: str) -> Transition:
        self.turns += 1
        won = action == self.sign
        last = self.turns == 4
        return Transition(self.look(), float(won and last), End.TASK if last else None, won if last else None)

    def expert(self) -> Expert:
        return Expert(self.sign, f"I see {self.sign}.")

    def look(self) -> Observation:
        number = self.chance.randrange(4)
        self.sign = self.spec.action.vocabulary[number]
        return Observation((Image("view", np.full((4, 4, 3), 60 * number + self.turns, np.uint8)),))


SOUND = (Meadow, Colour, Count, Passage, Dial, Cart, Signs)

MEADOW = f"{__name__}:Meadow"
