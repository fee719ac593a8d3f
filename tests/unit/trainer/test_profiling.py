"""Traces of an update."""

import gzip
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from overworld_trainer import profiling
from overworld_trainer.profiling import traced
from overworld_vlm.stopwatch import Stopwatch


def work(seconds: float) -> None:
    matrix = torch.eye(32)
    began = time.perf_counter()
    while time.perf_counter() < began + seconds:
        matrix @ matrix


def events(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path) as file:
        return list(json.load(file)["traceEvents"])


def parts(path: Path) -> Counter[str]:
    return Counter(event["name"] for event in events(path) if event.get("cat") == "user_annotation")


def test_a_trace_holds_parts_and_operations(tmp_path: Path) -> None:
    path = tmp_path / "traces" / "update-000003.json.gz"
    stopwatch = Stopwatch()
    with traced(path, stopwatch):
        with stopwatch("update"):
            work(0.01)
            with stopwatch("inner"):
                work(0.01)
    assert parts(path) == {"update": 1, "inner": 1}
    assert any(event["name"] == "aten::matmul" for event in events(path) if event.get("cat") == "cpu_op")
    assert list(path.parent.iterdir()) == [path]
    with stopwatch("later"):
        work(0.01)
    assert stopwatch.take().keys() == {"update", "inner", "record", "later", "other"}


def test_no_part_is_recorded_for_longer_than_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiling, "_SECONDS_PER_PART", 0.05)
    path = tmp_path / "trace.json.gz"
    stopwatch = Stopwatch()
    with traced(path, stopwatch):
        for _ in range(20):
            with stopwatch("many"):
                work(0.02)
        with stopwatch("last"):
            work(0.02)
        with stopwatch("many"):
            work(0.02)
    found = parts(path)
    assert 1 <= found.pop("many") <= 3
    assert found == {"last": 1}
    last = next(event for event in events(path) if event["name"] == "last")
    within = [event for event in events(path) if event["name"] == "aten::matmul" and event["ts"] >= last["ts"]]
    assert within
    assert all(event["ts"] <= last["ts"] + last["dur"] for event in within)


def test_parts_that_alternate_do_not_switch_the_profiler_forever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(profiling, "_SECONDS_PER_PART", 0.02)
    stopwatch = Stopwatch()
    with traced(tmp_path / "trace.json.gz", stopwatch):
        with stopwatch("long"):
            work(0.02)
        for _ in range(100):
            with stopwatch("short"):
                pass
            with stopwatch("long"):
                pass
        with stopwatch("new"):
            work(0.01)
    found = parts(tmp_path / "trace.json.gz")
    assert (found["long"], found["new"]) == (1, 1)
    assert 1 < found["short"] < 20
    assert capfd.readouterr().err.count("Toggling") < 20


def test_what_fails_leaves_no_trace(tmp_path: Path) -> None:
    stopwatch = Stopwatch()
    with pytest.raises(ValueError, match="broken"), traced(tmp_path / "trace.json.gz", stopwatch):
        raise ValueError("broken")
    assert not any(tmp_path.iterdir())
