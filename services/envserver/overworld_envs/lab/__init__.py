"""The lab: three small tasks, each of which tests one thing about a learner: credit, memory, continuous actions."""

from __future__ import annotations

from overworld.authoring.env import Env


def envs() -> list[type[Env]]:
    """The env classes of this simulator."""
    from overworld_envs.lab.chain import Chain
    from overworld_envs.lab.memory import Memory
    from overworld_envs.lab.reach import Reach

    return [Chain, Memory, Reach]
