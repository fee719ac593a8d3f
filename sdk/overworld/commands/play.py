"""`overworld play ENV`: an env in the terminal, or as a GIF."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, ValidationError

from overworld.authoring import catalogue
from overworld.authoring.env import Pixels
from overworld.authoring.runner import Result
from overworld.errors import SettingsError
from overworld.evaluation.play import Agent, expert, human, play, random_agent, show_in, side_by_side, write_gif
from overworld.service.extras import needs_extra
from overworld.service.settings import Settings

with needs_extra("eval"):
    from rich.console import Console
    from rich.markup import escape


class PlayConfig(Settings):
    """Plays an env in the terminal, or has it played."""

    positional: ClassVar[tuple[str, ...]] = ("env",)

    env: str = Field(description="env id, e.g. gym_cards/NumberLine, or module:Class")
    agent: Literal["you", "expert", "random"] = Field(default="you", description="who plays")
    seed: int = Field(default=0, description="seed of the episode")
    split: str = Field(default="", description="split of the task; empty: the env's default")
    task: int | None = Field(default=None, description="number of the task in the split")
    options: dict[str, Any] = Field(default={}, description="the env's options, as in options.size=128")
    gif: Path | None = Field(default=None, description="file to write what was seen to")


def main(arguments: Sequence[str]) -> int:
    """Plays one episode."""
    config = PlayConfig.load(arguments, "overworld play")
    try:
        return _play(config, Console())
    except ValidationError as error:
        problem = error.errors()[0]
        raise SettingsError(f"options.{'.'.join(map(str, problem['loc']))}: {problem['msg']}") from None
    except (ImportError, OSError, ValueError) as error:  # envs are other people's code
        raise SettingsError(str(error)) from error


def _play(config: PlayConfig, console: Console) -> int:
    frames: list[Pixels] = []
    show = show_in(console)

    def keep_and_show(result: Result) -> None:
        if config.gif and result.observation.images:
            frames.append(side_by_side(result.observation.images).copy())
        if config.agent == "you" or not config.gif:
            show(result)

    runner = catalogue.make(config.env, expert=config.agent == "expert", **config.options)
    if config.agent == "expert" and not runner.spec.has_expert:
        raise SettingsError(f"{runner.spec.id} has no expert; choose another agent")
    match config.agent:
        case "expert":
            agent: Agent = expert
        case "random":
            agent = random_agent(runner, config.seed)
        case _:
            agent = human(runner, console)
    console.print(f"[bold]{runner.spec.id}[/]  {escape(runner.spec.task)}")
    first = runner.reset(config.seed, split=config.split, task=config.task)
    results = play(runner, first, agent, keep_and_show)
    if config.gif:
        write_gif(frames, config.gif)
    last = results[-1]
    outcome = "stopped" if last.end is None else f"{last.end.name}, {'success' if last.success else 'no success'}"
    total = sum(result.reward for result in results)
    console.print(f"{last.turn} turns, return {total:g}, {outcome}" + (f"; {config.gif}" if config.gif else ""))
    return 0
