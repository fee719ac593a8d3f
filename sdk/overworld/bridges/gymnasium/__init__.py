"""Overworld's envs as those of Gymnasium, one and many; described in docs/gymnasium.md.

env = OverworldEnv(overworld.make("gym_cards/EZPoints"))
envs = OverworldVectorEnv(Fleet(["localhost:50051"], "gym_cards/EZPoints", 16))
"""

from overworld.bridges.gymnasium.env import OverworldEnv as OverworldEnv
from overworld.bridges.gymnasium.seeds import SeededResets as SeededResets
from overworld.bridges.gymnasium.vector import OverworldVectorEnv as OverworldVectorEnv
