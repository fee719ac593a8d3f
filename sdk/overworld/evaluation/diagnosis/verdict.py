"""What follows from the conditions' successes: an agent's defects, and what share of its failures each explains.

docs/diagnose.md gives the reasons for each rule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from overworld.evaluation.diagnosis.conditions import AS_IS, BLANK, LONG_HISTORY, SHORT_HISTORY, SWAPPED
from overworld.evaluation.diagnosis.contrasts import Contrast, contrasts, does_harm
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
              Together with the success rate as it is they sum up to 1.
    steps     The contrasts of the ladder, by the aid that is added, and
    shows     the defect that a gain by this aid counts as.
    dropped   The aids that did harm, and that the later steps are without.
    controls  The contrasts between AS_IS and the other conditions, by condition.
    sees      Whether success is shown to depend on the pictures.
    """

    named: tuple[str, ...]
    shares: Mapping[str, float]
    steps: Mapping[str, Contrast]
    shows: Mapping[str, str]
    dropped: tuple[str, ...]
    controls: Mapping[str, Contrast]
    sees: bool


def climbed(successes: Mapping[str, Sequence[bool]]) -> tuple[str, list[str]]:
    """The condition to add the next aid to, after the steps that were played, and the aids that did harm."""
    base, dropped = AS_IS.name, []
    for aid in AIDS:
        if aid not in successes:
            continue
        if does_harm(successes[base], successes[aid]):
            dropped.append(aid)
        else:
            base = aid
    return base, dropped


def verdict(successes: Mapping[str, Sequence[bool]]) -> Verdict:
    """Judges by the successes in each condition, over the same tasks in the same order."""
    steps_played = [aid for aid in AIDS if aid in successes]
    bases = [
        climbed({name: successes[name] for name in (AS_IS.name, *steps_played[:number])})[0]
        for number in range(len(steps_played))
    ]
    others = [one for one in (BLANK.name, SWAPPED.name, SHORT_HISTORY, LONG_HISTORY) if one in successes]
    pairs = [*zip(bases, steps_played, strict=True), *((AS_IS.name, other) for other in others)]
    found = contrasts(successes, pairs)
    steps = {one.second: one for one in found[: len(bases)]}
    controls = {one.second: one for one in found[len(bases) :]}
    top, dropped = climbed(successes)
    sees = any(controls[name].effect < 0 for name in (BLANK.name, SWAPPED.name))
    blind = not sees and steps["captions"].effect > 0
    shows = {aid: _defect(aid, sees=sees, blind=blind) for aid in steps}
    shares = dict.fromkeys(DEFECTS, 0.0)
    for aid, step in steps.items():
        shares[shows[aid]] += 0.0 if aid in dropped else step.difference.value
    named = {shows[aid] for aid, step in steps.items() if step.effect > 0}
    shares[UNEXPLAINED] = 1 - sum(successes[top]) / len(successes[top])
    ordered = sorted(named, key=lambda one: -shares[one])
    return Verdict(tuple(ordered), shares, steps, shows, tuple(dropped), controls, sees)


def _defect(aid: str, *, sees: bool, blind: bool) -> str:
    """What the gain by an aid shows."""
    if aid == "earlier_captions":
        # Words for pictures that the agent has before it: who profits did not see them, or does not look back at them.
        return "memory" if sees else "sight"
    if aid == "notes" and blind:
        return "sight"  # what is told here was never seen, so that there was nothing to remember
    return _PLAIN[aid]
