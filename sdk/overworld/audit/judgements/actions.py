"""Whether the listed actions are those that are taken, and whether it matters which one is."""

from __future__ import annotations

import re
from collections import defaultdict
from itertools import combinations

from overworld.audit.case import Case
from overworld.audit.judgements.rewards import near
from overworld.audit.judging import answers
from overworld.audit.players import choices, folded
from overworld.authoring.env import Outcome
from overworld.check.findings import shortened

DECLARATION = "runtime.tool_declaration_accuracy"
MATTER = "semantic.actions_matter"

_REFUSAL = re.compile(
    r"nothing happens|not (?:allowed|possible|admissible|a valid|valid|understood)|invalid|illegal"
    r"|unknown (?:command|action)|can(?:'t|not) (?:do|go|use|be)|don't understand|no such",
    re.IGNORECASE,
)
_TRIES = 8
_FEW = 8
"""Actions of a vocabulary in which no two should do the same."""


@answers(DECLARATION)
def of_lists(case: Case) -> None:
    """What is listed is executed as it is listed, and nothing else is."""
    tried: dict[str, list[bool]] = defaultdict(list)
    asked = False
    for episode in case.everything:
        for number, move in enumerate(episode.moves[: len(episode.turns) - 1]):
            before, after = episode.turns[number], episode.turns[number + 1]
            texts = choices(case.spec, before)
            if len(set(texts)) < len(texts) or any(not text.strip() for text in texts):
                case.find("error", f"turn {number} of seed {episode.seed}", f"admissible {texts}", "each action once")
            if not isinstance(move, str) or not texts or after.error:
                continue
            asked = True
            sent = f"{shortened(repr(move), 80)} at turn {number + 1} of seed {episode.seed}"
            listed = folded(move) in {folded(text) for text in texts}
            if listed and after.outcome is not Outcome.EXECUTED:
                case.find("error", f"{sent}, which is listed", "it was refused", "it is executed")
                return
            if not listed and after.outcome is Outcome.EXECUTED:
                case.find("error", f"{sent}, which is not listed", "it was executed", "NOT_ADMISSIBLE")
                return
            if listed and isinstance(after.executed, str) and folded(after.executed) != folded(move):
                case.find("error", sent, f"{shortened(repr(after.executed), 80)} was executed", "what was sent")
                return
            if listed and before.admissible and after.end is None:
                changed = after.look != before.look or bool(after.reward)
                tried[move].append(changed)
                said = _REFUSAL.search(after.text)
                still = after.pictures == before.pictures and after.reward <= 0
                if said and still and not _REFUSAL.search(before.text):
                    case.find("warning", f"{sent}, which is listed", f"the text says {said[0]!r}", "it works")
    for episode in near(case):
        if episode.turns[1:] and episode.turns[1].outcome is Outcome.EXECUTED:
            asked = True
            sent = f"{episode.moves[0]!r}, which is not listed"
            told = f"it was executed, as {episode.turns[1].executed!r}"
            case.find("error", sent, told, "NOT_ADMISSIBLE")
            return
    narrowed = bool(case.spec.action.vocabulary)
    for action, changes in tried.items():
        if narrowed and len(changes) >= _TRIES and not any(changes) and any(any(each) for each in tried.values()):
            sent = f"{action!r}, {len(changes)} times where it was listed"
            case.find("warning", sent, "nothing ever changed", "a list of what is possible")
    if not asked:
        raise case.skip("actions are not listed")


@answers(MATTER)
def of_choices(case: Case) -> None:
    """Different actions in one state lead to something different, at once or later."""
    case.need_repeatable()
    pairs = different = 0
    for branch in case.branches:
        for number, one in enumerate(branch.tries):
            for other in branch.tries[number + 1 :]:
                pairs += 1
                turns = zip(one.turns[1:], other.turns[1:], strict=False)
                different += len(one.turns) != len(other.turns) or any(
                    mine.differs(theirs) is not None for mine, theirs in turns
                )
    _judge_twins(case)
    if pairs < 6:
        raise case.skip("there are too few states with a choice")
    if not different:
        case.find("error", f"{pairs} pairs of different actions, each pair in one state", "the same results", "others")


def _judge_twins(case: Case) -> None:
    """Two actions of a few that change something, and always the same."""
    if not 2 < len(case.spec.action.vocabulary) <= _FEW:
        return
    alike: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for branch in case.branches:
        for (one, first), (other, second) in combinations(zip(branch.actions, branch.tries, strict=True), 2):
            if len(first.turns) > 1 and len(second.turns) > 1 and first.turns[1].look != first.turns[0].look:
                alike[str(one), str(other)].append(first.turns[1].differs(second.turns[1]) is None)
    for (name, twin), same in alike.items():
        if len(same) >= _TRIES and all(same) and not all(map(all, alike.values())):
            sent = f"{name!r} and {twin!r}, each in {len(same)} states that they change"
            case.find("warning", sent, "the same results", "different ones")
