"""BALROG's evaluator with an agent that acts at random, the floor of every comparison. BALROG itself has none.

python random_agent.py eval.num_episodes.babyai=100 eval.output_dir=results     # overrides as for its eval.py
"""

from __future__ import annotations

import random
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import hydra
from balrog.agents.base import BaseAgent
from balrog.client import LLMResponse
from balrog.environments.babyai_text.clean_lang_wrapper import BABYAI_ACTION_SPACE
from balrog.evaluator import EvaluatorManager
from balrog.prompt_builder import create_prompt_builder
from balrog.utils import collect_and_summarize_results, print_summary_table


class RandomAgent(BaseAgent):
    """Draws each action from BabyAI's six."""

    def __init__(self, config: Any) -> None:
        super().__init__(lambda: None, create_prompt_builder(config.agent))

    def act(self, obs: Any, prev_action: str | None = None) -> Any:
        """An action, whatever is seen."""
        return LLMResponse("random", random.choice(BABYAI_ACTION_SPACE), "stop", 0, 0, None)


class Factory:
    """What the evaluator asks for agents."""

    def __init__(self, config: Any) -> None:
        self._config = config

    def create_agent(self) -> RandomAgent:
        """A new agent."""
        return RandomAgent(self._config)


def main() -> None:
    """Plays and prints BALROG's summary."""
    with hydra.initialize_config_dir(str(files("balrog") / "config"), version_base="1.1"):
        config = hydra.compose("config", overrides=["agent.type=random", "envs.names=babyai", *sys.argv[1:]])
    folder = Path(config.eval.output_dir) / "random"
    folder.mkdir(parents=True)
    EvaluatorManager(config, output_dir=str(folder)).run(Factory(config))
    print_summary_table(collect_and_summarize_results(str(folder)))


if __name__ == "__main__":
    main()
