"""Whether the answer can be had without looking: it is written somewhere, or it is always the same."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence

from overworld.audit import players
from overworld.audit.case import Case
from overworld.audit.episodes import Episode, Turn
from overworld.audit.judgements.reproducible import SEEDS
from overworld.audit.judgements.rewards import mean, rate
from overworld.audit.judging import answers
from overworld.audit.players import folded
from overworld.audit.readers import Reader, concluding_readers, mentions, plain_readers, planner
from overworld.authoring.env import Action
from overworld.check.findings import shortened

LEAKAGE = "semantic.no_solution_leakage"
TEXT = "picture.text_silence"
BLIND = "semantic.blind_solution"
FORESIGHT = "semantic.metric_foresight"

_SURE = 0.95
_CERTAIN = 0.9
_TURNS = 10
"""Turns in which the right action must be known."""
_VERBATIM = 4
_ASKED = 160
_EPISODES = 6
_NAMED = re.compile(
    r"\b(?:answer|solution|ground.?truth|(?:optimal|correct|right) (?:action|answer|move))\b\s*(?:is|=|:)\s*(\S+)",
    re.IGNORECASE,
)

Known = list[tuple[Turn, str, int]]
"""Turn, the right action in it, and the episode's seed."""


@answers(LEAKAGE, TEXT)
def of_readers(case: Case) -> None:
    """Agents that copy what is written, or look it up in a table, do not win."""
    known = _known(case)
    told = False
    if len(known) >= _TURNS and len({action for _, action, _ in known}) > 1:
        told = _judge_plain(case, known) or _judge_verbatim(case, known)
        if not told and any(turn.pictures and turn.text for turn, _, _ in known):
            _judge_concluding(case, known)
    else:
        told = _judge_without_expert(case)
    if not any(turn.pictures for episode in case.scripts for turn in episode.turns):
        case.report.skipped[TEXT] = "there are no pictures"
    elif not any(turn.text for episode in case.scripts for turn in episode.turns):
        case.report.skipped[TEXT] = "there are no texts"
    elif len(known) < _TURNS:
        case.report.skipped[TEXT] = "no expert says what is right"
    if not (told or _judge_plan(case)):
        _judge_named(case)


def _known(case: Case) -> Known:
    """The expert's advice; without one, what wins at once, where only one thing does."""
    if case.place.expert:
        return [
            (turn, turn.advice, episode.seed)
            for episode in case.advised
            for turn in episode.turns
            if turn.advice is not None
        ]
    winners: dict[int, list[tuple[Turn, str]]] = defaultdict(list)
    for group in case.fixed.values():
        for episode in group:
            if episode.success and len(episode.moves) == 1 and isinstance(episode.moves[0], str):
                winners[episode.seed].append((episode.turns[0], episode.moves[0]))
    if winners and all(len(episode.moves) == 1 for group in case.fixed.values() for episode in group):
        for episode in _asked(case):
            if episode.success and isinstance(episode.moves[0], str):
                winners[episode.seed].append((episode.turns[0], episode.moves[0]))
    return [
        (*found[0], seed)
        for seed, found in winners.items()
        if len({action for _, action in found}) == 1
    ]  # fmt: skip


def _asked(case: Case) -> list[Episode]:
    """Every action under more seeds, where episodes have one turn."""
    actions = [group[0].moves[0] for group in case.fixed.values()]
    seeds = [case.seeds[-1] + 900 + number for number in range(_ASKED // len(actions))]
    with case.open() as stage:
        return case.play(
            stage,
            [case.job("asked", players.repeating(action), seed, 1) for seed in seeds for action in actions],
        )


def _judge_plain(case: Case, known: Known) -> bool:
    usual = Counter(action for _, action, _ in known).most_common(1)[0][1] / len(known)
    for reader in plain_readers([turn for turn, _, _ in known]):
        share, distinct = _right(case, reader, known)
        if share >= _SURE > usual and distinct >= reader.distinct and _wins(case, reader):
            sent = f"{len(known)} turns in which the right action is known"
            came = f"{reader.name}, in {share:.0%} of them; who does only that wins"
            case.find("error", sent, came, "nothing that gives it away", question=LEAKAGE)
            return True
    return False


def _judge_verbatim(case: Case, known: Known) -> bool:
    """Free text that is not listed: the right one stands in what is read."""
    if any(players.choices(case.spec, turn) for turn, _, _ in known):
        return False
    long = [(turn, action) for turn, action, _ in known if len(action) >= _VERBATIM]
    inside = [action for turn, action in long if action.casefold() in turn.text.casefold()]
    if len(long) >= _TURNS and len(inside) >= _CERTAIN * len(long) and len(set(inside)) >= 3:
        sent = f"{len(long)} turns in which the right action is known"
        came = f"the text has it word for word in {len(inside)}, e.g. {shortened(repr(inside[0]), 60)}"
        case.find("error", sent, came, "nothing that gives it away", question=LEAKAGE)
        return True
    return False


def _judge_concluding(case: Case, known: Known) -> None:
    """A table that was learnt from half of the seeds says what is right under the others."""
    usual = Counter(action for _, action, _ in known).most_common(1)[0][1] / len(known)
    if usual > 0.75:
        return
    learnt = [each for each in known if each[2] % 2]
    tried = [each for each in known if not each[2] % 2]
    if len(learnt) < _TURNS / 2 or len(tried) < _TURNS / 2:
        return
    for reader in concluding_readers([(turn, action) for turn, action, _ in learnt]):
        share, distinct = _right(case, reader, tried)
        if share >= _SURE and distinct >= reader.distinct and _wins(case, reader):
            sent = f"{len(tried)} turns in which the right action is known"
            came = f"{reader.name} what is right, in {share:.0%}; who does not see the pictures wins"
            case.find("error", sent, came, "a picture that is needed", question=TEXT)
            return


def _right(case: Case, reader: Reader, known: Known) -> tuple[float, int]:
    """Share of the turns in which it reads the right action, of those in which it could; different ones."""
    read = [(reader.read(case.spec, turn), action) for turn, action, _ in known]
    said = [(mine, action) for mine, action in read if mine is not None]
    if len(said) < max(_TURNS / 2, len(known) / 2):
        return 0.0, 0
    hits = [action for mine, action in said if folded(mine or "") == folded(action)]
    return len(hits) / len(said), len(set(hits))


def _wins(case: Case, reader: Reader) -> bool:
    """Whether an agent that only reads succeeds nearly as often as the expert, and more often than chance."""
    seeds = [case.seeds[-1] + 500 + number for number in range(_EPISODES)]
    with case.open() as stage:
        played = case.play(stage, [case.job("reader", reader.player, seed, 200) for seed in seeds])
    top = rate(case.expert) if case.place.expert else 1.0
    return bool(played) and top > 0 and rate(played) >= _CERTAIN * top - 0.1 and rate(played) > rate(case.random)


def _judge_without_expert(case: Case) -> bool:
    """Nobody says what is right: ways to read are tried, where they read something in most turns."""
    turns = [turn for episode in case.random for turn in episode.turns if turn.end is None]
    if not turns or rate(case.random) > 0.6:
        return False
    for reader in plain_readers(turns):
        read = [action for turn in turns if (action := reader.read(case.spec, turn)) is not None]
        if len(read) < _CERTAIN * len(turns) or len(set(read)) < reader.distinct:
            continue
        seeds = [case.seeds[-1] + 500 + number for number in range(_EPISODES)]
        with case.open() as stage:
            played = case.play(stage, [case.job("reader", reader.player, seed, 60) for seed in seeds])
        if played and rate(played) >= _CERTAIN:
            sent = f"an agent that does only what it reads, {len(played)} episodes"
            came = f"{reader.name}; success in {rate(played):.0%}"
            case.find("error", sent, came, "nothing that gives it away", question=LEAKAGE)
            return True
    return False


def _judge_plan(case: Case) -> bool:
    """The whole way stands in the first text."""
    plans = [mentions(case.spec, episode.turns[0]) for episode in case.scripts]
    if not plans or len(plans[0]) < 2 or len({tuple(plan) for plan in plans}) < 3:
        return False
    seeds = [case.seeds[-1] + 500 + number for number in range(_EPISODES)]
    with case.open() as stage:
        played = case.play(stage, [case.job("planner", planner, seed, 200) for seed in seeds])
    if played and rate(played) >= _CERTAIN and rate(case.random) < _CERTAIN:
        sent = f"an agent that does in order what the first text mentions, {len(played)} episodes"
        case.find("error", sent, f"success in {rate(played):.0%}", "nothing that gives it away", question=LEAKAGE)
        return True
    return False


def _judge_named(case: Case) -> None:
    """A text that calls something an answer, and not always the same."""
    named: dict[str, str] = {}
    for episode in case.everything:
        for turn in episode.turns[:-1] if episode.ended else episode.turns:
            if match := _NAMED.search(turn.text):
                named.setdefault(match[1], match[0])
    if len(named) > 1:
        came = ", ".join(repr(text) for text in list(named.values())[:3])
        case.find("warning", "texts before the end", came, "no answers", question=LEAKAGE)


@answers(BLIND)
def of_sequences(case: Case) -> None:
    """What won one episode does not win all."""
    if any(finding.question == SEEDS for finding in case.report.findings):
        raise case.skip("all seeds give the same episode")
    won = [episode for episode in case.everything if episode.success and all(m is not None for m in episode.moves)]
    if not won:
        raise case.skip("nobody succeeded")
    ways: dict[str, Episode] = {}
    for episode in sorted(won, key=lambda each: len(each.moves)):
        ways.setdefault(repr(episode.moves), episode)
    chosen = [*list(ways.values())[:2], *list(ways.values())[-1:]]
    best: tuple[float, int, list[Action | None]] = (0.0, 0, [])
    seeds = [case.seeds[-1] + 300 + number for number in range(max(8, case.some(12)))]
    for way in {id(each): each for each in chosen}.values():
        with case.open() as stage:
            played = case.play(
                stage, [case.job("blind", players.replaying(way.moves), seed, len(way.moves)) for seed in seeds]
            )
        if played and rate(played) > best[0] and _pays(case, played):
            best = (rate(played), len(played), way.moves)
    share, count, moves = best
    sent = f"{len(moves)} actions that won an episode, in {count} others: {shortened(str(moves), 100)}"
    if share >= _CERTAIN:
        case.find("error", sent, f"success in {share:.0%}", "failures: it does not look at what it does")
    elif share >= 0.5 and rate(case.random) < share / 2:
        case.find("warning", sent, f"success in {share:.0%}", "fewer: it does not look at what it does")


def _pays(case: Case, played: Sequence[Episode]) -> bool:
    """Whether it earns more than half of what lies between random actions and the expert: a long detour does not."""
    if not case.place.expert:
        return True
    top, chance = mean(case.expert), mean(case.random)
    return mean(played) >= (top + min(chance, top)) / 2


@answers(FORESIGHT)
def of_metrics(case: Case) -> None:
    """No metric of the first turn separates the episodes that will succeed from those that will fail."""
    episodes = [each for each in case.everything if each.ended and len(each.moves) >= 3 and not each.error]
    names = sorted({name for episode in episodes for turn in episode.turns[:2] for name in turn.metrics})
    if not names:
        raise case.skip("there are no metrics")
    for name in names:
        for at in (0, 1):
            values = [(each.turns[at].metrics[name], each) for each in episodes if name in each.turns[at].metrics]
            won = [value for value, episode in values if episode.success]
            lost = [value for value, episode in values if not episode.success]
            when = "the reset" if at == 0 else "the first turn"
            if min(len(won), len(lost)) >= 6 and (max(won) < min(lost) or max(lost) < min(won)):
                sent = f"{len(won)} episodes that succeeded and {len(lost)} that failed, of 3 turns and more"
                came = f"the metric {name!r} tells them apart at {when}: {_range(won)} and {_range(lost)}"
                case.find("error", sent, came, "what is true in that turn")
                return
            totals = [(value, episode.total) for value, episode in values]
            if len({total for _, total in totals}) >= 5 and all(abs(value - total) < 1e-6 for value, total in totals):
                came = f"the metric {name!r} is at {when} what the episode will earn"
                case.find("error", f"{len(totals)} episodes", came, "what is true in that turn")
                return


def _range(values: Sequence[float]) -> str:
    return f"{min(values):g}" if min(values) == max(values) else f"{min(values):g} to {max(values):g}"
