"""Whether episodes end, and whether the env bears whatever is said to it."""

from __future__ import annotations

from overworld.audit import players
from overworld.audit.case import ROBUSTNESS, Case
from overworld.audit.judging import answers
from overworld.audit.report import Severity

END = "runtime.episode_end"

_LONG = 400


@answers(ROBUSTNESS)
def of_robustness(case: Case) -> None:
    """Nothing that is within the bounds of the spec makes a slot fail: a `Case` records it where one does."""
    ways = [case.scripts, case.random, case.silent, *case.fixed.values(), *case.hostile.values()]
    if case.place.expert:
        ways.append(case.expert)
    if case.late:
        raise case.skip(f"there was time for {len(ways)} ways of playing only")


@answers(END)
def of_ends(case: Case) -> None:
    """Episodes end by themselves or at max_turns, and not later."""
    limit = case.spec.max_turns
    episodes = [*case.scripts, *case.random, *(each for group in case.fixed.values() for each in group)]
    if case.place.expert:
        episodes += case.expert
    ended = [episode for episode in episodes if episode.ended]
    if not ended:
        turns = min(limit + 1, _LONG) if limit else _LONG
        with case.open() as stage:
            long = case.play(stage, [case.job("long", players.drawn, seed, turns) for seed in case.seeds[:4]])
        episodes += long
        longest = max((len(episode.moves) for episode in episodes), default=0)
        if not any(episode.ended or episode.error for episode in long) and longest >= turns:
            severity: Severity = "warning" if longest <= limit else "error"
            told = f"none ended within {longest} turns; max_turns is {limit or 'not set'}"
            case.find(severity, f"{len(episodes)} episodes of random and repeated actions", told, "ends")
    if limit and (late := [episode for episode in episodes if len(episode.moves) > limit]):
        told = f"it went on to turn {len(late[0].moves)}"
        case.find("error", f"seed {late[0].seed}, {late[0].player}", told, f"an end at turn {limit}, max_turns")
