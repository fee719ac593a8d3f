"""Makes a project from a template.

A template is a whole project that works as it stands, under a name of its own. To make another one of it is to put
other names in the place of these.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from overworld.errors import SettingsError
from overworld.scaffold.name import module_of

_TEMPLATES = Path(__file__).with_name("templates")


def make_python(folder: Path) -> list[Path]:
    """A project with an env of its own in Python. The name is that of the folder; see `_make`."""
    return _make(folder, ("shared", "python"), _python_names(folder.name))


def make_gymnasium(folder: Path, gymnasium_id: str) -> list[Path]:
    """A project that serves an env of Gymnasium. Raises EnvUnknownError and SettingsError; see `_make`."""
    from overworld.scaffold.wrapped import wrapped  # an extra, which few need

    env = wrapped(gymnasium_id)
    names = {
        "gymnasium/FrozenLake-v1": env.env_id,
        "FrozenLake-v1": env.gymnasium_id,
        "gymnasium[toy-text]": env.requirement,
    }
    return _make(folder, ("shared", "gymnasium"), names | _python_names(folder.name))


def make_node(folder: Path) -> list[Path]:
    """A project with a whole env server in JavaScript; see `_make`."""
    name = folder.name
    return _make(folder, ("node",), {"node-server": name, "maze/Escape": f"{module_of(name)}/Escape"})


def _python_names(name: str) -> dict[str, str]:
    return {"shape-hunt": name, "shape_hunt": module_of(name)}


def _make(folder: Path, templates: tuple[str, ...], names: Mapping[str, str]) -> list[Path]:
    """The project's files, relative to its new folder. It is there as a whole, or not at all.

    Raises SettingsError if something is in the folder's place, an empty folder aside.
    """
    pattern = re.compile("|".join(map(re.escape, names)))  # at once: a name may contain another one

    def renamed(text: str) -> str:
        return pattern.sub(lambda found: names[found[0]], text)

    made = []
    try:
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as place:
            unfinished = Path(place) / folder.name
            for template in templates:
                for source in _files(_TEMPLATES / template):
                    path = Path(renamed(str(source.relative_to(_TEMPLATES / template))))
                    (unfinished / path).parent.mkdir(parents=True, exist_ok=True)
                    (unfinished / path).write_text(renamed(source.read_text(encoding="utf-8")), encoding="utf-8")
                    made.append(path)
            unfinished.rename(folder)  # fails where there is anything but an empty folder
    except OSError as error:
        what = f"{folder} is there already" if folder.exists() or folder.is_symlink() else f"{folder} cannot be made"
        raise SettingsError(f"{what} ({error.strerror}): nothing was written. Take another name, or folder") from None
    return sorted(made)


def _files(folder: Path) -> Iterator[Path]:
    """Those of the template, without what working in it leaves there: packages and caches."""
    for path in sorted(folder.iterdir()):
        if path.is_file():
            yield path
        elif not path.name.startswith((".", "__pycache__", "node_modules")):
            yield from _files(path)
