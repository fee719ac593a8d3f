"""The page of 1,000 episodes: how large it is, and how soon a headless Chromium shows it.

Episodes of Gym-Cards' EZPoints by chance and by a model that thinks aloud; the browser's time is from the beginning of
navigation to the end of the load event, the median of five.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from overworld import Fleet, Reset
from overworld.evaluation.baselines import RandomAgent
from overworld.evaluation.conversation import Recipe
from overworld.evaluation.evaluate import evaluate
from overworld.evaluation.model import Agent, Answer, Prompt
from overworld.evaluation.page import write_page
from overworld.host.process import ServerProcess
from report import Row, finish, parser

sys.path.append(str(Path(__file__).parents[1]))  # for the browser, which the tests use, too

from tests.support.chromium import Chromium

ENV = "gym_cards/EZPoints"
EPISODES = 500
"""Of each agent."""
MEGABYTES, SECONDS = 2.0, 1.0


class Thinker:
    """Acts by chance and says a good deal about it."""

    name = "thinker"
    temperature = 1.0
    max_tokens = 256
    url = "nowhere"

    def answer_all(self, prompts: Sequence[Prompt]) -> list[Answer]:
        """Two hundred characters of thoughts each."""
        actions = "1234567890+*="
        replies = [
            json.dumps({"thoughts": f"{seed} " * 12, "action": actions[seed % len(actions)]}) for _, seed in prompts
        ]
        return [Answer(reply, False, "") for reply in replies]


def main() -> None:
    """Evaluates, writes the page and shows it."""
    arguments = parser(__doc__ or "").parse_args()
    with tempfile.TemporaryDirectory() as folder:
        kept = [Path(folder) / name for name in ("random", "thinker")]
        with ServerProcess("gym_cards") as server, Fleet([server.address], ENV, 32) as fleet:
            agents: list[Agent] = [RandomAgent(fleet.spec), Thinker()]
            for path, agent in zip(kept, agents, strict=True):
                evaluate(agent, fleet, [Reset(seed) for seed in range(EPISODES)], recipe=Recipe(), keep=path)
        began = time.process_time()
        page = write_page(kept, Path(folder) / "page")
        seconds = time.process_time() - began
        megabytes = page.stat().st_size / 1e6
        browser = Chromium(1280, 900)
        shown = statistics.median(browser.open(page) / 1000 for _ in range(5))
        fetched = "performance.getEntriesByType('resource').filter(one => !one.name.startsWith('data:')).length"
        assert browser.evaluate(fetched) == 0
        browser.close()
    setting = f"{2 * EPISODES:,} episodes"
    finish(
        [
            Row("size", setting, megabytes, "MB", "the limit", MEGABYTES, MEGABYTES / megabytes, 1.0),
            Row("shown", setting, shown, "s", "the limit", SECONDS, SECONDS / shown, 1.0),
            Row("written", setting, seconds, "CPU-s", "", 0.0, 0.0),
        ],
        arguments.json,
    )


if __name__ == "__main__":
    main()
