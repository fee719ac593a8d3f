"""What Gymnasium does not say about its envs: the task in words, names of the actions, and what counts as success."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Preset:
    """How an env is presented to an agent.

    actions      Word -> action as the env's `step` takes it (a number, or nested lists of them). Empty: the words that
                 the env itself gives (`get_action_meanings`, as in Atari games), else numbers.
    survival     Whether the time limit is the goal and everything that ends the episode before it a failure. Otherwise
                 success is `info["is_success"]` or `info["success"]` where there is one, else a last reward above 0.
    goal_ends    Whether reaching a terminal state is the goal, whatever its reward.
    reward_min, reward_max  Bounds of one step's reward; both 0: unknown.
    """

    task: str
    actions: Mapping[str, Any] = field(default_factory=dict)
    survival: bool = False
    goal_ends: bool = False
    reward_min: float = 0.0
    reward_max: float = 0.0

    @property
    def success(self) -> str:
        """What success means, as in EnvSpec.success."""
        if self.survival:
            return "The episode lasted until the limit of turns, without a turn that was skipped."
        if self.goal_ends:
            return "The env reached a terminal state."
        return "The env's info said so (is_success or success), or said nothing and the last reward was above 0."

    def succeeded(self, terminated: bool, reward: float, info: Mapping[str, Any]) -> bool:
        """Whether an episode that the env has ended achieved the task."""
        if self.survival:
            return False
        if self.goal_ends:
            return terminated
        for name in ("is_success", "success"):
            if name in info:
                return bool(info[name])
        return terminated and reward > 0


_GRID_ACTIONS = {
    "turn left": 0, "turn right": 1, "go forward": 2, "pick up": 3, "drop": 4, "toggle": 5, "done": 6,
}  # fmt: skip
_GRID = Preset(
    "You are the red triangle in a grid and see the cells that are highlighted. Fulfil the mission. Objects are picked "
    "up, and doors and boxes toggled, in the cell in front of you.",
    _GRID_ACTIONS,
    reward_max=1.0,
)
_LAKE = Preset(
    "Cross the frozen lake from the top left to the present without falling into a hole. The ice may be slippery.",
    {"left": 0, "down": 1, "right": 2, "up": 3},
    reward_max=1.0,
)

_PRESETS = {
    "ALE/Pong-": Preset(
        "Play Pong with the green paddle on the right. A ball that the other side misses earns a point, one that you "
        "miss costs one. Whoever has 21 points first wins.",
        reward_min=-1.0, reward_max=1.0,
    ),
    "Acrobot-": Preset(
        "Swing the free end of the two links above the line.",
        {"torque -1": 0, "no torque": 1, "torque +1": 2},
        goal_ends=True, reward_min=-1.0,
    ),
    "BabyAI-": _GRID,
    "CartPole-": Preset(
        "Keep the pole on the cart upright and the cart in the picture.",
        {"left": 0, "right": 1},
        survival=True, reward_max=1.0,
    ),
    "FrozenLake": _LAKE,
    "MiniGrid-": _GRID,
    "MountainCar-": Preset(
        "Drive the car up to the flag on the right. Its engine is too weak to do so without a run-up.",
        {"left": 0, "coast": 1, "right": 2},
        goal_ends=True, reward_min=-1.0,
    ),
}  # fmt: skip
"""By how the env's name begins."""


def preset_for(name: str) -> Preset:
    """The preset of an env, or one that says little."""
    known = next((known for start, known in _PRESETS.items() if name.startswith(start)), None)
    return known or Preset(f"Act in the env {name} so that the sum of its rewards is as high as you can.")
