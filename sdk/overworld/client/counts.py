"""What became of a client's commands, as numbers that must balance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields


@dataclass(slots=True, kw_only=True)
class Counts:
    """A ledger's entries. They balance: sent = begun + acted + failed + repeated + dropped + waiting.

    sent       commands, each time that one is sent
    repeated   of these, the ones that had been sent before: the answer was lost, or pending
    begun      results of resets
    acted      results of actions
    failed     commands that failed inside the server
    dropped    commands that never got an answer, since the slot was given another one
    waiting    commands that have no answer yet
    replayed   commands that were executed again to bring episodes back, on a server that had lost them or on another
    refused    actions that were not sent, since their episode could not be brought back
    """

    sent: int = 0
    repeated: int = 0
    begun: int = 0
    acted: int = 0
    failed: int = 0
    dropped: int = 0
    waiting: int = 0
    replayed: int = 0
    refused: int = 0

    @property
    def balanced(self) -> bool:
        """Whether each command that was sent is accounted for."""
        first = self.sent - self.repeated
        return first == self.begun + self.acted + self.failed + self.dropped + self.waiting

    def __add__(self, other: Counts) -> Counts:
        return Counts(**{one.name: getattr(self, one.name) + getattr(other, one.name) for one in fields(self)})

    def __sub__(self, other: Counts) -> Counts:
        return Counts(**{one.name: getattr(self, one.name) - getattr(other, one.name) for one in fields(self)})

    def to_json(self) -> dict[str, int]:
        """By name."""
        return asdict(self)


ByServer = dict[str, Counts]
"""Address -> what was counted there. Only the sum over all addresses balances: a command may be sent to one server and
answered by another."""


def total(counts: Mapping[str, Counts]) -> Counts:
    """Of all servers."""
    return sum(counts.values(), Counts())


def together(parts: Iterable[Mapping[str, Counts]]) -> ByServer:
    """What several clients counted."""
    counts: ByServer = {}
    for part in parts:
        for address, own in tuple(part.items()):  # another thread may be counting
            counts[address] = counts.get(address, Counts()) + own
    return counts


def since(before: Mapping[str, Counts], now: Mapping[str, Counts]) -> ByServer:
    """What was counted in between."""
    return {address: own - before.get(address, Counts()) for address, own in now.items()}
