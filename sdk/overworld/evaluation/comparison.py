"""Two agents that played the same episodes: how far apart are they, and can they be compared at all?"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from overworld.errors import EvaluationError
from overworld.evaluation.differences import differing
from overworld.evaluation.episodes import Episode, Header, TaskKey
from overworld.evaluation.folder import REPORT, EpisodeFolder
from overworld.evaluation.statistics import Interval, mcnemar, paired_difference, paired_shares, sign_flips

_SAME = ("env", "options", "fallback", "fallback_reward")
"""What makes the episodes; where it differs, the same seed is not the same episode, or not the same reward."""
_NOT_OF_THE_GAME = ("env.provenance", "env.options_schema")
_WHO_PLAYED = ("expert", "model", "model.name")
"""What is compared; `model` differs as a whole where one of the two is a baseline."""
_MAX_SHOWN_CHARS = 100


@dataclass(frozen=True, slots=True)
class Comparison:
    """The second agent less the first.

    episodes     That each played, and `tasks` the different tasks among them.
    success      The difference in the share of successes.
    returns      That in the mean return; its interval is empty where all tasks differ by the same, or not at all.
    p            Of the hypothesis that both succeed equally often: McNemar's exact test, or where tasks were played
                 several times the permutation test by tasks.
    differences  What else differs between the two evaluations, in words.
    """

    episodes: int
    tasks: int
    success: Interval
    returns: Interval
    p: float
    differences: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def compare_folders(first: EpisodeFolder, second: EpisodeFolder) -> Comparison:
    """Compares two evaluations that were kept. Raises EvaluationError if they cannot be compared."""
    for folder in (first, second):
        if not (folder.path / REPORT).exists():
            raise EvaluationError(f"{folder.path} was not finished: give the command that made it once more")
    notes = []
    for name, one, other in differing(_fields(first.header), _fields(second.header)):
        if name.split(".")[0] in _SAME and not name.startswith(_NOT_OF_THE_GAME):
            raise EvaluationError(
                f"{first.path} and {second.path} cannot be compared: {name} was {_shown(one)} in the first and "
                f"{_shown(other)} in the second, so the same seed is not the same episode; evaluate both alike"
            )
        if name not in _WHO_PLAYED:
            notes.append(f"{name}: {_shown(one)} and {_shown(other)}")
    return compare(first, second, notes)


def compare(first: Iterable[Episode], second: Iterable[Episode], differences: Iterable[str] = ()) -> Comparison:
    """Compares two agents in the same episodes, in whatever order. Raises EvaluationError if they are not the same."""
    one, other = ({episode.key: episode for episode in episodes} for episodes in (first, second))
    if one.keys() != other.keys() or not one:
        raise EvaluationError(
            f"the two evaluations did not play the same episodes: {len(one.keys() & other.keys())} are in both, "
            f"{len(one.keys() ^ other.keys())} in one of them; compare only the same seeds or split, and samples"
        )
    tasks: dict[TaskKey, list[tuple[Episode, Episode]]] = {}
    for key, episode in one.items():
        tasks.setdefault(episode.task_key, []).append((episode, other[key]))
    pairs = list(tasks.values())
    won, other_won = ([[pair[side].success for pair in task] for task in pairs] for side in (0, 1))
    earned, other_earned = ([[pair[side].total_reward for pair in task] for task in pairs] for side in (0, 1))
    if len(tasks) == len(one):
        p = mcnemar([task[0] for task in won], [task[0] for task in other_won])
    else:
        p = sign_flips([sum(second) - sum(first) for first, second in zip(won, other_won, strict=True)])
    return Comparison(
        episodes=len(one),
        tasks=len(tasks),
        success=paired_shares(_means(won), _means(other_won)),
        returns=paired_difference(_means(earned), _means(other_earned)),
        p=p,
        differences=tuple(differences),
    )


def _means(tasks: Iterable[Sequence[float]]) -> list[float]:
    return [math.fsum(task) / len(task) for task in tasks]


def _fields(header: Header) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(header.to_json())
    return fields


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= _MAX_SHOWN_CHARS else f"{text[:_MAX_SHOWN_CHARS]} ..."
