"""Modules of examples/, which is not a package."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

EXAMPLES = Path(__file__).parents[2] / "examples"


def load_example(file: str) -> ModuleType:
    """The module `file`, e.g. "trl/overworld_trl.py", new each time."""
    path = EXAMPLES / file
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # as `import` does; dataclasses and pydantic look modules up by name
    spec.loader.exec_module(module)
    return module
