"""Does the trained agent look? Its successes beside the blind ceiling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from overworld.evaluation.statistics import Interval, paired_shares

from demo.courses import Targets


@dataclass(frozen=True, slots=True)
class Verdict:
    """The trained agent's `success`, the best `control` and its success, and the paired difference to it.

    `missed` says which targets are missed, in words.
    """

    success: float
    control: str
    ceiling: float
    margin: Interval
    invalid: float
    missed: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def judge(trained: Sequence[bool], controls: Mapping[str, Sequence[bool]], invalid: float, targets: Targets) -> Verdict:
    """Judges successes in the same episodes, in the same order; `invalid` is the share of invalid sampled replies."""
    success = sum(trained) / len(trained)
    control = max(controls, key=lambda name: sum(controls[name]))
    ceiling = sum(controls[control]) / len(trained)
    margin = paired_shares([float(won) for won in controls[control]], [float(won) for won in trained])
    missed = []
    if success < targets.success:
        missed.append(f"success is {success:.2f}, and {targets.success:.2f} is asked for")
    if margin.value < targets.margin or margin.low <= 0:
        missed.append(
            f"it exceeds the blind ceiling, {ceiling:.2f} ({control}), by {margin.value:.2f} ({margin.low:.2f} to "
            f"{margin.high:.2f}), and {targets.margin:.2f} with an interval above 0 is asked for"
        )
    if invalid > targets.invalid:
        missed.append(f"{invalid:.1%} of the sampled replies are invalid, and {targets.invalid:.1%} may be")
    return Verdict(success, control, ceiling, margin, invalid, tuple(missed))
