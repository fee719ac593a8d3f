"""The options of MiniWorld's envs."""

from __future__ import annotations

import math
from typing import Any, Literal

from overworld.authoring.env import Options
from pydantic import Field, create_model, model_validator

from overworld_envs.miniworld.tasks import Task


class MiniWorldOptions(Options):
    """What all tasks have."""

    width: int = Field(default=80, ge=16, le=2048, description="width of the picture in pixels")
    height: int = Field(default=60, ge=16, le=2048, description="height of the picture in pixels")
    render: Literal["exact", "msaa", "fast"] = Field(
        default="msaa",
        description="exact: upstream's pixels to the bit; msaa: smooth edges, within one level of them; "
        "fast: one sample per pixel, jagged edges",
    )
    max_episode_steps: int | None = Field(
        default=None,
        ge=1,
        le=100_000,
        description="steps after which the task itself ends an episode, instead of upstream's limit; the reward is "
        "scaled by it. To end episodes without touching the reward, set max_turns",
    )
    move_repeat: int = Field(default=1, ge=1, le=50, description="how many of upstream's steps one move takes")
    turn_repeat: int = Field(default=1, ge=1, le=12, description="how many of upstream's steps one turn takes")
    actions: Literal["words", "integers"] = Field(
        default="words", description='what actions are called: "turn left", or "0"'
    )
    task_text: Literal["short", "describing"] = Field(
        default="short", description="the task in a few words, or with the place and the rules"
    )

    @model_validator(mode="before")
    @classmethod
    def _follow_the_tasks_own_limit(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("max_episode_steps") is not None and "max_turns" not in values:
            return values | {"max_turns": values["max_episode_steps"]}
        return values


class RandomisableOptions(MiniWorldOptions):
    """For tasks whose looks upstream can randomise."""

    domain_rand: bool = Field(
        default=False, description="randomise textures, light, camera, and the lengths of moves and turns"
    )


class SignOptions(MiniWorldOptions):
    """What Sign asks for."""

    colour: Literal["blue", "red", "green", "any"] = Field(
        default="blue", description="what the sign says; any: the seed decides"
    )
    goal: Literal["box", "key", "any"] = Field(default="box", description="what to touch; any: the seed decides")


def options_model(task: Task) -> type[MiniWorldOptions]:
    """The options of a task: the host's limit of turns is by default as long as upstream's limit of steps."""
    turns = 300 if task.limit == math.inf else int(task.limit)
    base = RandomisableOptions if task.randomises else SignOptions
    described = Field(
        default=turns,
        ge=1,
        le=100_000,
        description="turns after which the host ends an episode (TIME_LIMIT); by default max_episode_steps, or else "
        "upstream's limit",
    )
    return create_model(f"{task.name}Options", __base__=base, max_turns=(int, described))
