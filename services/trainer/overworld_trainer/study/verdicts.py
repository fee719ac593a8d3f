"""What became of each claim."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from overworld_trainer.study.plan import Claim, RunKey, StudyConfig, contrasts
from overworld_trainer.study.results import Result
from overworld_trainer.study.statistics import Estimate, estimate, holm, sign_flips


class Verdict(enum.StrEnum):
    """What this study has to say of a claim."""

    SEEN = "seen"
    NOT_SEEN = "not seen"
    OPPOSITE = "the opposite is seen"
    TOO_FEW = "too few seeds yet"
    UNSEEN = "cannot be seen here"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A claim in one place. `seeds` is the number of pairs; None where nothing was tested."""

    claim: Claim
    where: str
    verdict: Verdict
    seeds: int = 0
    planned: int = 0
    difference: Estimate | None = None
    chance: float | None = None
    adjusted: float | None = None


def judge(study: StudyConfig, results: Mapping[RunKey, Result]) -> list[Finding]:
    """All claims, each wherever it is tested. p-values are adjusted over all of the study's tests."""
    found: list[Finding] = []
    for claim in study.claims:
        if claim.unseen:
            found.append(Finding(claim=claim, where="", verdict=Verdict.UNSEEN))
        for where, terms in contrasts(claim):
            planned = min(study.seeds(env, arm) for env, arm in terms)
            differences = [
                sum(weight * results[RunKey(env, arm, seed)].area for (env, arm), weight in terms.items())
                for seed in range(planned)
                if all(RunKey(env, arm, seed) in results for env, arm in terms)
            ]
            found.append(_judge(claim, where, differences, planned))
    tested = [index for index, one in enumerate(found) if one.chance is not None]
    adjusted = dict(zip(tested, holm([found[index].chance or 0.0 for index in tested]), strict=True))
    return [dataclasses.replace(one, adjusted=adjusted.get(index)) for index, one in enumerate(found)]


def _judge(claim: Claim, where: str, differences: Sequence[float], planned: int) -> Finding:
    if not differences:
        return Finding(claim=claim, where=where, verdict=Verdict.TOO_FEW, planned=planned)
    difference = estimate(differences)
    if difference.low == -math.inf:
        verdict = Verdict.TOO_FEW
    elif difference.low > 0:
        verdict = Verdict.SEEN
    elif difference.high < 0:
        verdict = Verdict.OPPOSITE
    else:
        verdict = Verdict.NOT_SEEN
    chance = sign_flips(differences)
    return Finding(
        claim=claim, where=where, verdict=verdict, seeds=len(differences), planned=planned, difference=difference,
        chance=chance,
    )  # fmt: skip
