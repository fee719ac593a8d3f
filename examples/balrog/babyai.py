"""BabyAI's "go to the object" as BALROG shows it, the agent's own view, with BabyAI's bot as the expert."""

from __future__ import annotations

import dataclasses

from minigrid.core.actions import Actions
from minigrid.utils.baby_ai_bot import BabyAIBot
from overworld import Expert, Observation, Transition
from overworld.authoring.env import Options
from overworld.authoring.gymnasium.env import from_gymnasium
from overworld.authoring.gymnasium.presets import Preset

ACTIONS = {"turn left": 0, "turn right": 1, "go forward": 2, "pick up": 3, "drop": 4, "toggle": 5}
_CELL = 16  # pixels
_WORDS = {number: word for word, number in ACTIONS.items()}

_Room = from_gymnasium(
    "BabyAI-GoToObj-v0",
    Preset("Fulfil the mission.", ACTIONS, reward_max=1.0),
    agent_pov=True,
    tile_size=_CELL,
)


class GoToObj(_Room):  # type: ignore[misc, valid-type] # made at run time
    """A room with one object, seen from where the agent stands: 7 x 7 cells."""

    spec = dataclasses.replace(_Room.spec, has_expert=True)

    def __init__(self, options: Options | None = None) -> None:
        super().__init__(options)
        self.spec = dataclasses.replace(self.spec, has_expert=True)

    def reset(self, seed: int, split: str, task: int | None) -> Observation:
        """Starts an episode, and a bot that knows its mission."""
        observation: Observation = super().reset(seed, split, task)
        self._bot = BabyAIBot(self._env)
        self._advice: Actions = self._bot.replan()
        return observation

    def step(self, action: str) -> Transition:
        """Executes the action; the bot, too, learns of it."""
        transition: Transition = super().step(action)
        if transition.end is None:
            self._advice = self._bot.replan(Actions(ACTIONS[action]))
        return transition

    def expert(self) -> Expert:
        """What the bot would do."""
        return Expert(_WORDS[int(self._advice)], "")
