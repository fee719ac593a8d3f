"""Settings of a service: a YAML file, then key=value arguments, then OVERWORLD_* from the environment.

Each overrides the one before: `python -m overworld_trainer run.yaml seed=1 envs.0.slots=8`, and
OVERWORLD_OPTIMIZER__LR=1e-4 above both. A secret may stand in a file: OVERWORLD_TOKEN_FILE=/run/secrets/token.
`--print-config` prints what comes out.
"""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from overworld.service.secret import secret


class SettingsError(Exception):
    """Settings that make no sense; the message names each of them."""


class Settings(BaseSettings):
    """Base of a service's settings."""

    model_config = SettingsConfigDict(
        env_prefix="OVERWORLD_", env_nested_delimiter="__", extra="forbid", frozen=True, validate_default=True
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment goes before what was passed in."""
        return _Secrets(settings_cls), env_settings, init_settings

    @classmethod
    def load(cls, arguments: Sequence[str]) -> Self:
        """From YAML files and key=value arguments, in this order. Raises SettingsError.

        `--print-config` among them prints the settings and exits.
        """
        values: dict[str, Any] = {}
        for argument in arguments:
            if argument == "--print-config":
                continue
            key, equals, value = argument.partition("=")
            if equals:
                _put(values, key.split("."), _parse(argument, value))
            else:
                _merge(values, _read(Path(argument)))
        try:
            settings = cls(**values)
        except ValidationError as error:
            problems = (f"{'.'.join(map(str, one['loc'])) or 'settings'}: {one['msg']}" for one in error.errors())
            raise SettingsError("; ".join(problems)) from None
        except ValueError as error:  # of a secret's file
            raise SettingsError(str(error)) from None
        if "--print-config" in arguments:
            yaml.safe_dump(settings.model_dump(mode="json"), sys.stdout, sort_keys=False)
            sys.exit(0)
        return settings


class _Secrets(PydanticBaseSettingsSource):
    """Fields that are kept out of dumps, from the files that the environment names."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        value = secret(f"{self.config['env_prefix']}{field_name}".upper()) if field.exclude else ""
        return value or None, field_name, False

    def __call__(self) -> dict[str, Any]:
        values = {name: self.get_field_value(field, name)[0] for name, field in self.settings_cls.model_fields.items()}
        return {name: value for name, value in values.items() if value is not None}


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens on `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise SettingsError(f"{path} cannot be read: {error} (settings are YAML files or key=value)") from None
    if not isinstance(content, dict):
        raise SettingsError(f"{path} must hold settings by name, not a {type(content).__name__}")
    return content


def _parse(argument: str, value: str) -> Any:
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        raise SettingsError(f"{argument!r}: what stands behind = must be YAML") from None


def _merge(values: dict[str, Any], more: dict[str, Any]) -> None:
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(values.get(key), dict):
            _merge(values[key], value)
        else:
            values[key] = value


def _put(values: Any, path: Sequence[str], value: Any) -> None:
    """Sets what a dotted path names; numbers index lists."""
    key, *rest = path
    if isinstance(values, list):
        if not key.isdigit() or int(key) >= len(values):
            raise SettingsError(f"{key!r} is no index of a list of {len(values)}")
        if rest:
            _put(values[int(key)], rest, value)
        else:
            values[int(key)] = value
    elif not isinstance(values, dict):
        raise SettingsError(f"{key!r} cannot be set within {values!r}")
    elif rest:
        _put(values.setdefault(key, {}), rest, value)
    else:
        values[key] = value
