"""The server that is traced."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from overworld.host.process import ServerProcess

SIMULATORS = ("gym_cards", "miniworld", "alfworld", "webshop")
TOKEN = "a token of no worth"

_WORKERS = {"gym_cards": 2}
"""The others load for seconds: one worker is enough."""


@contextmanager
def serving(simulator: str, cache: Path) -> Iterator[ServerProcess]:
    """`overworld serve <simulator>` with everything set that answers depend on; `cache` is a folder for it."""
    settings = {
        "OVERWORLD_ALFWORLD_CACHE": str(cache / "alfworld"),
        "OVERWORLD_WEBSHOP_CACHE": str(cache / "webshop"),
        "OVERWORLD_WEBSHOP_PRODUCTS": "1000",
    }
    others = {
        name: value
        for name, value in os.environ.items()
        if name != "ALFWORLD_DATA" and not name.startswith("OVERWORLD_WEBSHOP_")
    }
    arguments = ("--slots", "16", "--workers", str(_WORKERS.get(simulator, 1)), "--slot-bytes", "1000000")
    with mock.patch.dict(os.environ, others | settings, clear=True):
        server = ServerProcess(simulator, arguments=(*arguments, "--allow-expert"), token=TOKEN)
    with server:
        yield server
