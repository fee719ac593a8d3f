"""Trains with whichever version of the trainer is on the path: `training_run.py SETTINGS.yaml`. For benchmarks.

Prints, as JSON, a line for each update: seconds and CPU-seconds of this process since it began, the env's steps and the
frames that went through the vision tower so far, and the update's metrics.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import frames_env
import torch
import yaml
from overworld.host.process import ServerProcess
from overworld_trainer.config import PolicyConfig, TrainerConfig
from overworld_trainer.train import train
from overworld_vlm.load import quieten_transformers
from transformers.models.qwen2_vl.modeling_qwen2_vl import PatchEmbed

_POLL_SECONDS = 0.002
_PATCH = 14


class Tower:
    """Counts the patches that go through Qwen2-VL's vision tower. Its class is changed: the model is made later."""

    def __init__(self) -> None:
        self.patches = 0
        forward = PatchEmbed.forward

        def counted(embed: Any, patches: torch.Tensor) -> torch.Tensor:
            self.patches += len(patches)
            embedded: torch.Tensor = forward(embed, patches)
            return embedded

        PatchEmbed.forward = counted


class Watch(threading.Thread):
    """Notes when a line is added to metrics.jsonl, and what had been spent by then."""

    def __init__(self, metrics: Path, tower: Tower, patches_per_frame: int) -> None:
        super().__init__(daemon=True)
        self.updates: list[dict[str, Any]] = []
        self.stop = threading.Event()
        self._metrics = metrics
        self._tower = tower
        self._patches_per_frame = patches_per_frame

    def run(self) -> None:
        size = 0
        while not self.stop.wait(_POLL_SECONDS):
            with contextlib.suppress(FileNotFoundError):
                if self._metrics.stat().st_size > size:
                    size = self._metrics.stat().st_size
                    self._note()

    def _note(self) -> None:
        lines = self._metrics.read_text().splitlines()
        self.updates.append(
            {
                "seconds": time.perf_counter(),
                "cpu_seconds": time.process_time(),
                "frames": self._tower.patches / self._patches_per_frame,
                "metrics": json.loads(lines[-1]),
            }
        )


def main() -> None:
    """Trains, and prints what each update took."""
    settings = yaml.safe_load(Path(sys.argv[1]).read_text())
    if "microbatch" in PolicyConfig.model_fields:  # before batches were cut by tokens
        settings["policy"]["microbatch"] = 16
    quieten_transformers()
    tower = Tower()
    watch = Watch(
        Path(settings["run"]) / "metrics.jsonl", tower, (settings["envs"][0]["options"]["size"] // _PATCH) ** 2
    )
    watch.start()
    with contextlib.ExitStack() as stack:
        # A server for each env, with a worker for each slot: no slot waits for another's simulator.
        servers = [
            stack.enter_context(ServerProcess(env, arguments=("--workers", str(slots), "--allow-expert")))
            for env, slots in zip(frames_env.ENVS, (1, 8), strict=True)
        ]
        train(TrainerConfig(**settings, servers=",".join(server.address for server in servers)))
    watch.stop.set()
    watch.join()
    print(*map(json.dumps, watch.updates), sep="\n")


if __name__ == "__main__":
    main()
