"""An agent that draws its actions, and evaluations that it has played in all four simulators."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from overworld import Fleet, Reset
from overworld.evaluation.conversation import Message, Recipe
from overworld.evaluation.evaluate import evaluate
from overworld.evaluation.folder import REPORT, EpisodeFolder
from overworld.evaluation.model import Answer

SIMULATORS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "gym_cards": {
        "gym_cards/NumberLine": {},
        "gym_cards/EZPoints": {},
        "gym_cards/Points24": {},
        "gym_cards/Blackjack": {},
    },
    "alfworld": {"alfworld/all": {"max_turns": 30}, "alfworld/pick_heat_then_place_in_recep": {"max_turns": 30}},
    "webshop": {"webshop/synthetic": {"max_turns": 30}, "webshop/human": {"max_turns": 30, "page_text": "text"}},
    "miniworld": {
        "miniworld/Hallway": {"max_turns": 80},
        "miniworld/WallGap": {"max_turns": 80},
        "miniworld/PickupObjects": {"max_turns": 80},
        "miniworld/TMaze": {"max_turns": 80, "domain_rand": True},
    },
}
"""Envs of each simulator with their options."""

_WORDS = ("red", "blue", "shirt", "shoes", "women", "large", "cotton", "lamp")
_NONSENSE = 0.1


class Wanderer:
    """Draws one of the actions that the prompt lists, words to search for where it lists none, and now and then
    replies with what is no action, or is not admissible. Same prompt and noise, same reply.
    """

    name = "wanderer"
    temperature = 1.0
    max_tokens = 64
    url = "in process"

    def answer_all(self, prompts: Sequence[tuple[list[Message], int]]) -> list[Answer]:
        """Replies to (messages, seed of the noise)."""
        return [
            Answer(self._reply(messages[0]["content"][-1]["text"], noise), False, "") for messages, noise in prompts
        ]

    def _reply(self, prompt: str, noise: int) -> str:
        chance = random.Random(noise)
        if chance.random() < _NONSENSE:
            return chance.choice(["I do not know.", json.dumps({"action": "fly"})])
        listed = next((line for line in prompt.splitlines() if line.startswith("Actions: ")), "")
        actions = json.loads(f"[{listed.removeprefix('Actions: ')}]")
        action = chance.choice(actions) if actions else f"search[{' '.join(chance.sample(_WORDS, 2))}]"
        return json.dumps({"thoughts": f"{len(prompt)} characters", "action": action})


def wandered(address: str, env: str, options: Mapping[str, Any], episodes: int, folder: Path) -> EpisodeFolder:
    """The wanderer's evaluation of the seeds 0, 1, ... in an env; from the folder if it is there."""
    if not (folder / REPORT).exists():
        with Fleet([address], env, 16, options=options) as fleet:
            tasks = [Reset(seed=seed) for seed in range(episodes)]
            evaluate(Wanderer(), fleet, tasks, recipe=Recipe(), keep=folder, overwrite=True)
    return EpisodeFolder(folder)
