"""The upstream packages: versions checked, imported without side effects, and only here in the engine.

`alfworld`, `textworld` and `fast-downward-textworld` come with the extra `overworld-envs[alfworld]`. This engine
replaces parts of theirs, so only the versions that it was verified against are accepted.
"""

from __future__ import annotations

import os
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

VERSIONS = {"alfworld": "0.4.2", "textworld": "1.7.0", "fast-downward-textworld": "20.6.4"}
"""The versions that the engine was verified against, byte for byte."""


class UpstreamError(ImportError):
    """An upstream package is missing or is not the version that was verified."""


def check_versions() -> None:
    """Raises UpstreamError unless exactly `VERSIONS` are installed."""
    found: dict[str, str | None] = {}
    for name in VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    if None in found.values():
        missing = ", ".join(name for name, is_version in found.items() if is_version is None)
        raise UpstreamError(
            f"ALFWorld needs {missing}, which is not installed: pip install 'overworld-envs[alfworld]' "
            "(it compiles for some minutes and needs cmake and g++)"
        )
    wrong = [f"{name} {found[name]} (needed: {wanted})" for name, wanted in VERSIONS.items() if found[name] != wanted]
    if wrong:
        raise UpstreamError(
            f"Parts of ALFWorld's engine are replaced here, which was not verified with {', '.join(wrong)}: "
            "install the versions needed, or run tests/unit/envs/alfworld with the new ones and edit upstream.VERSIONS"
        )


def _import_alfworld() -> Any:
    # The import creates the folder $ALFWORLD_DATA (by default ~/.cache/alfworld) and sets the variable. But only the
    # operator may set it, since it chooses the games, and a read-only home must not make the import fail.
    operators = os.environ.get("ALFWORLD_DATA")
    os.environ["ALFWORLD_DATA"] = tempfile.gettempdir()
    try:
        import alfworld.agents.utils.misc
        import alfworld.gen.constants
        import alfworld.gen.goal_library
    finally:
        del os.environ["ALFWORLD_DATA"]
        if operators is not None:
            os.environ["ALFWORLD_DATA"] = operators
    return alfworld


check_versions()
_alfworld = _import_alfworld()

import fast_downward as fast_downward  # noqa: E402
from textworld.envs.pddl import logic as _logic  # noqa: E402
from textworld.envs.pddl import textgen as textgen  # noqa: E402
from textworld.logic import Rule as _Rule  # noqa: E402

constants: Any = _alfworld.gen.constants
goals: dict[str, dict[str, Any]] = _alfworld.gen.goal_library.gdict
"""Task type -> {"pddl": goal with {obj}, {recep}, {toggle}, "templates": the goal in words}."""

_FOLDER = Path(_alfworld.__file__).parent
LAYOUTS = _FOLDER / "gen" / "layouts"
DOMAIN = (_FOLDER / "data" / "alfred.pddl").read_text()
GRAMMAR = (_FOLDER / "data" / "alfred.twl2").read_text()


parse_grammar: Any = _logic._parse_and_convert
"""Grammar text -> the game's actions by name, and its production rules."""
parse_text: Any = textgen._parse_and_convert
"""A text such as "You open the {r.name}." -> its symbols."""


def parse_conditions(query: str) -> list[tuple[str, list[tuple[str, str]]]]:
    """ "openable(r:receptacle) & opened(r:receptacle)" -> each predicate with its placeholders' names and types."""
    conditions = _Rule.parse_conjunctive_query(query).preconditions
    return [
        (each.name, [(placeholder.name, placeholder.type) for placeholder in each.parameters]) for each in conditions
    ]


def display_names(identifiers: list[str]) -> dict[str, str]:
    """Identifier -> the name that players see, e.g. "cabinet 3", numbered as ALFWorld does."""
    entities = {name: _Entity(name) for name in identifiers}
    demangler = _alfworld.agents.utils.misc.Demangler(game_infos=entities, shuffle=False)
    return {name: demangler.demangle_alfred_name(name) for name in identifiers}


class _Entity:
    """The part of a TextWorld entity that the demangler reads."""

    def __init__(self, identifier: str) -> None:
        self.id = identifier
