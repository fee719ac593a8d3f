"""What verifying costs: the CPU-seconds of `overworld verify`, env server included, against those of the evaluation.

The tiny model writes a reply of the length of a trained one's in every turn, and is paid for it; what is played is
drawn, so that episodes go on as they do with an agent that knows the actions. Where the time goes is printed below.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import psutil
from overworld import Fleet, Reset, make
from overworld.evaluation.conversation import Conversation, Message, Recipe
from overworld.evaluation.evaluate import evaluate
from overworld.evaluation.model import Answer
from overworld.evaluation.verification import Status, verify
from overworld.host.process import ServerProcess
from overworld_trainer.codec import encode_reply
from overworld_trainer.evaluation import PolicyModel
from overworld_vlm.engine import Engine
from overworld_vlm.load import quieten_transformers
from overworld_vlm.tiny import make_tiny
from report import CONSOLE, Row, finish, parser
from rich.table import Table
from wanderer import Wanderer

ENVS = {
    "gym_cards": ("gym_cards/NumberLine", {"size": 56, "colours": True, "max_turns": 20}),
    "alfworld": ("alfworld/all", {"size": 112, "max_turns": 20}),
    "webshop": ("webshop/synthetic", {"width": 112, "height": 84, "max_turns": 20}),
    "miniworld": ("miniworld/Hallway", {"width": 56, "height": 56, "max_turns": 20}),
}
TYPICAL = '{"thoughts": "The target is 3, the current number is 1.", "action": "+"}'
SLOTS = 64
SHARE = 5.0


class Tiny(Wanderer):
    """The wanderer, after the tiny model has read the prompt and written a reply, which nobody reads."""

    def __init__(self, texts: Sequence[str]) -> None:
        vlm = make_tiny([*texts, TYPICAL])
        length = len(encode_reply(vlm, TYPICAL))
        self._model = PolicyModel(
            vlm, Engine(vlm), name=self.name, fingerprint="", temperature=self.temperature, max_tokens=length
        )

    def answer_all(self, prompts: Sequence[tuple[list[Message], int]]) -> list[Answer]:
        """Replies to (messages, seed of the noise)."""
        self._model.answer_all(prompts)
        return super().answer_all(prompts)


def cpu_seconds() -> tuple[float, float]:
    """Of this process, and of the env server."""
    server = 0.0
    for process in psutil.Process().children(recursive=True):
        times = process.cpu_times()
        server += times.user + times.system
    return time.process_time(), server


def prompt_of(env: str) -> str:
    """A prompt's text, for the vocabulary of the tiny model."""
    runner = make(env)
    conversation = Conversation(runner.spec, Recipe())
    conversation.observe(runner.reset(0))
    runner.close()
    text: str = conversation.messages()[0]["content"][-1]["text"]
    return text


def main() -> None:
    """Evaluates and verifies in each simulator."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--episodes", type=int, default=250, help="of each simulator")
    settings = arguments.parse_args()
    quieten_transformers()
    model = Tiny([prompt_of(env) for env, _ in ENVS.values()])
    table = Table(
        "env", "turns", "frames", "evaluation: model and client", "its server", "verify: client", "its server"
    )
    evaluated = verified = 0.0
    for simulator, (env, options) in ENVS.items():
        with (
            ServerProcess(simulator, arguments=("--slots", str(SLOTS))) as server,
            tempfile.TemporaryDirectory() as made,
        ):
            folder = Path(made) / "eval"
            points = [cpu_seconds()]
            with Fleet([server.address], env, SLOTS, options=options) as fleet:
                tasks = [Reset(seed=seed) for seed in range(settings.episodes)]
                evaluate(model, fleet, tasks, recipe=Recipe(), keep=folder)
            points.append(cpu_seconds())
            found = verify(folder, [server.address], slots=SLOTS)
            points.append(cpu_seconds())
        if found.status is not Status.VERIFIED or found.replayed != settings.episodes:
            raise SystemExit(f"{env}: {found}")
        spent = [later - earlier for one, other in pairwise(points) for earlier, later in zip(one, other, strict=True)]
        evaluated += spent[0] + spent[1]
        verified += spent[2] + spent[3]
        table.add_row(env, str(found.turns), str(found.frames_confirmed), *(f"{seconds:.2f}" for seconds in spent))
    CONSOLE.print(table)
    setting = f"{settings.episodes * len(ENVS)} episodes, {len(ENVS)} simulators"
    finish(
        [Row("verifying", setting, verified, "CPU-s", "evaluation", evaluated, evaluated / verified, SHARE)],
        settings.json,
    )


if __name__ == "__main__":
    main()
