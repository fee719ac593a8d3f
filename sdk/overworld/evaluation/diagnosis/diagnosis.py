"""The result of a diagnosis: figures, what they show, and what they cannot show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from overworld.evaluation.diagnosis.conditions import AS_IS, BLANK, LONG_HISTORY, SHORT_HISTORY, SWAPPED
from overworld.evaluation.diagnosis.contrasts import Contrast, least_gain
from overworld.evaluation.diagnosis.verdict import UNEXPLAINED, Verdict, verdict
from overworld.evaluation.episodes import Episode, Header
from overworld.evaluation.statistics import Interval, wilson
from overworld.evaluation.substitution import AIDS

_MANY_INVALID = 0.5
_FEW_FAILURES = 0.05

_MEANINGS = {
    "sight": "it does not take from the pictures what they show",
    "memory": "it does not use what it was shown earlier",
    "planning": "it knows what it needs to know, and chooses badly",
    "form": "its replies cannot be read, or hold no admissible action",
}


@dataclass(frozen=True, slots=True)
class Played:
    """What came of one condition. `changed`: the share of episodes that went otherwise than as it is."""

    success: Interval
    mean_return: float
    mean_length: float
    invalid_replies: float
    changed: float
    errors: int


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Why an agent fails. `meaning` and `cautions` are sentences for people; see `Verdict` for the rest."""

    env: str
    model: str
    fingerprint: str
    temperature: float
    episodes: int
    seeds: Sequence[int]
    named: tuple[str, ...]
    meaning: tuple[str, ...]
    cautions: tuple[str, ...]
    shares: Mapping[str, float]
    steps: Mapping[str, Contrast]
    shows: Mapping[str, str]
    dropped: tuple[str, ...]
    controls: Mapping[str, Contrast]
    conditions: Mapping[str, Played]
    options: Mapping[str, Any]
    recipe: Mapping[str, Any]
    provenance: Mapping[str, str]
    versions: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def diagnosis_of(header: Header, episodes: Mapping[str, Sequence[Episode]]) -> Diagnosis:
    """The diagnosis that follows from the episodes of each condition. `header` is that of AS_IS."""
    own = episodes[AS_IS.name]
    found = verdict({name: [one.success for one in played] for name, played in episodes.items()})
    played = {name: _played(some, own) for name, some in episodes.items()}
    spec = header.spec()
    return Diagnosis(
        env=spec.id,
        model="" if header.model is None else header.model.name,
        fingerprint=next((turn.fingerprint for one in own for turn in one.turns), ""),
        temperature=0.0 if header.model is None else header.model.temperature,
        episodes=len(own),
        seeds=[one.seed for one in own],
        named=found.named,
        meaning=_meaning(found, played[AS_IS.name], len(own)),
        cautions=_cautions(found, played, len(own)),
        shares=found.shares,
        steps=found.steps,
        shows=found.shows,
        dropped=found.dropped,
        controls=found.controls,
        conditions=played,
        options=header.options,
        recipe=header.recipe.model_dump(),
        provenance=dict(spec.provenance),
        versions=header.versions,
    )


def _played(episodes: Sequence[Episode], own: Sequence[Episode]) -> Played:
    turns = [turn for one in episodes for turn in one.turns]
    invalid = sum(turn.outcome in ("no_action", "not_admissible") or turn.actor == "expert" for turn in turns)
    changed = sum(_actions(one) != _actions(other) for one, other in zip(episodes, own, strict=True))
    return Played(
        success=wilson(sum(one.success for one in episodes), len(episodes)),
        mean_return=math.fsum(one.total_reward for one in episodes) / len(episodes),
        mean_length=len(turns) / len(episodes),
        invalid_replies=invalid / max(len(turns), 1),
        changed=changed / len(episodes),
        errors=sum(bool(one.error) for one in episodes),
    )


def _actions(episode: Episode) -> list[Any]:
    return [turn.action for turn in episode.turns]


def _meaning(found: Verdict, own: Played, episodes: int) -> tuple[str, ...]:
    failures = 1 - own.success.value
    if not failures:
        return (f"It succeeded in all {episodes} episodes: there is no failure to explain.",)
    sentences = [
        f"{defect.capitalize()}: {_MEANINGS[defect]} ({found.shares[defect]:.1%} of all episodes, "
        f"{found.shares[defect] / failures:.0%} of its failures)."
        for defect in found.named
    ]
    return tuple(sentences or ["No defect is shown: none of what the agent was given made it succeed more often."])


def _cautions(found: Verdict, played: Mapping[str, Played], episodes: int) -> tuple[str, ...]:
    own, told = played[AS_IS.name], played["captions"]
    failures = 1 - own.success.value
    said = []
    least = least_gain(episodes, len(found.steps) + len(found.controls))
    if least > episodes:
        said.append(f"{episodes} episodes are too few to show anything: play 11 or more, better 200.")
    elif failures:
        said.append(f"A defect that costs fewer than {least} of these {episodes} episodes is not named.")
    if own.invalid_replies > _MANY_INVALID:
        said.append(
            f"{own.invalid_replies:.0%} of the replies hold no admissible action, so the other aids had little to act "
            "on: cure the form of the replies first, then diagnose again."
        )
    if found.dropped:
        lost = ", ".join(sorted({found.shows[aid] for aid in found.dropped}))
        said.append(
            f"With {', '.join(map(_words, found.dropped))} it succeeded less often, since it cannot cope with such "
            f"prompts; the later steps are without. So it is not known whether it lacks {lost}."
        )
    if failures > _FEW_FAILURES and not told.changed:
        said.append("The captions changed no action at all: it does not read them, so that bad sight is not excluded.")
    if not found.sees:
        said.append(
            "Neither white pictures nor another episode's made it succeed less often: its success does not depend on "
            "what the pictures show."
            + (" What it would remember of them cannot be told before it sees." if "sight" in found.named else "")
        )
    if "memory" in found.named and (longer := found.controls[LONG_HISTORY]).effect > 0:
        said.append(f"A longer history alone gains {longer.difference.value:+.1%}.")
    if found.shares[UNEXPLAINED] > max(_FEW_FAILURES, failures / 2):
        said.append(
            f"{found.shares[UNEXPLAINED]:.0%} of the episodes fail with all aids, too: by chance, because it does not "
            "act on what it is told, or because the expert itself would fail."
        )
    if errors := sum(one.errors for one in played.values()):
        said.append(f"{errors} episodes broke off and count as failures: see the env server's log.")
    return tuple(said)


def _words(aid: str) -> str:
    return aid.replace("_", " ")


TITLES = {
    AS_IS.name: "as it is",
    **{aid: f"+ {_words(aid)}" for aid in AIDS},
    BLANK.name: "white pictures",
    SWAPPED.name: "another episode's pictures",
    SHORT_HISTORY: "shorter history",
    LONG_HISTORY: "longer history",
}
"""The conditions, for people."""
