"""An env server. Overworld finds its envs here, by the entry point in pyproject.toml."""

from overworld import Env

from shape_hunt.env import Game


def envs() -> list[type[Env]]:
    """All envs of this package."""
    return [Game]
