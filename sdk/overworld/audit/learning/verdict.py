"""What the arms' returns in the same held-out episodes say."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from overworld.evaluation.statistics import Interval, paired_difference

_FEWEST = 6
"""Differing episodes without which no gain is claimed: below, not even all of them in one direction would make an exact
two-sided sign test reject at 5 % (2 * 0.5 ** 5 = 0.0625), and a bootstrap interval of so few is too narrow."""


class Verdict(enum.StrEnum):
    """Is there a signal, and does it come from the picture?"""

    NO_SIGNAL = "no signal found"
    BLIND_SUFFICES = "learnable, blind suffices"
    FROM_PICTURE = "learnable from the picture"
    UNCLEAR = "learnable, whether from the picture is unclear"


@dataclass(frozen=True, slots=True)
class Gain:
    """By how much one arm's mean return exceeds another's in the same episodes, with a 95 % bootstrap interval."""

    interval: Interval
    differing: int

    @property
    def proven(self) -> bool:
        """Whether the interval lies above zero, and enough episodes differ for it to mean something."""
        return self.interval.low > 0 and self.differing >= _FEWEST


def gain(over: Sequence[float], returns: Sequence[float]) -> Gain:
    """The gain of `returns` over `over`, episode by episode."""
    differing = sum(one != other for one, other in zip(over, returns, strict=True))
    return Gain(paired_difference(over, returns), differing)


def verdict(frames: Gain, blind: Gain, picture: Gain) -> Verdict:
    """From the gains of the learner with frames over random play, of the best blind player over random play, and of the
    learner with frames over the best blind player.
    """
    if frames.proven and picture.proven:
        return Verdict.FROM_PICTURE
    if blind.proven:
        return Verdict.BLIND_SUFFICES
    return Verdict.UNCLEAR if frames.proven else Verdict.NO_SIGNAL
