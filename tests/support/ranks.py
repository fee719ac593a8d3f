"""Several ranks on this machine, without torchrun."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.support.ports import free_port
from tests.support.warm import WarmProcess


def start_ranks(
    folder: Path,
    fields: dict[str, Any],
    size: int,
    *,
    of_rank: Mapping[int, dict[str, Any]] | None = None,
    first: Callable[[], None] | None = None,
) -> list[WarmProcess]:
    """Starts a run of as many ranks with the settings `fields`. Each one's stderr goes to `folder`/rank-<n>.log.

    `of_rank` are settings that a rank has instead; the last rank calls `first` before anything else.
    """
    paths = [folder / f"rank-{number}.yaml" for number in range(size)]
    for number, path in enumerate(paths):
        path.write_text(yaml.safe_dump(fields | (of_rank or {}).get(number, {})))
    port = free_port()
    return [
        WarmProcess(
            "overworld_trainer",
            str(path),
            log=path.with_suffix(".log"),
            environment={
                "RANK": str(number),
                "LOCAL_RANK": str(number),
                "WORLD_SIZE": str(size),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            },
            first=first if number == size - 1 else None,
        )
        for number, path in enumerate(paths)
    ]


def run_ranks(folder: Path, fields: dict[str, Any], size: int) -> None:
    """A whole run of as many ranks."""
    statuses = [process.wait(120) for process in start_ranks(folder, fields, size)]
    logs = [(folder / f"rank-{number}.log").read_text() for number in range(size)]
    assert statuses == [0] * size, logs
