"""Whether pictures show the episode and the turn that they belong to."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import combinations

from overworld.audit.case import Case
from overworld.audit.episodes import Episode, Picture, Turn, same
from overworld.audit.judging import answers
from overworld.authoring.env import End, Outcome

EPISODE = "picture.shows_episode"
CHANGE = "picture.shows_change"
FRESHNESS = "picture.freshness"

_PAIRS = 4
_MOST = 0.9
_SURE = 0.95
_LIKE = 12
"""Pairs of turns that look the same, under different seeds."""


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
    elif case.place.expert:
        _judge_likeness(case)


def _judge_likeness(case: Case) -> None:
    """Where two turns look the same, the same is right to do: else the picture lacks what it depends on."""
    pairs, differ = _likeness(case)
    if pairs >= _LIKE and differ > pairs / 2:
        sent = f"{pairs} pairs of turns of different episodes that look the same"
        came = f"the expert does something else in {differ} of them"
        case.find("warning", sent, came, "pictures that show what it depends on")


def _likeness(case: Case) -> tuple[int, int]:
    """Pairs of turns of different episodes that look the same, and in how many the expert does something else."""
    like: dict[object, dict[int, str]] = defaultdict(dict)
    for episode in case.advised:
        for turn in episode.turns:
            if turn.advice is not None:
                like[turn.look].setdefault(episode.seed, turn.advice)
    pairs = [pair for advice in like.values() for pair in combinations(advice.values(), 2)]
    return len(pairs), sum(one != other for one, other in pairs)


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
    _judge_images(case, episodes)
    case.need_repeatable()
    forks = _forks(case)
    if any(fork.seen for fork in forks):
        return
    blind = [fork for fork in forks if fork.told is not None]
    if len(blind) >= _PAIRS or (len(forks) >= 3 * _PAIRS and _outcomes_differ(case)):
        pairs, differ = _likeness(case)
        if pairs >= _LIKE and not differ:
            return  # they come whatever is done, and tell what to do next
        certain = differ > pairs / 2
        sent = f"{len(forks)} pairs of different actions in the same state"
        came = "the same pictures in all turns that followed, though it matters what is done"
        case.find("error" if certain else "warning", sent, came, "pictures that depend on what was done")


def _judge_images(case: Case, episodes: list[Episode]) -> None:
    """Each of several images changes, in an episode or from one to the next."""
    turns = [turn for episode in episodes for turn in episode.turns]
    names = sorted({name for turn in turns for name, _, _ in turn.pictures})
    if len(names) < 2:
        return
    for name in names:
        seen = {picture for turn in turns for picture in turn.pictures if picture[0] == name}
        if len(seen) == 1:
            sent = f"the image {name!r} in {len(turns)} turns of {len(episodes)} episodes"
            case.find("warning", sent, "it is always the same", "an image that shows something")


def _outcomes_differ(case: Case) -> bool:
    """Whether, under one seed, some ways of playing succeed and others fail."""
    outcomes: dict[int, set[bool]] = defaultdict(set)
    for episode in case.everything:
        if episode.ended and episode.player != "silence":
            outcomes[episode.seed].add(episode.success)
    return sum(len(each) > 1 for each in outcomes.values()) > 2


@answers(FRESHNESS)
def of_freshness(case: Case) -> None:
    """What an action changes is in the picture that its own turn gives."""
    need_pictures(case)
    case.need_repeatable()
    names = sorted({name for episode in case.scripts for turn in episode.turns for name, _, _ in turn.pictures})
    forks = {name: [fork for fork in _forks(case, name) if fork.seen is not None] for name in names}
    if not any(forks.values()):
        raise case.skip("no two actions led to different pictures")
    for name in names:
        if _judge_lag(case, name, forks[name], several=len(names) > 1):
            return
    _judge_ends(case)
    _judge_last(case)


def _judge_lag(case: Case, name: str, forks: list[_Fork], *, several: bool) -> bool:
    """An image shows what was done at once, not one turn later.

    What moves with a delay, as a cart that is pushed does, shows it later, too; but it moves meanwhile.
    """
    for period in (1, 2, 3):
        groups: dict[int, list[int]] = defaultdict(list)
        for fork in forks:
            assert fork.seen is not None
            groups[fork.depth % period].append(fork.seen)
        for depth, seen in sorted(groups.items()):
            if len(seen) < _PAIRS or min(seen) == 1 or not _stands_still(case, name, depth, period):
                continue
            sent = f"{len(seen)} pairs of different actions in the same state"
            when = "" if period == 1 else f", in every turn of {period}"
            which = f" {name!r}" if several else ""
            came = f"the same picture{which} after them, and different ones {min(seen) - 1} later{when}"
            case.find("error", sent, came, "pictures that differ at once")
            return True
    return False


def _stands_still(case: Case, name: str, depth: int, period: int) -> bool:
    """Whether an image stays as it is in the turn after `depth`, and with a period in each so many turns later."""
    still = []
    for episode in [*case.scripts, *case.random]:
        for number, (before, after) in enumerate(zip(episode.turns, episode.turns[1:], strict=False)):
            if number == depth or (period > 1 and number % period == depth):
                still.append(_named(before, name) == _named(after, name))
    return len(still) >= 2 * _PAIRS and sum(still) >= _SURE * len(still)


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


def _judge_last(case: Case) -> None:
    """The last picture is that of the episode's end, and not of the reset after it."""
    ended = [
        each
        for each in case.everything
        if each.turns[-1].end in (End.TASK, End.RULE) and len(each.turns) > 3 and len(set(_pictures(each))) > 2
    ]
    first = [each for each in ended if each.turns[-1].pictures == each.turns[0].pictures]
    if len(ended) >= 2 * _PAIRS and len(first) >= _MOST * len(ended):
        sent = f"{len(ended)} ends of episodes in which pictures changed"
        case.find("error", sent, f"the picture of the reset, at {len(first)} of them", "a picture of the end")


@dataclass(frozen=True, slots=True)
class _Fork:
    """Two different actions in one state: the first turn after which pictures, or anything else, differ."""

    depth: int
    seen: int | None
    told: int | None


def _forks(case: Case, name: str = "") -> list[_Fork]:
    """With `name`, only that image is looked at."""
    forks = []
    for branch in case.branches:
        for number, one in enumerate(branch.tries):
            for other in branch.tries[number + 1 :]:
                seen = told = None
                for turn, (mine, theirs) in enumerate(zip(one.turns[1:], other.turns[1:], strict=False), 1):
                    if turn > 1 and not same(one.moves[turn - 1], other.moves[turn - 1]):
                        break
                    if seen is None and _named(mine, name) != _named(theirs, name):
                        seen = turn
                    if told is None and _rest(mine) != _rest(theirs):
                        told = turn
                    if mine.end is not None or theirs.end is not None:
                        break
                forks.append(_Fork(branch.depth, seen, told))
    return forks


def _named(turn: Turn, name: str) -> list[Picture]:
    return [picture for picture in turn.pictures if picture[0] == name or not name]


def _pictures(episode: Episode) -> list[object]:
    return [turn.pictures for turn in episode.turns]


def _rest(turn: Turn) -> tuple[object, ...]:
    """All but the pictures."""
    return turn.look[1:], turn.reward, turn.end, turn.success
