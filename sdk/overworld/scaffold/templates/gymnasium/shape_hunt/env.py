"""FrozenLake-v1 of Gymnasium as an env of Overworld."""

from __future__ import annotations

from overworld.authoring.gymnasium.env import from_gymnasium

# Gymnasium says neither what the task is, in words, nor when it is achieved. Some envs are known; for others, and for
# your own words, there is a second argument, Preset(task=..., actions={"left": 0, ...}). Further arguments are those of
# gymnasium.make.
Game = from_gymnasium("FrozenLake-v1")
