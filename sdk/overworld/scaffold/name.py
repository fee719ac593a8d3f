"""The name of a project. It becomes a folder, a Python package, an image, a host name and a label in Kubernetes."""

from __future__ import annotations

import importlib.util
import keyword
import os
import re
import sys

from overworld.errors import SettingsError

_FORM = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_LONGEST = 40
"""Characters: the longest name made from it, that of a pod, is a DNS label of 63 at most."""
_STACK = {
    "alfworld", "authority", "env-server", "evaluator", "gym-cards", "miniworld", "own", "policy-server", "redis",
    "runs", "secrets", "trainer", "webshop",
}  # fmt: skip
"""Services and volumes of Overworld's own stack, which the project's server is to join."""


def check_name(name: str) -> str:
    """The name, if a project can have it. Raises SettingsError."""
    if len(name) > _LONGEST or not _FORM.fullmatch(name):
        near = re.sub(r"[^a-z0-9]+", "-", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name[:_LONGEST]).lower()).strip("-")
        raise SettingsError(
            f"name: {name[:80]!r} cannot name a package, an image and a host at once: take lower-case letters and "
            f"digits, a letter first, in words joined by single hyphens, {_LONGEST} characters at most"
            + (f", such as {near}" if _FORM.fullmatch(near) else "")
        )
    module = module_of(name)
    if name in _STACK:
        raise SettingsError(f"name: {name} is a service of Overworld's own stack: take another name")
    if keyword.iskeyword(module) or module in sys.stdlib_module_names:
        raise SettingsError(
            f"name: {module} is a word or a module of Python itself: take another name, such as {name}-env"
        )
    if _is_installed(module):
        raise SettingsError(
            f"name: a module {module} is installed here already, and two cannot be imported: take another name, such "
            f"as {name}-env"
        )
    return name


def _is_installed(module: str) -> bool:
    """Whether the module can be imported anywhere but in the current folder."""
    before = sys.path[:]
    sys.path[:] = [path for path in before if os.path.abspath(path) != os.getcwd()]
    try:
        return importlib.util.find_spec(module) is not None
    finally:
        sys.path[:] = before


def module_of(name: str) -> str:
    """The Python package of a project."""
    return name.replace("-", "_")
