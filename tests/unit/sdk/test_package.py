"""What `import overworld` offers, and what it costs."""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import subprocess
import sys
from types import ModuleType
from typing import Any

import overworld
import pytest
from overworld import errors
from overworld.errors import MissingExtraError, OverworldError


def test_names_for_type_checkers_are_those_at_run_time() -> None:
    tree = ast.parse(inspect.getsource(overworld))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    declared = {(node.module, alias.name) for node in imports for alias in node.names if alias.name == alias.asname}
    assert declared == {(module, name) for name, module in overworld._HOMES.items()}


@pytest.mark.parametrize("name", overworld.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    assert getattr(overworld, name).__module__.startswith("overworld.")


def test_importing_the_package_loads_no_library() -> None:
    script = "import overworld, sys; print(sorted({'numpy', 'grpc', 'pydantic', 'redis', 'httpx'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_client_needs_none_of_the_extras() -> None:
    extras = {"redis", "pyarrow", "httpx", "rich", "prometheus_client", "pydantic_settings", "yaml", "gymnasium"}
    script = (
        "import sys\nfrom overworld import Env, Fleet, Runner, Session, make, open_registry, server_info\n"
        f"print(sorted({extras!r} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("module", "missing", "extra"),
    [
        ("overworld.host.health", "grpc_health.v1", "host"),
        ("overworld.host.metrics", "prometheus_client", "host"),
        ("overworld.service.settings", "pydantic_settings", "host"),
        ("overworld.evaluation.openai_client", "httpx", "eval"),
        ("overworld.evaluation.page", "jinja2", "eval"),
        ("overworld.evaluation.play", "rich.console", "eval"),
        ("overworld.evaluation.run_log", "tensorboard.summary", "watch"),
        ("overworld.evaluation.parquet", "pyarrow", "parquet"),
        ("overworld.redis_registry", "redis", "redis"),
        ("overworld.authoring.gymnasium.env", "gymnasium", "gymnasium"),
        ("overworld.bridges.gymnasium.env", "gymnasium", "gymnasium"),
        ("overworld.audit.learning", "torch", "learn"),
    ],
)
def test_a_missing_extra_says_which_to_install(
    module: str, missing: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any) -> ModuleType:
        if name == missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(MissingExtraError, match=rf"pip install 'overworld\[{extra}\]'"):
        importlib.import_module(module)


def test_every_error_has_the_one_base() -> None:
    found = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]
    assert len(found) > 10
    assert all(issubclass(error, OverworldError) for error in found)
    assert all(error.__name__ in (errors.__doc__ or "") for error in found)
