"""ALFWorld: household tasks in text, on its real engine, with a picture of what the agent sees."""

from __future__ import annotations

from overworld.authoring.env import Env


def envs() -> list[type[Env]]:
    """The env classes of this simulator.

    Raises UpstreamError if the extra is not installed, GameError if there are no games.
    """
    # Not at the top: simulators are listed without importing what they need.
    from overworld_envs.alfworld.env import all_envs

    return list(all_envs())
