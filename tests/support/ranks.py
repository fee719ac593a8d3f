"""Several ranks on this machine, without torchrun: processes that a warm one forks, so that they start at once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import yaml

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["overworld_trainer.train"])


def start_ranks(
    folder: Path,
    fields: dict[str, Any],
    size: int,
    *,
    of_rank: Mapping[int, dict[str, Any]] | None = None,
    first: Callable[[], None] | None = None,
) -> list[ForkServerProcess]:
    """Starts a run of as many ranks with the settings `fields`. Each one's stderr goes to `folder`/rank-<n>.log.

    `of_rank` are settings that a rank has instead; the last rank calls `first` before anything else.
    """
    paths = [folder / f"rank-{number}.yaml" for number in range(size)]
    for number, path in enumerate(paths):
        path.write_text(yaml.safe_dump(fields | (of_rank or {}).get(number, {})))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    processes = [
        _context.Process(
            target=_play, args=(path, number, size, port, first if number == size - 1 else None), daemon=True
        )
        for number, path in enumerate(paths)
    ]
    for process in processes:
        process.start()
    return processes


def run_ranks(folder: Path, fields: dict[str, Any], size: int) -> None:
    """A whole run of as many ranks."""
    processes = start_ranks(folder, fields, size)
    for process in processes:
        process.join(120)
    logs = [(folder / f"rank-{number}.log").read_text() for number in range(size)]
    assert [process.exitcode for process in processes] == [0] * size, logs


def _play(path: Path, number: int, size: int, port: int, first: Callable[[], None] | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ |= {
        "RANK": str(number),
        "LOCAL_RANK": str(number),
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    log = os.open(path.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, sys.stderr.fileno())
    from overworld.service.program import run
    from overworld_trainer.command import main

    if first is not None:
        first()
    run(main, [str(path)], "overworld_trainer")
