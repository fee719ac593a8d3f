"""Envs for tests of the trainer. `Puppet` tells the agent what to do: an obedient agent plays any script."""

import os

import numpy as np
from overworld import ActionSpec, End, Env, EnvSpec, Expert, Image, Observation, Options, Transition
from pydantic import Field

WORDS = ("go", "win", "lose", "raise", "crash", "mumble", "fly")
REPLIES = {
    **{word: f'{{"thoughts": "I shall {word}.", "action": "{word}"}}' for word in WORDS},
    "mumble": "Well, well, who knows?",
}


class PuppetOptions(Options):
    script: list[str] = Field(default=["go"], description="what to do in each turn, repeated from the start")
    failing_seeds: list[int] = Field(default=[], description="seeds of episodes that cannot be started")
    size: int = 28


class Puppet(Env):
    """Says in each turn what to do. Each turn of each episode shows a picture of another colour."""

    options_model = PuppetOptions
    options: PuppetOptions
    spec = EnvSpec(
        id="puppet/Puppet",
        task="Obey.",
        success="The word was win.",
        action=ActionSpec(tuple(word for word in WORDS if word not in ("mumble", "fly"))),
        reward_min=-4.0,
        reward_max=2.0,
        has_expert=True,
        provenance={"rules": "puppet 1"},
    )

    def reset(self, seed: int, split: str, task: int | None) -> Observation:
        if seed in self.options.failing_seeds:
            raise RuntimeError("this seed is cursed")
        self._random = np.random.default_rng(seed)
        self._turn = 0
        return self._look()

    def step(self, action: str) -> Transition:
        if action == "raise":
            raise RuntimeError("as you wish")
        if action == "crash":
            os._exit(3)
        self._turn += 1
        end = {"win": End.TASK, "lose": End.RULE}.get(action)
        reward = {"win": 2.0, "lose": -4.0}.get(action, 1.0 + 0.125 * self._turn)
        return Transition(self._look(), reward, end, None if end is None else end is End.TASK)

    def expert(self) -> Expert:
        word = self._word()
        return Expert(word, f"I shall {word}.")

    def _word(self) -> str:
        return self.options.script[self._turn % len(self.options.script)]

    def _look(self) -> Observation:
        canvas = self.canvas("view", self.options.size, self.options.size)
        canvas[...] = self._random.integers(0, 256, 3, np.uint8)
        return Observation((Image("view", canvas), f"Do: {self._word()}"))


class Choice(Env):
    """Right is rewarded and left is not; four turns."""

    spec = EnvSpec(
        id="puppet/Choice",
        task="Choose well.",
        success="Right was chosen each time.",
        action=ActionSpec(("left", "right")),
        reward_max=1.0,
        has_expert=True,
    )

    def reset(self, seed: int, split: str, task: int | None) -> Observation:
        self._turn = self._right = 0
        return self._look()

    def step(self, action: str) -> Transition:
        self._turn += 1
        self._right += action == "right"
        over = self._turn == 4
        success = self._right == 4 if over else None
        return Transition(self._look(), float(action == "right"), End.TASK if over else None, success)

    def expert(self) -> Expert:
        return Expert("left", "Which one?")

    def _look(self) -> Observation:
        return Observation((Image("view", np.full((28, 28, 3), 50 * self._turn, np.uint8)),))


class Free(Choice):
    """As `Choice`, but actions are free text and none is listed."""

    spec = EnvSpec(
        id="puppet/Free", task="Say it.", success="It was said.", action=ActionSpec(max_text_bytes=64), has_expert=True
    )


CHOICE = f"{__name__}:Choice"
FREE = f"{__name__}:Free"
PUPPET = f"{__name__}:Puppet"
