"""What a project that wraps an env of Gymnasium has to know of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.metadata import metadata, packages_distributions, version

from overworld.errors import EnvUnknownError, SettingsError
from overworld.service.extras import needs_extra

with needs_extra("gymnasium"):
    import gymnasium

    from overworld.authoring.gymnasium.env import from_gymnasium

_ID = re.compile(r"([\w.]+:)?([\w.-]+/)*[\w.-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Wrapped:
    """`requirement` is what pip installs the env with."""

    gymnasium_id: str
    env_id: str
    requirement: str


def wrapped(gymnasium_id: str) -> Wrapped:
    """Makes, resets and draws the env once. Raises EnvUnknownError, and SettingsError if it cannot be served."""
    if not _ID.fullmatch(gymnasium_id):
        raise SettingsError(f"gymnasium: {gymnasium_id[:80]!r} is not an id of Gymnasium, such as FrozenLake-v1")
    try:
        spec = from_gymnasium(gymnasium_id).spec
    except EnvUnknownError:
        raise
    except Exception as error:  # whatever the env's own code raises
        raise SettingsError(f"gymnasium: {gymnasium_id} cannot be wrapped: {type(error).__name__}: {error}") from error
    return Wrapped(gymnasium_id, spec.id, _requirement(gymnasium_id))


def _requirement(gymnasium_id: str) -> str:
    entry = gymnasium.spec(gymnasium_id).entry_point
    package, *parts = (entry if isinstance(entry, str) else entry.__module__).partition(":")[0].split(".")
    name = next(iter(packages_distributions().get(package, ["gymnasium"])))
    extra = parts[1].replace("_", "-") if name == "gymnasium" and len(parts) > 1 else ""
    known = metadata(name).get_all("Provides-Extra") or ()
    return f"{name}[{extra}]>={version(name)}" if extra in known else f"{name}>={version(name)}"
