"""Settings: one pydantic model per command, filled from four places, each above the one before.

    defaults < YAML files < environment < command line

    overworld train run.yaml seed=1 --policy.lr 1e-5 envs.0.slots=8
    OVERWORLD_POLICY__LR=1e-5 overworld train run.yaml

`key=value` and `--key value` mean the same. Values are YAML; dots lead into sections and lists. A secret may stand in a
file: OVERWORLD_TOKEN_FILE=/run/secrets/token. `--print-config` prints what comes out and where each value is from,
`--help` every setting.
"""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, NamedTuple, Self, Union, get_args, get_origin

from pydantic import BaseModel, Field, ValidationError, create_model
from pydantic.fields import FieldInfo

from overworld.errors import SettingsError
from overworld.service.extras import needs_extra
from overworld.service.secret import secret

with needs_extra("host"):
    import yaml
    from pydantic_settings import (
        BaseSettings,
        CliPositionalArg,
        CliSettingsSource,
        EnvSettingsSource,
        PydanticBaseSettingsSource,
        SettingsConfigDict,
    )

_COMMAND_LINE = "command line"
_HELP_WIDTH, _HELP_COLUMN = 110, 32
_EPILOG = """\
A setting is written key=value or --key value; a yes-or-no setting may stand alone, as in --insecure. Values are YAML;
a key that takes a list may be repeated instead, once for each member.
More places for settings, each above the one before: the defaults, files ending in .yaml or .yml in the order in which
they are named, the environment as {prefix}KEY (with __ for the dots), the command line. A secret may stand in a file
that {prefix}KEY_FILE names. --print-config prints what comes out, with the source of each value."""

_Path = tuple[str, ...]


class Settings(BaseSettings):
    """Base of a command's settings. A field with `exclude` is a secret: it is not printed, and may stand in a file.

    The constructor takes what a program or a test passes in, above the environment; `load` reads a command line.
    """

    model_config = SettingsConfigDict(
        env_prefix="OVERWORLD_", env_nested_delimiter="__", extra="forbid", frozen=True, validate_default=True
    )

    positional: ClassVar[_Path] = ()
    """Names of the fields that words without a key go to, in order; the last one takes the rest if it is a list."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What is passed in goes above the environment."""
        return init_settings, env_settings, _SecretFiles(settings_cls)

    @classmethod
    def load(cls, arguments: Sequence[str], command: str = "") -> Self:
        """The settings that the arguments make, above files and environment. Raises SettingsError.

        `--help` and `--print-config` print and exit; the former names the `command`.
        """
        if "--help" in arguments or "-h" in arguments:
            print(_help(cls, command))
            sys.exit(0)
        prefix = cls.model_config["env_prefix"]
        sources = _Sources()
        try:
            files, assignments = _parse(cls, [argument for argument in arguments if argument != "--print-config"])
            for file in files:
                for path, value in _assignments(_read(file)):
                    sources.put(path, value, str(file))
            for path, value in _assignments(EnvSettingsSource(cls)()):
                sources.put(path, value, prefix + "__".join(path).upper())
            for path, value in _assignments(_SecretFiles(cls)()):
                variable = f"{prefix}{path[0]}".upper()
                sources.put(path, value, f"{variable}_FILE" if os.environ.get(f"{variable}_FILE") else variable)
            for path, value in assignments:
                sources.put(path, value, _COMMAND_LINE)
            settings = cls(**sources.values)
        except ValidationError as error:
            raise SettingsError("; ".join(_problem(cls, one["loc"], one) for one in error.errors())) from None
        except SettingsError:
            raise
        except ValueError as error:  # pydantic-settings' own, of the environment
            raise SettingsError(str(error)) from None
        if "--print-config" in arguments:
            print("\n".join(_lines(settings.model_dump(mode="json"), sources)))
            for name, field in cls.model_fields.items():
                if field.exclude and getattr(settings, name):
                    print(f"# {name}: set, not shown  # {sources.of((name,))}")
            sys.exit(0)
        return settings


def yaml_value(text: str, where: str) -> Any:
    """The value that a YAML text means. Raises SettingsError, which names `where` it stands."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise SettingsError(f"{where}: {text!r} is not YAML; quote it if it is a text") from None


class _SecretFiles(PydanticBaseSettingsSource):
    """Secrets, from the files that the environment names."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        value = secret(f"{self.config['env_prefix']}{field_name}".upper()) if field.exclude else ""
        return value or None, field_name, False

    def __call__(self) -> dict[str, Any]:
        values = {name: self.get_field_value(field, name)[0] for name, field in self.settings_cls.model_fields.items()}
        return {name: value for name, value in values.items() if value is not None}


class _Sources:
    """Values by name, and for each path the source that it was last set from."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self._sources: dict[_Path, str] = {}

    def put(self, path: _Path, value: Any, source: str) -> None:
        """Sets what a path names; numbers index lists. Raises SettingsError."""
        holder: Any = self.values
        for depth, key in enumerate(path):
            where, last = ".".join(path[: depth + 1]), depth == len(path) - 1
            if isinstance(holder, list):
                if not key.isdigit() or int(key) >= len(holder):
                    raise SettingsError(f"{where}: the list has the entries 0 to {len(holder) - 1}, not {key}")
                index: Any = int(key)
            elif isinstance(holder, dict):
                index = key
                if not last and holder.get(key) is None:
                    holder[key] = {}
            else:
                raise SettingsError(f"{where} cannot be set: {'.'.join(path[:depth])} is {holder!r}, not a section")
            if last:
                holder[index] = value
            else:
                holder = holder[index]
        self._sources = {known: name for known, name in self._sources.items() if known[: len(path)] != path}
        self._sources |= {(*path, *below): source for below, _ in _leaves(value)}

    def of(self, path: _Path) -> str:
        """Where the value at `path` is from."""
        above = (path[:length] for length in range(len(path), 0, -1))
        return next((self._sources[known] for known in above if known in self._sources), "default")


class _Assignment(NamedTuple):
    path: _Path
    value: Any


def _parse(cls: type[Settings], arguments: Sequence[str]) -> tuple[list[Path], list[_Assignment]]:
    """The settings files that the arguments name, and what they set."""
    files: list[Path] = []
    assignments: list[_Assignment] = []
    words: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        key, equals, text = argument.partition("=")
        if key.startswith("--"):
            key = key[2:].replace("-", "_")
            if not equals:
                text = "true" if _annotation(cls, tuple(key.split("."))) is bool else next(rest, "")
                if not text:
                    raise SettingsError(f"{argument} needs a value: {argument} VALUE")
        elif not equals:
            if argument.endswith((".yaml", ".yml")):
                files.append(Path(argument))
            else:
                words.append(argument)
            continue
        path = tuple(key.split("."))
        annotation = _annotation(cls, path)
        value = _value(annotation, text, key)
        if get_origin(annotation) is list and isinstance(value, str):
            earlier: list[Any] = next((one.value for one in reversed(assignments) if one.path == path), [])
            value = [*earlier, value]
        assignments.append(_Assignment(path, value))
    return files, _positional(cls, words) + assignments


def _positional(cls: type[Settings], words: list[str]) -> list[_Assignment]:
    """What words without a key set."""
    assignments = []
    for name in cls.positional:
        if get_origin(_annotation(cls, (name,))) in (list, tuple):
            taken, words = words, []
            if taken:
                assignments.append(_Assignment((name,), taken))
        elif words:
            assignments.append(_Assignment((name,), words.pop(0)))
    if words:
        raise SettingsError(f"{words[0]!r} is neither key=value nor a settings file (.yaml); --help lists the settings")
    return assignments


def _value(annotation: Any, text: str, key: str) -> Any:
    """A text as the setting wants it: texts and paths as they stand, all else as YAML."""
    options = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    if NoneType in options and text == "null":
        return None
    if any(option in (str, Path) or get_origin(option) is Literal for option in options):
        return text
    return yaml_value(text, key)


def _annotation(model: type[BaseModel], path: _Path) -> Any:
    """The type of the setting at `path`; Any where the model does not know it."""
    annotation: Any = model
    for key in path:
        parts = [part for part in get_args(annotation) if part is not NoneType]
        if get_origin(annotation) in (Union, UnionType) and len(parts) == 1:
            (annotation,) = parts
        if isinstance(annotation, type) and issubclass(annotation, BaseModel) and key in annotation.model_fields:
            annotation = annotation.model_fields[key].annotation
        elif get_origin(annotation) in (list, tuple) and key.isdigit():
            annotation = get_args(annotation)[0]
        else:
            return Any
    return annotation


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise SettingsError(f"{path} cannot be read as YAML: {error}") from None
    if not isinstance(content, dict):
        raise SettingsError(f"{path} must hold settings by name, not a {type(content).__name__}")
    return content


def _assignments(values: dict[str, Any]) -> list[_Assignment]:
    """What a source sets: each value in its sections, so that sections of several sources merge; lists are values."""
    return [_Assignment(path, value) for path, value in _leaves(values, lists=False) if path]


def _leaves(value: Any, path: _Path = (), *, lists: bool = True) -> Iterator[tuple[_Path, Any]]:
    """The paths and values in nested sections and, unless they count as values, in `lists` of sections."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, (*path, str(key)), lists=lists)
    elif lists and isinstance(value, list) and any(isinstance(inner, dict) for inner in value):
        for index, inner in enumerate(value):
            yield from _leaves(inner, (*path, str(index)))
    else:
        yield path, value


def _problem(cls: type[Settings], location: Sequence[str | int], error: Any) -> str:
    """One line on what is wrong with a setting."""
    where = ".".join(map(str, location))
    if error["type"] != "extra_forbidden":
        message: str = error["msg"].removeprefix("Value error, ")
        return f"{where}: {message}" if where else message
    section = _annotation(cls, tuple(map(str, location[:-1])))
    known = list(section.model_fields) if isinstance(section, type) and issubclass(section, BaseModel) else []
    near = difflib.get_close_matches(str(location[-1]), known, 1)
    return f"{where} is not a setting" + (f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}")


def _lines(values: Any, sources: _Sources, path: _Path = (), indent: str = "") -> Iterator[str]:
    """Settings as YAML, each with its source."""
    entries = values.items() if isinstance(values, dict) else enumerate(values)
    for key, value in entries:
        here = (*path, str(key))
        name = f"{indent}{key}:" if isinstance(values, dict) else f"{indent}-"
        if next(_leaves(value))[0]:
            yield name
            yield from _lines(value, sources, here, indent + "  ")
        else:
            text = yaml.safe_dump(value, default_flow_style=True, width=float("inf")).removesuffix("...\n").strip()
            yield f"{name} {text}  # {sources.of(here)}"


def _help(cls: type[Settings], command: str) -> str:
    """Every setting with its type, default and description, by pydantic-settings' own writer."""
    shown: dict[str, Any] = {}
    for name, field in cls.model_fields.items():
        item = next(iter(get_args(field.annotation)), None)
        if name in cls.positional:
            shown[name] = (CliPositionalArg[field.annotation], field)  # type: ignore[misc, name-defined]
        elif isinstance(item, type) and issubclass(item, BaseModel) and get_origin(field.annotation) in (list, tuple):
            shown[name] = (item, Field(alias=f"{name}.N", description=field.description))
    words = " ".join(name.upper() for name in cls.positional)
    parser = argparse.ArgumentParser(
        usage=" ".join(filter(None, (command, words, "[FILE.yaml ...] [key=value | --key value ...]"))),
        description=cls.__doc__,
        epilog=_EPILOG.format(prefix=cls.model_config["env_prefix"]),
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(
            prog, max_help_position=_HELP_COLUMN, width=_HELP_WIDTH
        ),
    )
    CliSettingsSource(
        create_model(cls.__name__, __base__=cls, **shown),
        root_parser=parser,
        cli_kebab_case="no_enums",
        cli_hide_none_type=True,
        cli_avoid_json=True,
    )
    return parser.format_help().rstrip()
