"""The failure ledger of a run."""

import json
from pathlib import Path

from overworld.client.counts import Counts
from overworld_trainer.ledger import Ledger
from overworld_trainer.metrics import Metric


def test_an_entry_holds_what_came_since_the_last_one(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl", restored=5)
    first = {"one:1": Counts(sent=20, repeated=3, begun=2, acted=14, failed=1)}
    entry = ledger.enter(7, samples=9, failed=1, now=first)
    assert (entry.balanced, entry.fabricated, entry.restored) == (True, 0, 5)
    assert entry.metrics[Metric.LEDGER_REPLAYED] == 5
    entry = ledger.enter(8, samples=2, failed=0, now=first | {"other:1": Counts(sent=2, acted=2, replayed=4)})
    assert (entry.balanced, entry.fabricated, entry.restored) == (True, 0, 0)
    assert entry.metrics[Metric.LEDGER_EXECUTED] == 2
    assert entry.metrics[Metric.LEDGER_REPLAYED] == 4
    lines = [json.loads(line) for line in (tmp_path / "ledger.jsonl").read_text().splitlines()]
    assert [(line["update"], line["samples"], line["servers"]["one:1"]["sent"]) for line in lines] == [
        (7, 9, 20),
        (8, 2, 0),
    ]


def test_samples_that_no_result_stands_behind_are_told(tmp_path: Path) -> None:
    ledger = Ledger(None, restored=0)
    entry = ledger.enter(0, samples=12, failed=0, now={"one:1": Counts(sent=12, begun=2, acted=10)})
    assert (entry.fabricated, entry.balanced) == (2, False)
    assert (entry.metrics[Metric.LEDGER_FABRICATED], entry.metrics[Metric.LEDGER_UNBALANCED]) == (2, 1)


def test_what_is_lost_unseen_does_not_balance() -> None:
    for counts in (Counts(sent=11, acted=10), Counts(sent=11, acted=11), Counts(sent=9, acted=10)):
        assert not Ledger(None, restored=0).enter(0, samples=10, failed=0, now={"one:1": counts}).balanced
