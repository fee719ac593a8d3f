"""Prints the recipe of the prompts that BALROG's naive agent sends in BabyAI, as settings of the trainer (YAML).

The words are taken from the BALROG that is installed, run in its environment:

    python recipe.py > recipe.yaml
"""

from __future__ import annotations

import json
from typing import Any

import PIL.Image
from balrog.agents.naive import NaiveAgent
from balrog.client import LLMResponse
from balrog.environments.babyai_text import get_instruction_prompt
from balrog.prompt_builder import HistoryPromptBuilder


class Listener:
    """A client of BALROG's that keeps what it is to send."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def generate(self, messages: list[Any]) -> Any:
        """Keeps the texts of the messages."""
        self.texts = [message.content for message in messages]
        return LLMResponse("", "go forward", "", 0, 0, None)


def main() -> None:
    """Prints the settings."""
    listener = Listener()
    agent = NaiveAgent(lambda: listener, HistoryPromptBuilder(max_text_history=0, max_image_history=1))
    mission = "MISSION-OF-THE-EPISODE"
    agent.prompt_builder.update_instruction_prompt(get_instruction_prompt(None, mission=mission))
    seen = {"text": {"long_term_context": "", "short_term_context": ""}, "image": PIL.Image.new("RGB", (1, 1))}
    agent.act(seen)
    opening, turn = (text.replace("$", "$$").replace(mission, "$mission") for text in listener.texts)
    print("recipe:\n  history: 1\n  reply: bare\n  chat:")  # JSON's strings are YAML's
    print(f"    opening: {json.dumps(opening)}\n    turn: {json.dumps(turn)}")


if __name__ == "__main__":
    main()
