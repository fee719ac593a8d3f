"""Servers answer as they did when the traces were recorded."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import pytest

from tests.support.shared_folder import shared_folder
from tests.traces.compare import differences, drawn_by, without_pixels
from tests.traces.server import SIMULATORS, serving
from tests.traces.wire import Line, Wire, read_trace

FOLDER = Path(__file__).parent
SHOWN = 20


class OtherPixelsWarning(UserWarning):
    """Pixels were not compared, since the trace was drawn by something else."""


def trace(simulator: str) -> list[Line]:
    return read_trace(FOLDER / f"{simulator}.jsonl.gz")


@pytest.mark.filterwarnings("default::tests.traces.test_traces.OtherPixelsWarning")
@pytest.mark.parametrize("simulator", SIMULATORS)
def test_a_server_answers_as_recorded(simulator: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    recorded = trace(simulator)
    with serving(simulator, shared_folder(tmp_path_factory)) as server, Wire(server) as wire:
        replayed = [wire.call(line) for line in recorded]
    before, now = drawn_by(simulator, recorded), drawn_by(simulator, replayed)
    if before != now:
        warnings.warn(
            f"{simulator}: the hashes of pixels are not compared (all else is): recorded with {before}, here {now}",
            OtherPixelsWarning,
            stacklevel=1,
        )
        for lines in (recorded, replayed):
            for line in lines:
                without_pixels(simulator, line)
    found = differences(simulator, recorded, replayed)
    assert not found, f"{len(found)} fields differ; the first:\n" + "\n".join(found[:SHOWN])


def a_result(lines: list[Line]) -> tuple[int, Line]:
    """The first result with a picture, and its call."""
    for line in lines:
        for result in line.get("response", {}).get("results", ()):
            if result.get("observation", {}).get("images"):
                return line["call"], result
    raise LookupError("the trace has no picture")


@pytest.mark.parametrize("simulator", SIMULATORS)
def test_what_differs_is_named(simulator: str) -> None:
    recorded = trace(simulator)
    assert not differences(simulator, recorded, copy.deepcopy(recorded))
    changed = copy.deepcopy(recorded)
    call, result = a_result(changed)
    result["reward"] = 0.125
    result["observation"]["images"][0]["xxh64"] += "0"
    result["observation"]["parts"].append({"text": "One more."})
    found = differences(simulator, recorded, changed)
    assert [line.partition(":")[0].rpartition("results[0].")[2] for line in found] == [
        "observation.images[0].xxh64",
        f"observation.parts[{len(result['observation']['parts']) - 1}].text",
        "reward",
    ]
    assert all(line.startswith(f"{simulator}, call {call} (Step), response.results[0].") for line in found)
    assert found[2].endswith("replayed 0.125")
    for lines in (recorded, changed):
        for line in lines:
            without_pixels(simulator, line)
    assert differences(simulator, recorded, changed) == found[1:]


def test_a_changed_refusal_is_named() -> None:
    recorded = trace("gym_cards")
    changed = copy.deepcopy(recorded)
    call = next(line for line in changed if "refused" in line)
    call["refused"]["message"] += "!"
    (found,) = differences("gym_cards", recorded, changed)
    assert found.startswith(f"gym_cards, call {call['call']} ({call['method']}), refused.message: recorded ")
