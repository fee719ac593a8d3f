"""A game that takes sight, memory and planning, and agents that lack one of them or cannot write a reply."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from overworld import ActionSpec, End, Env, EnvSpec, Expert, Image, Observation, Options, Transition
from overworld.authoring.env import Pixels
from overworld.evaluation.conversation import Message, Recipe
from overworld.evaluation.diagnosis.trial import CAPTION, THOUGHTS
from overworld.evaluation.model import Answer
from pydantic import Field

ERRAND = "tests.support.errand:Errand"
RECIPE = Recipe(history=4)

COLOURS = {"red": (220, 30, 30), "green": (30, 160, 50), "blue": (40, 60, 220), "yellow": (230, 210, 40)}
DOORS = ("north", "east", "south", "west")
_SIDE = 16
_UNIT = 4


class ErrandOptions(Options):
    max_turns: int = Field(default=5, ge=1)


class Errand(Env):
    """A lamp, two panels, four doors; the first wrong choice ends the episode. One turn may be wasted."""

    options_model = ErrandOptions
    spec = EnvSpec(
        id="errand/Errand",
        task=(
            "Look at the lamp, then wait. At a panel turn left if its bars add up to an even number, else right. Take "
            "the door of the lamp's colour."
        ),
        success="Every choice was right.",
        action=ActionSpec(("wait", "left", "right", *DOORS)),
        reward_min=0.0,
        reward_max=1.0,
        max_turns=5,
        has_expert=True,
    )

    def reset(self, seed: int, split: str, task: int | None) -> Observation:
        chance = random.Random(seed)
        self._lamp = chance.choice(list(COLOURS))
        self._panels = [(chance.randrange(4), chance.randrange(4)) for _ in range(2)]
        self._doors = chance.sample(list(COLOURS), 4)
        self._stage = 0
        return self._look()

    def step(self, action: str) -> Transition:
        right = action == self.expert().action
        self._stage += 1
        over = not right or self._stage == 4
        return Transition(self._look(), float(over and right), End.TASK if over else None, right if over else None)

    def expert(self) -> Expert:
        if self._stage == 0:
            return Expert("wait", "There is the lamp, so I wait.")
        if self._stage < 3:
            total = sum(self._panels[self._stage - 1])
            action = "right" if total % 2 else "left"
            return Expert(action, f"The bars add up to {total}, so I go {action}.")
        action = DOORS[self._doors.index(self._lamp)]
        return Expert(action, f"The lamp was {self._lamp}, so I go {action}.")

    def caption(self) -> str:
        if self._stage == 0:
            return f"The lamp is {self._lamp}."
        if self._stage < 3:
            return "The bars are {} and {} high.".format(*self._panels[self._stage - 1])
        return f"The doors are {', '.join(self._doors)}."

    def _look(self) -> Observation:
        pixels = np.zeros((_SIDE, _SIDE, 3), np.uint8)
        stage = min(self._stage, 3)
        if stage == 0:
            pixels[:] = COLOURS[self._lamp]
        elif stage < 3:
            for bar, height in enumerate(self._panels[stage - 1]):
                pixels[: height * _UNIT, bar * 8 : bar * 8 + _UNIT] = 200
        else:
            for door, colour in enumerate(self._doors):
                pixels[:, door * _UNIT : (door + 1) * _UNIT] = COLOURS[colour]
        return Observation((Image("view", pixels), ("A lamp.", "A panel.", "A panel.", "Four doors.")[stage]))


@dataclass(frozen=True)
class Abilities:
    """What an agent can do, each as the chance that it does it in a turn."""

    sight: float = 1.0
    memory: float = 1.0
    planning: float = 1.0
    form: float = 1.0


AGENTS = {
    "healthy": Abilities(),
    "sight": Abilities(sight=0.0),
    "memory": Abilities(memory=0.0),
    "planning": Abilities(planning=0.5),
    "form": Abilities(form=0.6),
}
"""By the defect that each has."""


class ScriptedAgent:
    """Plays Errand by what the prompt shows. One decision in fifty is a slip, other ones in each prompt.

    `run` makes its chance.
    """

    url = "here"
    temperature = 1.0
    max_tokens = 64

    def __init__(self, name: str, abilities: Abilities, run: int = 0) -> None:
        self.name = name
        self._abilities = abilities
        self._run = run

    def answer_all(self, prompts: Sequence[tuple[list[Message], int]]) -> list[Answer]:
        return [Answer(self._reply(messages, seed), False, "script") for messages, seed in prompts]

    def _reply(self, messages: list[Message], seed: int) -> str:
        *before, last = messages[0]["content"]
        text: str = last["text"]
        pictures: list[tuple[Pixels, str]] = []
        for part in before:
            if part["type"] == "image":
                pictures.append((part["image"].pixels, ""))
            else:
                pictures[-1] = (pictures[-1][0], part["text"])
        chance = random.Random(f"{self._run} {seed} {text} {[caption for _, caption in pictures]}")
        if chance.random() >= self._abilities.form:
            return chance.choice(("I am not sure", '{"action": "fly"}', '{"acti'))
        action = (
            chance.choice(("left", "right", *DOORS)) if chance.random() < 0.02 else self._act(text, pictures, chance)
        )
        return json.dumps({"thoughts": "", "action": action})

    def _act(self, text: str, pictures: list[tuple[Pixels, str]], chance: random.Random) -> str:
        advised = re.search(rf"{THOUGHTS}.* I (?:go )?(\w+)\.", text)
        plans = chance.random() < self._abilities.planning
        if advised and not plans:
            return advised[1]
        if "A lamp." in text.splitlines():
            return "wait"
        words = " ".join(re.findall(rf"{CAPTION}(.*)", text))
        seen = words or (read(pictures[-1][0]) if chance.random() < self._abilities.sight else "")
        if "A panel." in text.splitlines():
            bars = [int(digit) for digit in re.findall(r"\d", seen)]
            if not bars:
                return chance.choice(("left", "right"))
            right = "right" if sum(bars) % 2 else "left"
            return right if plans else {"left": "right", "right": "left"}[right]
        doors = re.findall(r"\w+(?=[,.])", seen)
        lamp = self._lamp(text, pictures, chance)
        if not lamp or lamp not in doors:
            return chance.choice(DOORS)
        return DOORS[doors.index(lamp)]

    def _lamp(self, text: str, pictures: list[tuple[Pixels, str]], chance: random.Random) -> str:
        noted = re.search(r"Turn \d+: .*The lamp is (\w+)\.", text)
        if noted:
            return noted[1]
        if chance.random() >= self._abilities.memory:
            return ""
        for pixels, caption in pictures[:-1]:
            told = caption or (read(pixels) if chance.random() < self._abilities.sight else "")
            if told.startswith("The lamp is "):
                return told.removeprefix("The lamp is ").rstrip(".")
        return ""


def read(pixels: Pixels) -> str:
    """What a picture of Errand shows, in the words of its captions; of any other picture, whatever comes out."""
    names = {colour: name for name, colour in COLOURS.items()}
    colours = [names.get(tuple(pixels[0, door * _UNIT].tolist()), "") for door in range(4)]
    if len(set(colours)) == 1 and colours[0]:
        return f"The lamp is {colours[0]}."
    if all(colours):
        return f"The doors are {', '.join(colours)}."
    heights = [int((pixels[:, bar * 8, 0] == 200).sum()) // _UNIT for bar in range(2)]
    return "The bars are {} and {} high.".format(*heights)
