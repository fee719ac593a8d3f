"""Seconds by part; the times are slept, and a sleep may last longer than asked but not shorter."""

import json
import time
from pathlib import Path

import pytest
import torch
from overworld_vlm.stopwatch import OTHER, Stopwatch


def test_a_part_within_another_is_taken_off_it_and_all_sum_to_the_wall_time() -> None:
    began = time.perf_counter()
    stopwatch = Stopwatch()
    time.sleep(0.01)
    for _ in range(2):
        with stopwatch("outer"):
            time.sleep(0.02)
            with stopwatch("inner"):
                time.sleep(0.04)
                with stopwatch("outer"):
                    time.sleep(0.01)
    seconds = stopwatch.take()
    wall = time.perf_counter() - began
    assert seconds.keys() == {"outer", "inner", OTHER}
    assert seconds["outer"] >= 0.06
    assert seconds["inner"] >= 0.08
    assert seconds[OTHER] >= 0.01
    assert sum(seconds.values()) == pytest.approx(wall, abs=1e-3)


def test_each_taking_begins_again_even_within_a_part() -> None:
    stopwatch = Stopwatch()
    with stopwatch("part"):
        time.sleep(0.02)
        began = time.perf_counter()
        assert stopwatch.take()["part"] >= 0.02
        time.sleep(0.01)
    assert 0.01 <= stopwatch.take()["part"] <= time.perf_counter() - began
    assert stopwatch.take().keys() == {OTHER}


def test_a_part_that_fails_ends() -> None:
    stopwatch = Stopwatch()
    with pytest.raises(ValueError, match="broken"), stopwatch("part"):
        raise ValueError("broken")
    stopwatch.take()
    assert stopwatch.take().keys() == {OTHER}
    assert repr(stopwatch) == "Stopwatch(other, on cpu)"


def test_parts_are_ranges_of_a_profile(tmp_path: Path) -> None:
    stopwatch = Stopwatch()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        with stopwatch("outer"), stopwatch("inner"):
            torch.ones(8).sum()
    profiler.export_chrome_trace(str(tmp_path / "trace.json"))
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    parts = {event["name"]: event for event in events if event.get("cat") == "user_annotation"}
    assert parts["outer"]["dur"] >= parts["inner"]["dur"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: kernels that run after they are launched")
def test_on_a_gpu_kernels_count_for_the_part_that_launched_them() -> None:
    device = torch.device("cuda")
    matrix = torch.randn(8192, 8192, device=device)
    (matrix @ matrix).sum().item()
    began = time.perf_counter()
    stopwatch = Stopwatch(device)
    with stopwatch("launch"):
        for _ in range(20):
            matrix @ matrix
    launched = time.perf_counter() - began
    with stopwatch("wait"):
        torch.cuda.synchronize()
    seconds = stopwatch.take()
    wall = time.perf_counter() - began
    assert seconds["launch"] > 0.9 * wall > 2 * launched
    assert sum(seconds.values()) == pytest.approx(wall, rel=0.05)
