"""What follows from the conditions' successes: an agent's defects, and what share of its failures each explains.

docs/diagnose.md gives the reasons for each rule.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from overworld.evaluation.diagnosis.conditions import AS_IS, BLANK, LONG_HISTORY, SHORT_HISTORY, SWAPPED
from overworld.evaluation.diagnosis.contrasts import Contrast, contrasts
from overworld.evaluation.substitution import AIDS

DEFECTS = ("sight", "memory", "planning", "form")
UNEXPLAINED = "unexplained"

_PLAIN = {
    "captions": "sight",
    "notes": "memory",
    "thoughts": "planning",
    "repairs": "form",
}
"""What lacks if an aid helps; `earlier_captions` depend on more."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found.

    named     The defects that are shown, the largest share first.
    shares    Of all episodes: successes gained by what makes up for each defect, and failures that nothing made up for.
              Together with the success rate as it is they sum up to 1. A share may be negative: then the aid did harm.
    steps     The contrasts from one condition of the ladder to the next, by the aid that is added, and
    shows     the defect that a gain by this aid counts as.
    controls  Those from AS_IS to the other conditions, by condition.
    sees      Whether success is shown to depend on the pictures.
    """

    named: tuple[str, ...]
    shares: Mapping[str, float]
    steps: Mapping[str, Contrast]
    shows: Mapping[str, str]
    controls: Mapping[str, Contrast]
    sees: bool


def verdict(successes: Mapping[str, Sequence[bool]]) -> Verdict:
    """Judges by the successes in each condition, over the same tasks in the same order."""
    ladder = [AS_IS.name, *(aid for aid in AIDS if aid in successes)]
    others = [one for one in (BLANK.name, SWAPPED.name, SHORT_HISTORY, LONG_HISTORY) if one in successes]
    pairs = [*itertools.pairwise(ladder), *((AS_IS.name, other) for other in others)]
    found = contrasts(successes, pairs)
    steps = {one.second: one for one in found[: len(ladder) - 1]}
    controls = {one.second: one for one in found[len(ladder) - 1 :]}
    sees = any(controls[name].effect < 0 for name in (BLANK.name, SWAPPED.name))
    blind = not sees and steps["captions"].effect > 0
    shows = {aid: _defect(aid, sees=sees, blind=blind) for aid in steps}
    shares = dict.fromkeys(DEFECTS, 0.0)
    for aid, step in steps.items():
        shares[shows[aid]] += step.difference.value
    named = {shows[aid] for aid, step in steps.items() if step.effect > 0}
    last = successes[ladder[-1]]
    shares[UNEXPLAINED] = 1 - sum(last) / len(last)
    return Verdict(tuple(sorted(named, key=lambda one: -shares[one])), shares, steps, shows, controls, sees)


def _defect(aid: str, *, sees: bool, blind: bool) -> str:
    """What the gain by an aid shows."""
    if aid == "earlier_captions":
        # Words for pictures that the agent has before it: who profits did not see them, or does not look back at them.
        return "memory" if sees else "sight"
    if aid == "notes" and blind:
        return "sight"  # what is told here was never seen, so that there was nothing to remember
    return _PLAIN[aid]
