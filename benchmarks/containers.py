"""Sizes of the images, and what it takes from `docker run` to a service that is well; the table of docs/deployment.md.

The peer of an image is the base image that it starts from: its size, and what its bare Python takes to start and end.
CPU-seconds are the container's own, health checks included.
"""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from report import Row, finish, parser

_VERSION = (Path(__file__).parents[1] / "VERSION").read_text().strip()
_BASE = "python:3.11-slim"
_SERVICES = {
    **{
        name.replace("_", "-"): ([name, "--insecure", "--plaintext", "--workers=1"], ["healthcheck", "127.0.0.1:50051"])
        for name in ("gym_cards", "miniworld", "alfworld", "webshop")
    },
    "policy-server": (["insecure=true", "plaintext=true"], ["healthcheck", "http://127.0.0.1:8000/health"]),
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


@dataclass(frozen=True)
class Start:
    """What a start took."""

    seconds: float
    cpu_seconds: float


def _cpu_seconds(container: str) -> float:
    """From the container's control group, version 1 (nanoseconds) or 2 (a table)."""
    files = "cat /sys/fs/cgroup/cpuacct/cpuacct.usage /sys/fs/cgroup/cpu.stat 2>/dev/null"
    words = _docker("exec", container, "sh", "-c", files, check=False).stdout.split()
    return int(words[1]) / 1e6 if words[0] == "usage_usec" else int(words[0]) / 1e9


def _start(image: str, arguments: list[str], check: list[str]) -> Start:
    """From `docker run` to the first health check that is passed."""
    started = time.perf_counter()
    container = _docker("run", "--detach", "--read-only", "--tmpfs=/tmp", image, *arguments).stdout.strip()
    try:
        while _docker("exec", container, *check, check=False).returncode:
            if time.perf_counter() - started > _START_SECONDS:
                raise TimeoutError(_docker("logs", container).stderr)
        return Start(time.perf_counter() - started, _cpu_seconds(container))
    finally:
        _docker("rm", "--force", container)


def main() -> None:
    """Runs the benchmark on images that `docker compose --profile train build` made."""
    arguments = parser(__doc__ or "").parse_args()
    base = _megabytes(_BASE)
    rows = [
        Row(f"{image}, size", f"{_megabytes(f'overworld/{image}:{_VERSION}') - base:.0f} MB on top of the base",
            size := _megabytes(f"overworld/{image}:{_VERSION}"), "MB", _BASE, base, base / size)
        for image in (*_SERVICES, "sdk")
    ]  # fmt: skip
    services = {f"overworld/{image}:{_VERSION}": settings for image, settings in _SERVICES.items()}
    services[_BASE] = (["sleep", "infinity"], ["python3", "-c", ""])
    starts: dict[str, list[Start]] = {image: [] for image in services}
    for _ in range(_RUNS):
        for image, (settings, check) in services.items():
            starts[image].append(_start(image, settings, check))
    for image in services:
        for unit, name in (("s", "seconds"), ("CPU-s", "cpu_seconds")):
            own, bare = (median(getattr(one, name) for one in starts[which]) for which in (image, _BASE))
            if image != _BASE:
                rows.append(Row(f"{image}, start-up", f"median of {_RUNS}", own, unit, _BASE, bare, bare / own))
    finish(rows, arguments.json)


if __name__ == "__main__":
    main()
