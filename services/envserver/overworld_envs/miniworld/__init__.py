"""MiniWorld: walks through rooms in 3-D, from Farama's package, drawn without a display."""

from __future__ import annotations

from overworld.authoring.env import Env


def envs() -> list[type[Env]]:
    """The env classes of this simulator. Imports neither MiniWorld nor OpenGL.

    Raises GraphicsMissingError, and ModuleNotFoundError without the extra "miniworld".
    """
    from overworld_envs.miniworld import env, graphics

    graphics.check_libraries()
    return env.classes()
