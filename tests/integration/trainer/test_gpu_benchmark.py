"""benchmarks/gpu_trainer.py runs from end to end; on a CPU with its smallest model."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_every_part_measures_something(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "gpu_trainer.py"), "--config", "small", "--json", str(file)],
        check=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )
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
