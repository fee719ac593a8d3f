"""benchmarks/gpu_trainer.py runs from end to end; on a CPU with its smallest model."""

import json
import sys
from pathlib import Path

from tests.support.warm import WarmProcess

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


def beside_the_benchmarks() -> None:
    """Benchmarks import one another by their bare names."""
    sys.path.insert(0, str(BENCHMARKS))


def test_every_part_measures_something(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    process = WarmProcess(
        "gpu_trainer",
        *("--config", "small", "--json", str(file)),
        log=tmp_path / "log",
        environment={"CUDA_VISIBLE_DEVICES": ""},
        first=beside_the_benchmarks,
    )
    assert process.wait(240) == 0, (tmp_path / "log").read_text()
    rows = json.loads(file.read_text())
    assert all(row["value"] >= 0 for row in rows)
    settings = {row["setting"] for row in rows if row["name"] == "decode: a token of all slots"}
    assert len(settings) == 4  # two numbers of slots, two lengths
    updates = [row for row in rows if row["name"] == "whole update"]
    assert ["checkpointing off" in row["setting"] for row in updates] == [True, False]
    assert all(row["value"] > 0 for row in updates)
    for update in updates:
        # Time is counted once, and the parts that occur in every update are there.
        parts = {row["name"]: row for row in rows if row["setting"] == update["setting"] and "time: " in row["name"]}
        assert {f"time: {part}" for part in ("prefill", "decode", "reference", "old_logps", "update")} <= set(parts)
        assert abs(sum(row["ratio"] for row in parts.values()) - 1) < 1e-6
