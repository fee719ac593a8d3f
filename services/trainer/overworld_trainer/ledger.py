"""The failure ledger of a run: what its samples were made of, and what it cost to get them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from overworld.client.counts import ByServer, Counts, since, total

from overworld_trainer.metrics import Metric, Metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What came between two updates, on all ranks, in one process of the run. A line of ledger.jsonl.

    samples     steps of the rollout that are learnt from
    failed      those that are not, since they failed inside a server
    restored    actions that were played again because the run was resumed
    fabricated  samples that no server's result stands behind
    balanced    whether each command that was sent is accounted for, and each result too
    servers     address -> entries of the client's ledger, see `Counts`
    """

    update: int
    samples: int
    failed: int
    restored: int
    fabricated: int
    balanced: bool
    servers: Mapping[str, Mapping[str, int]]

    @property
    def metrics(self) -> Metrics:
        """The figures of all servers together."""
        sums = total({address: Counts(**counts) for address, counts in self.servers.items()})
        return {
            Metric.LEDGER_DROPPED: float(sums.dropped),
            Metric.LEDGER_EXECUTED: float(sums.begun + sums.acted),
            Metric.LEDGER_FABRICATED: float(self.fabricated),
            Metric.LEDGER_FAILED: float(sums.failed),
            Metric.LEDGER_REPEATED: float(sums.repeated),
            Metric.LEDGER_REPLAYED: float(sums.replayed + self.restored),
            Metric.LEDGER_UNBALANCED: float(not self.balanced),
        }


class Ledger:
    """Makes the entries of one process, and adds them to the file `path`, if there is one.

    `restored` actions were played before the first update. Lines are only added: updates that are made again after a
    crash have one for each time.
    """

    def __init__(self, path: Path | None, restored: int) -> None:
        self._path = path
        self._restored = restored
        self._before: ByServer = {}

    def enter(self, update: int, *, samples: int, failed: int, now: ByServer) -> Entry:
        """The entry of an update whose rollout has so many samples and failed steps; `now` is what was counted."""
        counts, restored = since(self._before, now), self._restored
        self._before, self._restored = now, 0
        sums = total(counts)
        answered = samples + restored
        entry = Entry(
            update=update,
            samples=samples,
            failed=failed,
            restored=restored,
            fabricated=max(answered - sums.acted, 0),
            balanced=sums.balanced and sums.acted == answered,
            servers={address: own.to_json() for address, own in counts.items()},
        )
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(json.dumps(asdict(entry)) + "\n")
        return entry
