"""Plays an env in the terminal: `overworld play`."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

import numpy as np
import PIL.Image

from overworld.authoring.env import Action, EnvSpec, Observation, Pixels, resolve
from overworld.authoring.runner import Result
from overworld.evaluation.film import side_by_side
from overworld.service.extras import needs_extra

with needs_extra("eval"):
    from rich.console import Console
    from rich.markup import escape
    from rich.style import Style
    from rich.text import Text

Agent = Callable[[Result], Action | None]
"""Chooses what to do after a result. Raises EOFError to stop."""

_HALF_BLOCK = "\N{UPPER HALF BLOCK}"


Step = Callable[[Action | None], Result]
"""Acts: `Runner.step`, or the same in a slot of a server."""


def play(step: Step, first: Result, agent: Agent, show: Callable[[Result], None]) -> list[Result]:
    """Plays the episode that begins with `first` to its end, or until the agent stops; all its results."""
    results = [first]
    show(first)
    while results[-1].end is None:
        try:
            action = agent(results[-1])
        except EOFError:
            break
        results.append(step(action))
        show(results[-1])
    return results


def human(spec: EnvSpec, resolve: Callable[[Action, Observation], Action | None], console: Console) -> Agent:
    """Whoever sits at the terminal: types an action or its number, or nothing to do the same again; q stops.

    `resolve` tells what is an action in a turn, as `Env.resolve` does.
    """
    last = ""

    def choose(result: Result) -> Action | None:
        nonlocal last
        actions = result.observation.admissible or spec.action.vocabulary
        numbered = not any(action.isdecimal() for action in actions)
        listed = (f"[{number}] {action}" if numbered else action for number, action in enumerate(actions))
        console.print("  ".join(listed), markup=False, highlight=False)
        while True:
            typed = console.input("> ").strip() or last
            if typed == "q":
                raise EOFError
            if numbered and typed.isdecimal() and int(typed) < len(actions):
                typed = actions[int(typed)]
            action = spec.action.read(typed)
            if action is not None and resolve(action, result.observation) is not None:
                last = typed
                return action
            console.print(f"{typed!r} is not an action here; q stops", markup=False)

    return choose


def asking(spec: EnvSpec, console: Console) -> Agent:
    """Shows whoever sits at the terminal each result, and asks what to do; an episode begins with the task."""
    show, choose = show_in(console), human(spec, partial(resolve, spec.action), console)

    def ask(result: Result) -> Action | None:
        if result.turn == 0:
            console.print(f"[bold]{escape(spec.id)}[/]  {escape(spec.task)}")
        show(result)
        return choose(result)

    return ask


def expert(spec: EnvSpec) -> Agent:
    """Does what the env's expert advises, which must have been asked for."""

    def choose(result: Result) -> Action | None:
        assert result.expert is not None
        return spec.action.read(result.expert.action)

    return choose


def random_agent(spec: EnvSpec, seed: int) -> Agent:
    """Draws actions. The agent raises ValueError where none are listed."""
    choices = random.Random(seed)

    def choose(result: Result) -> Action | None:
        actions = result.observation.admissible or spec.action.vocabulary
        if not actions:
            raise ValueError(f"{spec.id} does not list its actions: none can be drawn")
        return choices.choice(actions)

    return choose


def show_in(console: Console) -> Callable[[Result], None]:
    """Prints results."""

    def show(result: Result) -> None:
        if result.observation.images:
            console.print(terminal_picture(side_by_side(result.observation.images), console.width))
        if result.observation.text:
            console.print(result.observation.text, markup=False, highlight=False)
        if result.outcome is not None:
            advice = "" if result.expert is None else f"   expert: {result.expert.thoughts}"
            console.print(f"turn {result.turn}: {result.executed}, reward {result.reward:g}{advice}", markup=False)
        if result.end is not None:
            console.print(f"{result.end.name}: {'success' if result.success else 'no success'}")

    return show


def terminal_picture(pixels: Pixels, columns: int) -> Text:
    """An RGB picture in at most `columns` coloured half blocks per line, two pixels each."""
    height, width = pixels.shape[:2]
    columns = min(columns, width, 80)
    rows = max(2, round(height * columns / width / 2) * 2)
    small = np.asarray(PIL.Image.fromarray(pixels).resize((columns, rows), PIL.Image.Resampling.BOX))
    picture = Text()
    for upper, lower in zip(small[::2].tolist(), small[1::2].tolist(), strict=True):
        for above, below in zip(upper, lower, strict=True):
            picture.append(_HALF_BLOCK, Style.parse("rgb({},{},{}) on rgb({},{},{})".format(*above, *below)))
        picture.append("\n")
    return picture
