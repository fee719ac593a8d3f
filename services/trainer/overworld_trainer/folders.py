"""Where a run keeps what it writes for single updates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def update_folder(parent: Path, update: int) -> Path:
    """The folder for what comes after so many updates."""
    return parent / f"update-{update:06}"


def env_folders(parent: Path, env_ids: Sequence[str]) -> list[Path]:
    """A folder for each env: `parent` itself, unless there are several."""
    if len(env_ids) == 1:
        return [parent]
    return [parent / f"{number}-{env.replace('/', '-')}" for number, env in enumerate(env_ids)]
