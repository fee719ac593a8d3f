"""docs/metrics.md says of every metric what it is."""

import re
from pathlib import Path

import pytest
from overworld_trainer.metrics import Metric

PAGE = (Path(__file__).parents[3] / "docs" / "metrics.md").read_text()
ROWS = re.findall(r"^\| `(\w+/\w+)`( \*)? \|\s*(.*?)\s*\| (.*?) \|$", PAGE, re.MULTILINE)


def test_every_metric_is_on_the_page_once_in_order() -> None:
    names = [name for name, *_ in ROWS]
    assert names == sorted(Metric, key=str.lower)


@pytest.mark.parametrize(("name", "unit", "meaning"), [(name, unit, meaning) for name, _, unit, meaning in ROWS])
def test_units_fit_names(name: str, unit: str, meaning: str) -> None:
    assert len(meaning) > 10
    groups = {"time": {"s"}, "memory": {"GiB"}, "ends": {"fraction"}}
    assert unit in groups.get(name.partition("/")[0], {unit})
    assert (unit == "tokens/s") == name.endswith("tokens_per_second")
