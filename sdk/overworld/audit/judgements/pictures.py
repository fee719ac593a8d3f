"""Whether pictures show the episode and the turn that they belong to."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from overworld.audit.case import Case
from overworld.audit.episodes import Episode, Turn, same
from overworld.audit.judging import answers
from overworld.authoring.env import Outcome

EPISODE = "picture.shows_episode"
CHANGE = "picture.shows_change"
FRESHNESS = "picture.freshness"

_PAIRS = 4


def need_pictures(case: Case) -> None:
    """Raises SkipCheckError for an env without pictures, or with pictures that are not reproducible."""
    if not any(turn.pictures for episode in case.scripts for turn in episode.turns):
        raise case.skip("there are no pictures")
    if not case.pixels:
        raise case.skip("pixels_reproducible is never")


@answers(EPISODE)
def of_episodes(case: Case) -> None:
    """Where the same actions lead to different results, the pictures differ."""
    need_pictures(case)
    episodes = [episode for episode in case.scripts if not episode.error]
    if case.place.expert:
        episodes = [*episodes, *(episode for episode in case.advised if episode.player == "advised")]
    first = {episode.turns[0].pictures for episode in case.everything}
    if len(first) == 1 and all(len(seen) == 1 for seen in _by_turn(case.scripts)):
        told = {repr([_rest(turn) for turn in episode.turns]) for episode in case.scripts}
        advice = {episode.turns[0].advice for episode in episodes if episode.turns[0].advice is not None}
        wins = {frozenset(name for name, group in case.fixed.items() if _won(group, seed)) for seed in case.seeds[:4]}
        if len(told) > 1 or len(advice) > 1 or len(wins) > 1:
            sent = f"{len(case.scripts)} seeds with the same actions"
            why = "texts, rewards or ends differ" if len(told) > 1 else "what is right to do differs"
            case.find("error", sent, f"the same pictures, though {why}", "pictures of these episodes")
    elif len(first) == 1 and len({turn for episode in case.scripts for turn in _pictures(episode)}) == 1:
        case.find("error", f"{len(case.everything)} episodes", "one and the same picture", "pictures of the state")


def _by_turn(episodes: list[Episode]) -> list[set[object]]:
    """The different pictures of each turn."""
    longest = max(len(episode.turns) for episode in episodes)
    return [{each.turns[turn].pictures for each in episodes if turn < len(each.turns)} for turn in range(longest)]


def _won(group: list[Episode], seed: int) -> bool:
    return any(episode.seed == seed and episode.success for episode in group)


@answers(CHANGE)
def of_changes(case: Case) -> None:
    """Where the state changes, the picture does so at some time; and it changes because of what was done."""
    need_pictures(case)
    episodes = [episode for episode in [*case.scripts, *case.random] if len(episode.turns) > 3]
    if len(episodes) < 3:
        raise case.skip("episodes are too short")
    if not any(len(set(_pictures(episode))) > 1 for episode in episodes):
        told = [episode for episode in episodes if len({repr(_rest(turn)) for turn in episode.turns[1:]}) > 1]
        apart = {repr([_rest(turn) for turn in episode.turns[1:]]) for episode in episodes}
        if told or len(apart) > 1:
            whole = len({episode.turns[0].pictures for episode in episodes}) == 1
            sent = f"{len(episodes)} episodes of 4 turns and more"
            came = "the picture of the reset in every turn, though texts, rewards or ends change"
            case.find("error" if whole else "warning", sent, came, "a picture of each turn")
        return
    case.need_repeatable()
    forks = list(_forks(case))
    blind = [fork for fork in forks if fork.seen is None and fork.told is not None]
    if len(blind) >= _PAIRS and not any(fork.seen for fork in forks):
        sent = f"{len(blind)} pairs of different actions in the same state"
        came = "the same pictures in all turns that followed, though texts or rewards differ"
        case.find("error", sent, came, "pictures that depend on what was done")


@answers(FRESHNESS)
def of_freshness(case: Case) -> None:
    """What an action changes is in the picture that its own turn gives."""
    need_pictures(case)
    case.need_repeatable()
    forks = [fork for fork in _forks(case) if fork.seen is not None]
    if not forks:
        raise case.skip("no two actions led to different pictures")
    for period in (1, 2, 3):
        groups: dict[int, list[int]] = defaultdict(list)
        for fork in forks:
            assert fork.seen is not None
            groups[fork.depth % period].append(fork.seen)
        stale = [group for group in groups.values() if len(group) >= _PAIRS and min(group) > 1]
        if stale:
            when = "" if period == 1 else f", in every turn of {period}"
            sent = f"{len(stale[0])} pairs of different actions in the same state"
            came = f"the same picture after them, and different ones {min(stale[0]) - 1} later{when}"
            case.find("error", sent, came, "pictures that differ at once")
            return
    _judge_ends(case)


def _judge_ends(case: Case) -> None:
    """The last picture shows the last action's effect, if this action usually changes the picture."""
    changed: dict[str, list[bool]] = defaultdict(list)
    final: dict[str, list[bool]] = defaultdict(list)
    repeated = {id(episode) for group in case.fixed.values() for episode in group}
    for episode in case.everything:
        if id(episode) in repeated:
            continue  # who walks against a wall sees no change
        for number, move in enumerate(episode.moves[: len(episode.turns) - 1]):
            before, after = episode.turns[number], episode.turns[number + 1]
            if move is None or after.outcome is not Outcome.EXECUTED or (after.end is not None and not after.terminal):
                continue
            to = final if after.terminal else changed
            to[str(move)].append(after.pictures != before.pictures)
    usual = {move for move, changes in changed.items() if len(changes) >= _PAIRS and sum(changes) >= 0.6 * len(changes)}
    last = [each for move in usual for each in final[move]]
    if len(last) >= 2 * _PAIRS and not any(last):
        sent = f"{len(last)} ends, by actions that otherwise change the picture"
        case.find("error", sent, "the picture of the turn before", "a picture of the end")


@dataclass(frozen=True, slots=True)
class _Fork:
    """Two different actions in one state: the first turn after which pictures, or anything else, differ."""

    depth: int
    seen: int | None
    told: int | None


def _forks(case: Case) -> list[_Fork]:
    forks = []
    for branch in case.branches:
        for number, one in enumerate(branch.tries):
            for other in branch.tries[number + 1 :]:
                seen = told = None
                for turn, (mine, theirs) in enumerate(zip(one.turns[1:], other.turns[1:], strict=False), 1):
                    if turn > 1 and not same(one.moves[turn - 1], other.moves[turn - 1]):
                        break
                    if seen is None and mine.pictures != theirs.pictures:
                        seen = turn
                    if told is None and _rest(mine) != _rest(theirs):
                        told = turn
                    if mine.end is not None or theirs.end is not None:
                        break
                forks.append(_Fork(branch.depth, seen, told))
    return forks


def _pictures(episode: Episode) -> list[object]:
    return [turn.pictures for turn in episode.turns]


def _rest(turn: Turn) -> tuple[object, ...]:
    """All but the pictures."""
    return turn.look[1:], turn.reward, turn.end, turn.success
