"""The options that a client may set when it opens a session."""

from __future__ import annotations

from typing import Literal

from overworld.authoring.env import Options
from pydantic import Field

from overworld_envs.alfworld.reward import Formula


class HouseholdOptions(Options):
    """Options of all envs here."""

    max_turns: int = Field(
        default=50, ge=1, le=100_000, description="turns after which the host ends an episode (TIME_LIMIT)"
    )
    reward: Formula = Field(
        default="success",
        description="success: 1 for the turn that wins; rl4vlm: 50 x won + goal-condition rate - illegal; "
        "delta: change of the goal-condition rate + won",
    )
    renderer: Literal["schematic", "thor", "none"] = Field(
        default="schematic",
        description="schematic: a drawing of what is in sight; "
        "thor: frames of AI2-THOR (experimental, real games only); none: text only",
    )
    size: int = Field(default=300, ge=64, le=1024, description="height and width of the schematic in pixels")
