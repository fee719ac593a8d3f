"""`overworld init NAME`: a new project with an env, its tests, an image and what serves and trains it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from overworld.errors import SettingsError
from overworld.scaffold.name import check_name
from overworld.scaffold.project import make_gymnasium, make_node, make_python
from overworld.service.settings import Settings


class InitConfig(Settings):
    """Makes a project: an env that works, its tests, an image, and what is needed to serve it and to train in it."""

    positional: ClassVar[tuple[str, ...]] = ("name",)

    name: str = Field(description="the project's name and its folder, such as shape-hunt")
    gymnasium: str = Field(default="", description="an env of Gymnasium to serve, such as FrozenLake-v1")
    language: Literal["python", "node"] = Field(default="python", description="what the env server is written in")


def main(arguments: Sequence[str]) -> int:
    """Makes the project in the current folder and says what there is."""
    config = InitConfig.load(arguments, "overworld init")
    folder = Path.cwd() / check_name(config.name)
    if config.language == "node":
        if config.gymnasium:
            raise SettingsError("gymnasium: its envs are in Python; leave out --language node")
        made = make_node(folder)
    else:
        made = make_gymnasium(folder, config.gymnasium) if config.gymnasium else make_python(folder)
    print(f"{config.name}/")
    for path in made:
        print(f"  {path}")
    print(f"\nNext: cd {config.name}, and the commands in its README.md")
    return 0
