"""The envs that are installed here: packages announce them with entry points of the group "overworld.envs".

An entry point is named after the simulator and points to a function without arguments that returns its env classes:

    [project.entry-points."overworld.envs"]
    gym_cards = "overworld_envs.gym_cards:envs"

What a simulator needs beyond its package may be an extra of the same name.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points, packages_distributions, version
from typing import Any

from overworld.authoring.env import Env
from overworld.authoring.runner import Fallback, Runner
from overworld.errors import EnvUnknownError

_GROUP = "overworld.envs"
_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


def simulators() -> list[str]:
    """Names of the installed simulators."""
    return sorted(entry_points(group=_GROUP).names)


def load(names: Iterable[str]) -> dict[str, type[Env]]:
    """Env id -> class for each name: a simulator ("gym_cards"), an env id ("gym_cards/EZPoints"), "module:Class", or
    "gymnasium:ID" for an env of Gymnasium.

    A module is looked for in the current folder first, as `python -m` does.

    Raises EnvUnknownError for an unknown name, and what importing a simulator raises.
    """
    classes: dict[str, type[Env]] = {}
    for name in names:
        if ":" in name:
            found = [_named(name)]
        else:
            simulator, _, task = name.partition("/")
            points = entry_points(group=_GROUP, name=simulator)
            if not points:
                raise EnvUnknownError(f"no simulator {simulator!r} is installed; there are {simulators()}")
            found = _envs(next(iter(points)))
            if task:
                known = [env.spec.id for env in found]
                found = [env for env in found if env.spec.id == name]
                if not found:
                    raise EnvUnknownError(f"{simulator} has no env {name!r}; it has {known}")
        for env in found:
            if not _ID.fullmatch(env.spec.id):
                raise EnvUnknownError(f"{env.spec.id!r} is not an env id; it has the form simulator/Task")
            classes[env.spec.id] = env
    return classes


def make(
    env_id: str,
    *,
    fallback: Fallback = Fallback.SKIP,
    fallback_reward: float = 0.0,
    expert: bool = False,
    **options: Any,
) -> Runner:
    """An env in this process, e.g. `make("gym_cards/EZPoints", size=128)`. `options` are those of the env.

    Raises EnvUnknownError for an env that is not installed, pydantic.ValidationError for wrong options.
    """
    found = load([env_id])
    if len(found) != 1:
        raise EnvUnknownError(f"{env_id!r} names {len(found)} envs; choose one of {sorted(found)}")
    (env_class,) = found.values()
    env = env_class(env_class.options_model(**options))
    return Runner(env, fallback=fallback, fallback_reward=fallback_reward, expert=expert)


def versions(classes: Iterable[type[Env]]) -> dict[str, str]:
    """Distribution -> version, of the SDK and of the packages that the envs come from."""
    distributions = packages_distributions()
    modules = {"overworld", *(env.__module__.partition(".")[0] for env in classes)}
    return {name: version(name) for module in modules for name in distributions.get(module, ())}


def _named(name: str) -> type[Env]:
    """The class that "module:Class" or "gymnasium:ID" names."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    module, _, attribute = name.partition(":")
    if module == "gymnasium":
        from overworld.authoring.gymnasium.env import from_gymnasium  # an extra, which few need

        return from_gymnasium(attribute)
    env_class: type[Env] = getattr(importlib.import_module(module), attribute)
    if not (isinstance(env_class, type) and issubclass(env_class, Env) and hasattr(env_class, "spec")):
        raise EnvUnknownError(f"{name} is not an Env class with a spec")
    return env_class


def _envs(point: EntryPoint) -> list[type[Env]]:
    try:
        return list(point.load()())
    except ModuleNotFoundError as error:
        package = point.dist
        if package is None or point.name not in (package.metadata.get_all("Provides-Extra") or ()):
            raise
        raise ModuleNotFoundError(
            f"{error}; {point.name} needs more packages: pip install '{package.name}[{point.name}]'"
        ) from error
