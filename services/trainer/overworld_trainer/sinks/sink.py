"""What every sink can do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Sink(Protocol):
    """Takes the metrics of each update as soon as it is made, and then those of its evaluation, if it has one.

    What opens a sink also closes it.
    """

    def write(self, update: int, env_steps: int, metrics: Mapping[str, float]) -> None:
        """Takes an update's metrics: `update` is its number, from 0, `env_steps` those made in all updates so far."""
