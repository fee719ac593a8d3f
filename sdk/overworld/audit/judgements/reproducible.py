"""Whether an episode depends on its seed, split, task and actions, and on nothing else."""

from __future__ import annotations

from contextlib import closing

from overworld.audit import players
from overworld.audit.case import Case
from overworld.audit.episodes import Episode
from overworld.audit.judging import answers
from overworld.check.findings import shortened

DETERMINISM = "runtime.episode_determinism"
SEEDS = "runtime.seed_control"
ISOLATION = "runtime.episode_isolation"
SLOTS = "runtime.slot_isolation"
PROCESSES = "runtime.process_determinism"
TASKS = "runtime.task_declaration_accuracy"
FRESHNESS = "picture.freshness"

_LONG = 100
"""Turns of the one episode that is played twice to its end; the others are compared as far as they go."""
_TASKS = 8
_TASK_TURNS = 6
_WHOLE = {"all", "full", "whole", "everything"}
"""Names of splits that have the tasks of the others."""
_HIGH_BITS = 1 << 32
_WORN = 24
_WORN_TURNS = 20
_WON = 8


@answers(DETERMINISM, SEEDS, ISOLATION, SLOTS)
def of_seeds(case: Case) -> None:
    """One seed alone, twice, after others, and side by side with others."""
    first, second, third = case.seeds[:3]
    with case.open(1) as stage:
        alone = next(iter(case.play(stage, [case.script(first, turns=_LONG)])), None)
        again = case.play(stage, [case.script(seed) for seed in (first, second, third, first)])
    with case.open(1) as stage:
        fresh = case.play(stage, [case.script(first, turns=_LONG)])
    together = case.scripts
    with case.open() as stage:
        repeated = case.play(stage, [case.script(seed) for seed in case.seeds])
    if alone is None or len(again) < 4 or not fresh or len(together) < len(case.seeds):
        raise case.skip("there was no time to play it twice")
    distinct = _distinct(together)
    pairs = [(alone, fresh[0]), *zip(together, repeated, strict=False)]
    other_one = next(((one, told) for one, other in pairs if (told := _changed(one, other, case))), None)
    if other_one is not None:
        _judge_fresh(case, alone, *other_one)
    else:
        _judge_isolation(case, alone, again, _distinct(together[: case.slots]))
    if not _found(case, DETERMINISM, ISOLATION):
        _judge_slots(case, alone, together)
    if case.place.expert and not case.report.findings:
        with case.open(expert=True) as stage:
            asked = case.play(stage, [case.script(first)])
        if asked and (changed := _changed(alone, asked[0], case)):
            case.find("error", f"seed {first} with and without asking for advice", changed, "the same episode")
    _judge_seeds(case, together, distinct)


def _judge_fresh(case: Case, alone: Episode, episode: Episode, changed: str) -> None:
    """New slots do not give what new slots gave before: by chance, or because the class keeps something.

    A second process tells: if chance were in play, what it gives first would differ from what this one gave first.
    """
    question = DETERMINISM
    if case.elsewhere is not None:
        with closing(case.elsewhere.open(1)) as stage:
            first = case.play(stage, [case.script(alone.seed, turns=_LONG)])
        if first and not _changed(alone, first[0], case):
            question = ISOLATION
    why = "; new processes begin alike" if question == ISOLATION else ""
    sent = f"{_twice(episode.seed)}, in new slots"
    case.find("error", sent, changed + why, "the same episode", question=question)
    for open_question in {ISOLATION, SLOTS} - {question}:
        case.report.skipped[open_question] = "an episode cannot be repeated at all"


def _judge_isolation(case: Case, alone: Episode, again: list[Episode], distinct: int) -> None:
    """A slot has played the first episode, and plays it at once again, and after two others.

    `distinct` is the number of different episodes with which new slots begin.
    """
    for episode, after in ((again[0], "itself"), (again[3], "two others")):
        if not (changed := _changed(alone, episode, case)):
            continue
        if distinct == 1:
            told = f"{changed}; new slots give one and the same episode, whatever the seed"
            case.find("error", _twice(alone.seed), told, "the same episode", question=DETERMINISM)
            return
        sent = f"the episode of seed {alone.seed}, alone and after {after}, with the same actions"
        case.find("error", sent, changed, "the same episode", question=ISOLATION)
        difference = alone.differs(episode)
        if difference is not None and difference[:2] == (0, "pictures"):
            before = {turn.pictures for each in again for turn in each.turns[1:]} | {alone.turns[-1].pictures}
            if episode.turns[0].pictures in before:
                told = "a picture of an earlier episode"
                case.find("error", f"a reset after {after}", told, "a picture of its own", question=FRESHNESS)
        return


def _judge_slots(case: Case, alone: Episode, together: list[Episode]) -> None:
    if case.slots < 2:
        case.report.skipped[SLOTS] = "only one slot is free"
    elif changed := _changed(alone, together[0], case):
        sent = f"the episode of seed {alone.seed}, alone and while {case.slots - 1} other slots play"
        case.find("error", sent, changed, "the same episode", question=SLOTS)


def _judge_seeds(case: Case, together: list[Episode], distinct: int) -> None:
    size = case.spec.splits.get(case.spec.default_split, 0)
    if size == 1:
        case.report.skipped[SEEDS] = "the default split has one task"
        return
    sent = f"resets with the seeds {case.seeds[0]} to {case.seeds[-1]}, and the same actions"
    if distinct <= 2:
        told = f"{distinct} different episode{'s' if distinct > 1 else ', whatever the seed'}"
        case.find("warning", sent, told, "different episodes", question=SEEDS)
        return
    if size:
        return
    with case.open() as stage:
        others = case.play(stage, [case.script(seed + _HIGH_BITS, turns=8) for seed in case.seeds])
    short = [_shown(episode, 9) for episode in together]
    if len(others) == len(together) and [_shown(episode, 9) for episode in others] == short:
        sent = f"resets with seeds and with the same seeds + 2^32, {len(others)} of each"
        case.find("warning", sent, "the same episodes", "others: seeds have 64 bits", question=SEEDS)


@answers(TASKS)
def of_tasks(case: Case) -> None:
    """Tasks of a split differ, and splits are not the same tasks under other names."""
    finite = {split: size for split, size in sorted(case.spec.splits.items()) if size > 1}
    if not finite:
        raise case.skip("no split has a number of tasks")
    played: dict[str, list[str]] = {}
    with case.open() as stage:
        for split, size in list(finite.items())[:4]:
            jobs = [
                case.script(case.seeds[0], turns=_TASK_TURNS, split=split, task=task)
                for task in range(min(size, _TASKS))
            ]
            episodes = case.play(stage, jobs)
            if len(episodes) < len(jobs):
                raise case.skip("there was no time to play the tasks")
            played[split] = [_shown(episode, _TASK_TURNS) for episode in episodes]
            if len(episodes) > 2 and len(set(played[split])) == 1:
                sent = f"the tasks 0 to {len(episodes) - 1} of split {split!r}, with the same actions"
                case.find("error", sent, "one and the same episode", "other tasks")
    names = list(played)
    for number, one in enumerate(names):
        for other in names[number + 1 :]:
            if {one.casefold(), other.casefold()} & _WHOLE:
                continue
            count = min(len(played[one]), len(played[other]))
            if count > 2 and len(set(played[one])) > 2 and played[one][:count] == played[other][:count]:
                sent = f"the tasks 0 to {count - 1} of the splits {one!r} and {other!r}"
                case.find("error", sent, "the same episodes in both", "tasks of their own")


@answers(PROCESSES)
def in_another_process(case: Case) -> None:
    """The env in a process of its own gives the episodes that it gave here."""
    if case.elsewhere is None:
        raise case.skip("it is audited where it is; name it as module:Class to have a second process started")
    case.need_repeatable()
    ours = case.scripts[:3]
    with closing(case.elsewhere.open(1)) as stage:
        theirs = case.play(stage, [case.script(episode.seed) for episode in ours])
    if len(theirs) < len(ours):
        raise case.skip("there was no time to play it there")
    for mine, other in zip(ours, theirs, strict=True):
        if changed := _changed(mine, other, case):
            case.find("error", f"the episode of seed {mine.seed} in two processes", changed, "the same episode")
            return


@answers(ISOLATION)
def after_everything(case: Case) -> None:
    """Last of all: slots that have played much give what they gave at first."""
    case.need_repeatable()
    with case.open() as stage:
        seeds = [case.seeds[-1] + 100 + number for number in range(case.some(_WORN))]
        case.play(stage, [case.job("worn", players.drawn, seed, _WORN_TURNS) for seed in seeds])
        won = [episode for episode in case.everything if episode.success and not episode.split][: case.some(_WON)]
        jobs = [case.job("won", players.replaying(each.moves), each.seed, len(each.moves)) for each in won]
        again = case.play(stage, jobs)
        worn = case.play(stage, [case.script(seed) for seed in reversed(case.seeds[:4])])
    pairs = [*zip(reversed(case.scripts[:4]), worn, strict=False), *zip(won, again, strict=False)]
    for before, after in pairs:
        if changed := _changed(before, after, case):
            sent = f"the episode of seed {before.seed} after {case.some(_WORN)} others in the same slots"
            case.find("error", sent, changed, "the same episode")
            return


def _changed(one: Episode, other: Episode, case: Case) -> str:
    """Where two episodes differ that should be the same; '' if they do not."""
    difference = one.differs(other, pixels=case.pixels)
    if difference is None:
        return ""
    turn, name, mine, theirs = difference
    at = "the reset" if turn == 0 else f"turn {turn}"
    if name == "pictures":
        return f"at {at} the picture is another one"
    return f"at {at} {name}: {shortened(repr(mine), 120)}, then {shortened(repr(theirs), 120)}"


def _distinct(episodes: list[Episode]) -> int:
    return len({_shown(episode, len(episode.turns)) for episode in episodes})


def _shown(episode: Episode, turns: int) -> str:
    return repr([(turn.look, turn.reward, turn.end, turn.success) for turn in episode.turns[:turns]])


def _found(case: Case, *questions: str) -> bool:
    return any(finding.question in questions for finding in case.report.findings)


def _twice(seed: int) -> str:
    return f"seed {seed} twice, with the same actions"
