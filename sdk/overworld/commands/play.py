"""`overworld play ENV`: an env in the terminal, or as a GIF; in this process, or on a server."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, ValidationError

from overworld.authoring import catalogue
from overworld.authoring.env import Action, EnvSpec, Observation, Pixels, resolve
from overworld.authoring.runner import Result
from overworld.client.fleet import Fleet
from overworld.client.moves import Move, Reset
from overworld.client.settings import ClientSettings
from overworld.errors import EvaluationError, SettingsError
from overworld.evaluation.baselines import ExpertAgent, PersonAgent, RandomAgent
from overworld.evaluation.conversation import Recipe
from overworld.evaluation.evaluate import evaluate
from overworld.evaluation.film import side_by_side, write_gif
from overworld.evaluation.model import Baseline
from overworld.evaluation.play import Agent, Step, asking, expert, human, play, random_agent, show_in
from overworld.registry import open_registry
from overworld.service.extras import needs_extra

with needs_extra("eval"):
    from rich.console import Console
    from rich.markup import escape


class PlayConfig(ClientSettings):
    """Plays an env in the terminal, or has it played."""

    positional: ClassVar[tuple[str, ...]] = ("env",)

    env: str = Field(description="env id, e.g. gym_cards/NumberLine; in this process, or module:Class")
    servers: str = Field(
        default="", description="env servers to play it on: addresses, or redis://host:port/0; empty: in this process"
    )
    agent: Literal["you", "expert", "random"] = Field(default="you", description="who plays")
    seed: int = Field(default=0, description="seed of the episode")
    split: str = Field(default="", description="split of the task; empty: the env's default")
    task: int | None = Field(default=None, description="number of the task in the split")
    options: dict[str, Any] = Field(default={}, description="the env's options, as in options.size=128")
    gif: Path | None = Field(default=None, description="file to write what was seen to")
    keep: Path | None = Field(
        default=None, description="folder to keep the episode in, as overworld eval keeps its own; needs servers"
    )


@dataclass(frozen=True)
class _Env:
    """What playing needs of an env, wherever it is."""

    spec: EnvSpec
    reset: Callable[[], Result]
    step: Step
    resolve: Callable[[Action, Observation], Action | None]


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


@contextlib.contextmanager
def _opened(config: PlayConfig) -> Iterator[_Env]:
    """The env, in this process or on a server."""
    asked = config.agent == "expert"
    if not config.servers:
        runner = catalogue.make(config.env, expert=asked, **config.options)
        yield _Env(
            runner.spec,
            reset=lambda: runner.reset(config.seed, split=config.split, task=config.task),
            step=runner.step,
            resolve=runner.env.resolve,
        )
        return
    registry = open_registry(config.servers, config.credentials)
    with Fleet(registry, config.env, 1, credentials=config.credentials, options=config.options, expert=asked) as fleet:

        def move(move: Move) -> Result:
            [result] = fleet.step([move])
            if result.error is not None:
                raise EvaluationError(
                    f"{config.env} failed at turn {result.turn}, {result.error.reason}: {result.error.message}. "
                    "See the env server's log"
                )
            return result

        yield _Env(
            fleet.spec,
            reset=lambda: move(Reset(config.seed, config.split, config.task)),
            step=move,
            resolve=partial(resolve, fleet.spec.action),
        )


def _play(config: PlayConfig, console: Console) -> int:
    if config.keep is not None:
        return _play_and_keep(config, config.keep, console)
    with _opened(config) as env:
        return _play_in(env, config, console)


def _play_and_keep(config: PlayConfig, keep: Path, console: Console) -> int:
    """Plays the episode as an evaluation of whoever plays it; many of them: `overworld eval model=person`."""
    if not config.servers or config.gif:
        raise SettingsError("keep: episodes are kept of what is played on servers; leave gif out")
    with Fleet(
        open_registry(config.servers, config.credentials),
        config.env,
        1,
        credentials=config.credentials,
        options=config.options,
        fallback_reward=None,  # as overworld eval has it
        expert=config.agent == "expert",
    ) as fleet:
        agents: dict[str, Baseline] = {
            "you": PersonAgent(asking(fleet.spec, console)),
            "expert": ExpertAgent(fleet.spec),
            "random": RandomAgent(fleet.spec),
        }
        task = Reset(config.seed, config.split, config.task)
        try:
            _, (episode,) = evaluate(agents[config.agent], fleet, [task], recipe=Recipe(), keep=keep)
        except EOFError:
            console.print("stopped; nothing was kept")
            return 0
    outcome = episode.error or f"{episode.end}, {'success' if episode.success else 'no success'}"
    console.print(f"{len(episode.turns)} turns, return {episode.total_reward:g}, {outcome}; {keep}", markup=False)
    return 0


def _play_in(env: _Env, config: PlayConfig, console: Console) -> int:
    frames: list[Pixels] = []
    show = show_in(console)

    def keep_and_show(result: Result) -> None:
        if config.gif and result.observation.images:
            frames.append(side_by_side(result.observation.images).copy())
        if config.agent == "you" or not config.gif:
            show(result)

    if config.agent == "expert" and not env.spec.has_expert:
        raise SettingsError(f"{env.spec.id} has no expert; choose another agent")
    match config.agent:
        case "expert":
            agent: Agent = expert(env.spec)
        case "random":
            agent = random_agent(env.spec, config.seed)
        case _:
            agent = human(env.spec, env.resolve, console)
    console.print(f"[bold]{env.spec.id}[/]  {escape(env.spec.task)}")
    results = play(env.step, env.reset(), agent, keep_and_show)
    if config.gif:
        write_gif(frames, config.gif)
    last = results[-1]
    outcome = "stopped" if last.end is None else f"{last.end.name}, {'success' if last.success else 'no success'}"
    total = sum(result.reward for result in results)
    console.print(f"{last.turn} turns, return {total:g}, {outcome}" + (f"; {config.gif}" if config.gif else ""))
    return 0
