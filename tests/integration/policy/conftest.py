"""A policy server over checkpoints that the tests make: two whole models and an adapter, of a tiny model each."""

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from overworld_vlm.tiny import make_tiny
from overworld_vlm.tiny_config import TinyConfig

from tests.support.checkpoints import TEXTS, with_adapter, write
from tests.support.warm import WarmProcess, WarmService

TINY = TinyConfig(hidden_size=32, intermediate_size=64, vision_layers=1)


@dataclass
class Served:
    url: str
    runs: Path
    http: httpx.Client
    process: WarmService

    def stop(self) -> None:
        self.http.close()
        self.process.stop()

    def chat(
        self,
        content: str | list[dict[str, Any]] = "Say something.",
        model: str = "whole@0",
        status: int = 200,
        **fields: Any,
    ) -> dict[str, Any]:
        messages = content if isinstance(content, list) else [{"role": "user", "content": content}]
        body = {"model": model, "messages": messages, "temperature": 0, "max_tokens": 12} | fields
        response = self.http.post("/chat/completions", json=body)
        assert response.status_code == status, response.text
        return response.json()

    def error(
        self, content: str | list[dict[str, Any]] = "Say something.", status: int = 400, **fields: Any
    ) -> dict[str, Any]:
        error: dict[str, Any] = self.chat(content, status=status, **fields)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return error


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs "whole" (updates 0 and 3) and "adapted" (0, and adapters 1 and 2 on it), and a base model beside them."""
    runs = tmp_path_factory.mktemp("runs")
    whole = runs / "whole" / "checkpoints"
    for update, seed in ((0, 0), (3, 1)):
        write(whole / f"{update:06}", make_tiny(TEXTS, TINY, seed), update)
    adapted = runs / "adapted" / "checkpoints"
    write(adapted / "000000", make_tiny(TEXTS, TINY, 2), 0)
    for update in (1, 2):
        vlm = with_adapter(make_tiny(TEXTS, TINY, 2), update)
        write(adapted / f"{update:06}", vlm, update, adapted / "000000" / "weights")
    return runs


def serve(runs: Path, *arguments: str, log: Path | None = None, **environment: str) -> Served:
    process = WarmService(
        "overworld_policy", f"runs={runs}", "port=0", "threads=1", *arguments, log=log, environment=environment
    )
    http = httpx.Client(base_url=process.address, timeout=60)
    return Served(process.address, runs, http, process)


@pytest.fixture(scope="session")
def served(runs: Path) -> Iterator[Served]:
    base = f"base={runs}/adapted/checkpoints/000000/weights"
    served = serve(runs, base, "max_messages=100", "max_images=4", "default_max_tokens=20")
    yield served
    served.stop()


@pytest.fixture
def copied(runs: Path, tmp_path: Path) -> Path:
    """Runs that a test may damage."""
    shutil.copytree(runs, tmp_path / "runs")
    return tmp_path / "runs"


def start_and_fail(*arguments: str, **environment: str) -> str:
    """The last line of a policy server that must not start."""
    with tempfile.NamedTemporaryFile("r") as log:
        failed = WarmProcess("overworld_policy", *arguments, log=Path(log.name), environment=environment)
        assert failed.wait(60) == 1
        return log.read().strip().splitlines()[-1]
