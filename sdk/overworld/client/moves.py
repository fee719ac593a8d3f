"""Moves: what a caller has slots do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from overworld.authoring.env import Action


@dataclass(frozen=True, slots=True)
class Reset:
    """Start an episode. The fields are those of the contract's Reset."""

    seed: int = 0
    split: str = ""
    task: int | None = None
    prefix: Sequence[Action | None] = ()


@dataclass(frozen=True, slots=True)
class Act:
    """Act, with the model's whole reply for the record. If there is no reply to keep, pass the action alone."""

    action: Action | None
    reply: str = ""


Move = Reset | Act | Action | None
"""What to do in a slot. None: no action could be read."""

Moves = Mapping[int, Move] | Sequence[Move]
"""Slot -> move, or the moves of slots 0, 1, ..."""
