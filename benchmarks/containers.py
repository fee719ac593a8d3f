"""Sizes of the images, and seconds from `docker run` to a service that is well; the table of docs/deployment.md.

The peer of an image is the base image that it starts from: its size, and the time until its bare Python has run.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from pathlib import Path
from statistics import median

from report import Row, finish, parser

_VERSION = "0.1.0"
_BASE = "python:3.11-slim"
_SERVICES = {
    "gym-cards": (["gym_cards", "--insecure", "--workers=1"], ["healthcheck", "127.0.0.1:50051"]),
    "policy-server": (["insecure=true"], ["healthcheck", "http://127.0.0.1:8000/health"]),
    "trainer": (["/configs/tiny/gym_cards.yaml", "run=/tmp/run"], ["healthcheck", "http://127.0.0.1:9464/metrics"]),
}
"""Image -> arguments, health check."""
_RUNS = 5
_START_SECONDS = 120.0


def _docker(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *arguments], check=check, capture_output=True, text=True)


def _megabytes(image: str) -> float:
    size: int = json.loads(_docker("image", "inspect", image).stdout)[0]["Size"]
    return size / 1e6


def seconds_to_start(image: str, arguments: list[str], check: list[str]) -> float:
    """From `docker run` to the first health check that is passed."""
    with tempfile.TemporaryDirectory() as folder:
        identity = Path(folder) / "id"
        started = time.perf_counter()
        _docker(
            "run", "--detach", "--cidfile", str(identity), "--init", "--read-only", "--tmpfs=/tmp", image, *arguments
        )
        container = identity.read_text()
        try:
            while _docker("exec", container, *check, check=False).returncode:
                if time.perf_counter() - started > _START_SECONDS:
                    raise TimeoutError(_docker("logs", container).stderr)
            return time.perf_counter() - started
        finally:
            _docker("rm", "--force", container)


def _bare_seconds() -> float:
    started = time.perf_counter()
    _docker("run", "--rm", "--init", "--read-only", _BASE, "python3", "-c", "")
    return time.perf_counter() - started


def main() -> None:
    """Runs the benchmark on images that `docker compose --profile train build` made."""
    arguments = parser(__doc__ or "").parse_args()
    base = _megabytes(_BASE)
    rows = [
        Row(f"{image}, size", f"{_megabytes(f'overworld/{image}:{_VERSION}') - base:.0f} MB on top of the base",
            size := _megabytes(f"overworld/{image}:{_VERSION}"), "MB", _BASE, base, base / size)
        for image in (*_SERVICES, "sdk")
    ]  # fmt: skip
    times: dict[str, list[float]] = {image: [] for image in (*_SERVICES, _BASE)}
    for _ in range(_RUNS):
        times[_BASE].append(_bare_seconds())
        for image, (settings, check) in _SERVICES.items():
            times[image].append(seconds_to_start(f"overworld/{image}:{_VERSION}", settings, check))
    bare = median(times[_BASE])
    for image in _SERVICES:
        own = median(times[image])
        rows.append(Row(f"{image}, start-up", f"median of {_RUNS}", own, "s", f"bare {_BASE}", bare, bare / own))
    finish(rows, arguments.json)


if __name__ == "__main__":
    main()
