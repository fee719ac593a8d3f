"""MiniWorld's tasks as envs. MiniWorld and OpenGL are loaded when the first one is made."""

from __future__ import annotations

import random
from importlib.metadata import version
from typing import ClassVar, cast

from overworld.authoring.env import ActionSpec, End, Env, EnvSpec, Expert, Image, Observation, Options, Transition

from overworld_envs.miniworld import graphics
from overworld_envs.miniworld.caption import caption
from overworld_envs.miniworld.options import MiniWorldOptions, RandomisableOptions, SignOptions, options_model
from overworld_envs.miniworld.planner import Planner
from overworld_envs.miniworld.tasks import REPEATED, TASKS, Task

_COLOURS = ("blue", "red", "green")
_GOALS = ("box", "key")
"""In upstream's order."""


class MiniWorld(Env):
    """One task: upstream's world and rules, drawn by our own camera.

    The constructor raises graphics.GraphicsMissingError, and WrongThreadError on any thread but the first env's.
    """

    draws_on_demand = True
    task: ClassVar[Task]
    options: MiniWorldOptions

    def __init__(self, options: Options | None = None) -> None:
        super().__init__(options)
        context = graphics.open_context()
        # These import MiniWorld, which needs an open context.
        from overworld_envs.miniworld.camera import Camera
        from overworld_envs.miniworld.framebuffer import Render
        from overworld_envs.miniworld.world import make_world

        self.spec = _spec(self.task, self.options, context.renderer)
        chosen = self.options
        arguments = {"domain_rand": True} if isinstance(chosen, RandomisableOptions) and chosen.domain_rand else {}
        self._world = make_world(self.task.name, **arguments)
        if chosen.max_episode_steps is not None:
            self._world.max_episode_steps = chosen.max_episode_steps
        self._camera = Camera(context, self._world, chosen.width, chosen.height, Render(chosen.render))
        self._numbers = {action: number for number, action in enumerate(self.spec.action.vocabulary)}
        self._image: Image | None = None
        self._planner: Planner | None = None

    def reset(self, seed: int, split: str, task: int | None) -> Observation:
        """Makes the world that upstream makes from `seed`."""
        if isinstance(self.options, SignOptions):
            self._choose_sign(seed, self.options)
        self._world.on_look = _look_away
        self._world.reset(seed=seed)
        self._planner = None
        self._camera.look_around()
        self._image = Image("view", self.canvas("view", self.options.height, self.options.width))
        self._draw()
        return self._observation()

    def step(self, action: str) -> Transition:
        """Takes one of upstream's steps, or several equal ones, stopping where the episode ends."""
        number = self._numbers[action]
        name = self.task.actions[number]
        repeats = getattr(self.options, REPEATED[name]) if name in REPEATED else 1
        reward, terminated, truncated = 0.0, False, False
        # Upstream draws before it evaluates the step, and may move things afterwards: draw when it does.
        self._world.on_look = self._draw if repeats == 1 else _look_away
        for _ in range(repeats):
            _, gained, terminated, truncated, _ = self._world.step(number)
            reward += float(gained)
            if terminated or truncated:
                break
        if repeats > 1:
            self._draw()
        end = End.TASK if terminated else End.RULE if truncated else None
        success = self.won() if end is not None else None
        return Transition(self._observation(), reward, end, success, self._metrics())

    def expert(self) -> Expert:
        """The next step of a short way to the red box."""
        if self._planner is None:
            options = self.options
            aspect = options.width / options.height
            self._planner = Planner(self._world, options.turn_repeat, options.move_repeat, aspect)
        name, thoughts = self._planner.advise()
        return Expert(self.spec.action.vocabulary[self.task.actions.index(name)], thoughts)

    def caption(self) -> str:
        """Where the red box is, and how far the walls are."""
        return caption(self._world, self.options.width / self.options.height)

    def won(self) -> bool:
        """Whether the task is achieved: by a step, since an agent may start beside the box and never act."""
        return self._world.step_count > 0 and bool(self.task.succeeded(self._world))

    def close(self) -> None:
        """Frees the display lists, and the frame buffer with its last user."""
        self._camera.close()

    def _draw(self) -> None:
        assert self._image is not None
        if self.pictures_wanted:
            self._camera.draw(self._image.pixels)

    def _observation(self) -> Observation:
        assert self._image is not None
        if isinstance(self.options, SignOptions) and self.options.goal == "any":
            return Observation((self._image, f"Touch the {_GOALS[self._world._goal]}."))
        return Observation((self._image,))

    def _metrics(self) -> dict[str, float]:
        """Partial success, for the tasks that know it."""
        world = self._world
        if self.task.name == "PickupObjects":
            return {"picked_up": world.num_picked_up / world.num_objs}
        if self.task.name == "CollectHealth":
            return {"health": float(max(world.health, 0))}
        return {}

    def _choose_sign(self, seed: int, options: SignOptions) -> None:
        chance = random.Random(seed)
        colour, goal = chance.choice(_COLOURS), chance.choice(_GOALS)
        self._world._color_index = _COLOURS.index(colour if options.colour == "any" else options.colour)
        self._world._goal = _GOALS.index(goal if options.goal == "any" else options.goal)


def classes() -> list[type[Env]]:
    """One class per task."""
    return [cast(type[Env], _class(task)) for task in TASKS]


def _class(task: Task) -> type[MiniWorld]:
    model = options_model(task)
    members = {
        "__doc__": task.describing,
        "__module__": __name__,
        "task": task,
        "options_model": model,
        "spec": _spec(task, model(), ""),
    }
    return type(task.name, (MiniWorld,), members)


def _spec(task: Task, options: MiniWorldOptions, renderer: str) -> EnvSpec:
    """The spec under `options`; `renderer` is OpenGL's name for the renderer, empty before a context is open."""
    provenance = {"rules": f"miniworld {version('miniworld')}"}
    if renderer:
        provenance["renderer"] = renderer
    least, most = task.rewards
    vocabulary = task.actions
    if options.actions == "integers":
        vocabulary = tuple(str(number) for number in range(len(task.actions)))
    return EnvSpec(
        id=f"miniworld/{task.name}",
        task=_text(task, options),
        success=task.success,
        action=ActionSpec(vocabulary),
        reward_min=least,
        reward_max=most * (options.move_repeat if task.name == "CollectHealth" else 1),
        max_turns=options.max_turns,
        has_expert=task.navigation,
        pixels_reproducible="same machine",
        provenance=provenance,
    )


def _text(task: Task, options: MiniWorldOptions) -> str:
    text = task.short
    if options.task_text == "describing":
        turn, move = task.turn * options.turn_repeat, task.move * options.move_repeat
        about = "about " if isinstance(options, RandomisableOptions) and options.domain_rand else ""
        text = f"{task.describing} A turn takes you round by {about}{turn:g} degrees, a move {about}{move:g} m further."
    if isinstance(options, SignOptions):
        text = text.format(goal="thing" if options.goal == "any" else options.goal)
    if options.actions == "integers":
        text += " " + ", ".join(f"{number}: {action}" for number, action in enumerate(task.actions)) + "."
    return text


def _look_away() -> None:
    """Stands in for drawing in steps that nobody sees."""
