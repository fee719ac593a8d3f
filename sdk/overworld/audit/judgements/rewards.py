"""Whether rewards and success mean what they say: who earns them, and who should not."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from itertools import combinations, pairwise
from statistics import fmean

from overworld.audit import players
from overworld.audit.case import Case
from overworld.audit.episodes import Episode
from overworld.audit.judging import answers
from overworld.audit.report import Severity, Table
from overworld.authoring.env import Action, End, Outcome
from overworld.check.findings import shortened

WELL_FORMED = "runtime.reward_well_formed"
ORACLE = "semantic.oracle_max"
FLOOR = "semantic.floor_gap"
CANARY = "semantic.canary_floor"
SILENCE = "semantic.silence_floor"
HONEST_END = "semantic.honest_end"
FARMING = "semantic.farming"
AGREEMENT = "semantic.reward_success_agreement"
REACHABLE = "semantic.success_reachable"

_SURE = 0.9
"""Share of successes that is as good as always."""
_NEAR = 0.1
"""Difference of shares that is none."""
_VERDICTS = {"success", "succeeded", "won", "win", "solved", "is_success"}
"""Names of metrics that repeat the verdict."""
_OFTEN = 0.5
"""Share of silent episodes that succeed at their limit, above which it is not just where they start."""
_SHORT = 6
_MORE = 48
_ENDED = 12
"""Random episodes that must have come to an end."""
_CYCLE = 8
_CYCLES = 12
_TOLERANCE = 1e-9


def rate(episodes: Sequence[Episode]) -> float:
    """Share of successes."""
    return fmean(episode.success for episode in episodes) if episodes else 0.0


def mean(episodes: Sequence[Episode]) -> float:
    """Mean return."""
    return fmean(episode.total for episode in episodes) if episodes else 0.0


@answers(WELL_FORMED)
def of_bounds(case: Case) -> None:
    """Rewards lie within the bounds of the spec; a reset earns nothing."""
    spec = case.spec
    episodes = case.everything
    bounded = spec.reward_min < spec.reward_max
    for episode in episodes:
        for number, turn in enumerate(episode.turns):
            if number == 0 and turn.reward:
                case.find("error", f"a reset with seed {episode.seed}", f"a reward of {turn.reward:g}", "0")
                return
            acted = turn.outcome is Outcome.EXECUTED
            if bounded and acted and not spec.reward_min - _TOLERANCE <= turn.reward <= spec.reward_max + _TOLERANCE:
                sent = f"seed {episode.seed}, turn {number}: {_shown(episode.moves[number - 1])}"
                expected = f"{spec.reward_min:g} to {spec.reward_max:g}, as the spec says"
                case.find("error", sent, f"a reward of {turn.reward:g}", expected)
                return
    best = max((turn.reward for episode in episodes if episode.success for turn in episode.turns), default=None)
    if best is not None and spec.reward_max > 0 and best < spec.reward_max / 2 and case.place.expert:
        came = f"{best:g} at most, in {sum(episode.success for episode in episodes)} episodes that succeeded"
        case.find("warning", "the best reward of a turn", came, f"{spec.reward_max:g} somewhere: reward_max")


@answers(ORACLE)
def of_the_expert(case: Case) -> None:
    """The expert succeeds."""
    episodes = [episode for episode in case.expert if not episode.error]
    if len(episodes) < 2:
        raise case.skip("the expert had no time to play")
    refused = [
        (episode, turn)
        for episode in episodes
        for turn in episode.turns
        if turn.outcome is Outcome.NOT_ADMISSIBLE
    ]  # fmt: skip
    ended = [episode for episode in episodes if episode.ended]
    share = rate(ended)
    sent = f"{len(ended)} episodes of the expert"
    if refused:
        episode, turn = refused[0]
        told = f"its advice {_shown(episode.moves[turn.number - 1])} was refused at turn {turn.number}"
        case.find("error", f"the expert, seed {episode.seed}", told, "advice that is admissible")
    cut = sum(episode.turns[-1].end is End.TIME_LIMIT for episode in episodes)
    note = f"; max_turns ended {cut}" if cut else ""
    if len(ended) < 2:
        raise case.skip(f"the expert does not come to an end within {max(len(each.moves) for each in episodes)} turns")
    if share == 0:
        case.find("error", sent, f"no success{note}", "success")
    elif share < _SURE:
        case.find("warning", sent, f"success in {share:.0%}{note}", "success in all, unless some cannot be won")
    chance = mean(case.random)
    if share and mean(ended) <= chance - _TOLERANCE:
        told = f"a mean return of {mean(ended):g}, random actions {chance:g}"
        case.find("error", sent, told, "more than random actions earn")


@answers(FLOOR)
def of_the_floor(case: Case) -> None:
    """One repeated action, silence, and random actions do clearly worse than the expert."""
    idle = {name: [each for each in group if not each.error] for name, group in case.effortless.items()}
    idle = {name: group for name, group in idle.items() if group}
    if not idle:
        raise case.skip("there was no time to play")
    experts = [episode for episode in case.expert if episode.ended] if case.place.expert else []
    top = rate(experts)
    name, best = max(idle.items(), key=lambda item: (rate(item[1]), mean(item[1])))
    if experts and top and rate(best) > top - 2.5 * _NEAR and rate(best) < _SURE:
        best, experts = _played_more(case, name, best, experts)
        idle[name] = best
        top = rate(experts)
    share = rate(best)
    sent = f"{name}, {len(best)} episodes"
    came = f"success in {share:.0%}"
    if share >= _SURE:
        case.find("error", sent, came, "failures: nothing was done" if name == "silence" else "failures")
    elif experts and top and share >= top - _NEAR:
        severity: Severity = "error" if top >= _SURE - _NEAR else "warning"
        case.find(severity, sent, came, f"clearly less than the expert's {top:.0%}, {len(experts)} episodes")
    _judge_returns(case, idle, experts)
    _judge_random(case, experts)
    case.report.tables.append(_table(case, idle, experts))


def _played_more(
    case: Case, name: str, best: list[Episode], experts: list[Episode]
) -> tuple[list[Episode], list[Episode]]:
    """Where both are close: more episodes of both."""
    seeds = [case.seeds[-1] + 100 + number for number in range(_MORE)]
    moves = best[0].moves
    player = players.silent if name == "silence" else players.repeating(moves[0])
    with case.open() as stage:
        more = case.play(stage, [case.job(name, player, seed, len(moves) + 20) for seed in seeds])
    with case.open(expert=True) as stage:
        others = case.play(stage, [case.job("expert", players.expert, seed, 200) for seed in seeds])
    return [*best, *more], [*experts, *(each for each in others if not each.error)]


def _judge_returns(case: Case, idle: dict[str, list[Episode]], experts: list[Episode]) -> None:
    """The expert's seeds, where both were played to the end."""
    by_seed = {episode.seed: episode for episode in experts if episode.success}
    for name, group in idle.items():
        pairs = [(each, by_seed[each.seed]) for each in group if each.seed in by_seed]
        if len(pairs) < 3 or any(each.success for each, _ in pairs):
            continue
        if all(each.total >= other.total - _TOLERANCE for each, other in pairs):
            came = f"a mean return of {fmean(each.total for each, _ in pairs):g}, without success"
            expected = f"less than the expert's {fmean(other.total for _, other in pairs):g}, with success"
            case.find("error", f"{name}, {len(pairs)} episodes", came, expected)
            return


def _judge_random(case: Case, experts: list[Episode]) -> None:
    episodes = [episode for episode in case.random if episode.ended]
    if len(episodes) < _ENDED or rate(episodes) < _SURE:
        return
    most = max(mean(experts), max(episode.total for episode in episodes))
    least = min(episode.total for episode in episodes)
    if most - mean(episodes) <= _NEAR * max(abs(most), most - least):
        came = f"success in {rate(episodes):.0%}, a mean return of {mean(episodes):g}"
        case.find("warning", f"random actions, {len(episodes)} episodes", came, "less: there is nothing to learn")


def _table(case: Case, idle: dict[str, list[Episode]], experts: list[Episode]) -> Table:
    groups = {"expert": experts, "random": case.random, **idle}
    if len(idle) > 6:
        kept = sorted(idle, key=lambda name: (rate(idle[name]), mean(idle[name])))[-5:]
        groups = {"expert": experts, "random": case.random, **{name: idle[name] for name in {*kept, "silence"}}}
    rows = [
        (
            shortened(name, 40),
            str(len(group)),
            f"{rate(group):.2f}",
            f"{mean(group):.3g}",
            f"{fmean(len(episode.moves) for episode in group):.1f}",
            ", ".join(sorted({episode.turns[-1].end.name for episode in group if episode.turns[-1].end})) or "cut",
        )
        for name, group in groups.items()
        if group
    ]
    return Table("Who earns what", ("agent", "episodes", "success", "return", "turns", "ends"), rows)


@answers(CANARY)
def of_hostile_texts(case: Case) -> None:
    """Texts that solve nothing neither succeed nor earn."""
    for kind, episodes in case.hostile.items():
        for episode in episodes:
            text = _shown(episode.moves[0]) if episode.moves and episode.moves[0] is not None else "as its reply"
            sent = f"{kind}: {text}, seed {episode.seed}"
            if episode.success:
                case.find("error", sent, f"success at turn {len(episode.moves)}", "no success")
                break
            if any(turn.reward > _TOLERANCE for turn in episode.turns[1:]):
                came = f"rewards {[turn.reward for turn in episode.turns[1:]]}"
                case.find("error", sent, came, "none above 0")
                break
    _judge_refused(case)


def _judge_refused(case: Case) -> None:
    """Texts that are not in the list."""
    for episode in near(case):
        for number, turn in enumerate(episode.turns[1:]):
            if turn.outcome is Outcome.NOT_ADMISSIBLE and (turn.reward > _TOLERANCE or turn.success):
                came = f"a reward of {turn.reward:g}" if turn.reward > 0 else "success"
                case.find("error", f"{_shown(episode.moves[number])}, which is not admissible", came, "nothing")
                return


def near(case: Case) -> list[Episode]:
    """Episodes of texts that resemble actions; none where actions are not listed."""

    def made() -> list[Episode]:
        start = case.scripts[0].turns[0] if case.scripts else None
        texts = players.choices(case.spec, start) if start is not None else ()
        if start is None or not texts:
            return []
        hostile = players.hostile_texts(case.spec, [start]).values()
        with case.open() as stage:
            return case.play(
                stage,
                [
                    case.job("near", players.replaying([text]), case.seeds[0], 1)
                    for text in players.unlisted(texts, hostile)
                    if len(text.encode()) <= (case.spec.action.max_text_bytes or players.TEXT_BYTES)
                ],
            )

    found: list[Episode] = case.once("near", made)
    return found


@answers(SILENCE)
def of_silence(case: Case) -> None:
    """Saying nothing, always or now and then, earns nothing and does not succeed."""
    for episode in case.silent:
        for number, (move, turn) in enumerate(zip(episode.moves, episode.turns[1:], strict=False), 1):
            if move is not None:
                continue
            sent = f"no action at turn {number} of seed {episode.seed}"
            if turn.reward > _TOLERANCE:
                case.find("error", sent, f"a reward of {turn.reward:g}", "0, as the session's fallback says")
                return
            if turn.success and turn.end is not End.TIME_LIMIT:
                case.find("error", sent, "success", "no success")
                return


@answers(HONEST_END)
def of_limits(case: Case) -> None:
    """Who only waits for the end of the turns does not succeed, and a limit is not called an end of the task."""
    idle = [episode for group in case.effortless.values() for episode in group]
    idle += [*case.random, *_short(case)]
    limits = [episode for episode in idle if episode.success and episode.turns[-1].end is End.TIME_LIMIT]
    waited = [each for each in idle if each.turns[-1].end is End.TIME_LIMIT and each.player == "silence"]
    if limits:
        episode = next((each for each in waited if each.success), limits[0])
        sent = f"seed {episode.seed}, {episode.player}, {len(episode.moves)} turns"
        came = "success at END_TIME_LIMIT"
        begun = 0 < rate(waited) < _OFTEN
        if begun:
            came += f", as in {sum(each.success for each in waited)} of {len(waited)} such episodes: they begin solved"
        certain = rate(waited) >= _OFTEN and not _survival(case)
        case.find("error" if certain else "warning", sent, came, "no success")
        return
    won = [episode for episode in idle if episode.success]
    lengths = {len(episode.moves) for episode in won}
    names = {episode.player for episode in won}
    acting = [episode for episode in idle if episode.ended and episode.player != "silence"]
    longest = max((len(episode.moves) for episode in acting), default=0)
    failed = any(len(episode.moves) == longest and not episode.success for episode in acting)
    if len(won) >= 4 and len(names) > 1 and lengths == {longest} and longest > 2 and not failed:
        sent = f"{len(won)} episodes of {len(names)} agents that make no effort"
        case.find("error", sent, f"success, each at turn {longest}", "failure where a limit of turns ends it")
        return
    lost = [episode for episode in acting if not episode.success and episode not in _short(case)]
    called = [episode for episode in lost if episode.turns[-1].end is End.TASK and len(episode.moves) == longest]
    others = {len(episode.moves) for episode in lost}
    ways = {tuple(map(str, episode.moves)) for episode in called}
    if len(called) >= 6 and len(called) == len(lost) and others == {longest} and longest > 4 and len(ways) > 3:
        sent = f"{len(called)} episodes that failed"
        case.find("warning", sent, f"END_TASK, each at turn {longest}", "END_RULE for a limit of turns")


def _survival(case: Case) -> bool:
    """Whether to last is the task: every end before the limit is a failure, and there are some."""
    ended = [episode for episode in case.everything if episode.turns[-1].end in (End.TASK, End.RULE)]
    return bool(ended) and not any(episode.success for episode in ended)


def _short(case: Case) -> list[Episode]:
    """Episodes under a limit of a few turns, where the env has that option."""

    def made() -> list[Episode]:
        with case.open(1) as stage:
            known = "max_turns" in stage.options
        if not known:
            return []
        options = {"max_turns": _SHORT}
        with closing(case.place.open(min(2, case.slots), options=options)) as stage:
            return case.play(
                stage,
                [
                    case.job(name, player, seed, _SHORT + 1)
                    for name, player in (("silence", players.silent), ("random", players.drawn))
                    for seed in case.seeds[:3]
                ],
            )

    found: list[Episode] = case.once("short", made)
    return found


@answers(AGREEMENT)
def of_agreement(case: Case) -> None:
    """Success pays."""
    ended = [episode for episode in case.everything if episode.ended and not episode.error]
    won = [episode for episode in ended if episode.success]
    lost = [episode for episode in ended if not episode.success and episode.player not in ("silence", *case.hostile)]
    _judge_last_rewards(case, won, lost)
    if len(won) < 3 or len(lost) < 3:
        raise case.skip(f"fewer than three episodes {'failed' if len(won) >= 3 else 'succeeded'}")
    sent = f"{len(won)} episodes that succeeded, {len(lost)} that failed"
    if mean(won) <= mean(lost) + _TOLERANCE:
        came = f"mean returns of {mean(won):g} and {mean(lost):g}"
        case.find("error", sent, came, "more for success")


def _judge_last_rewards(case: Case, won: Sequence[Episode], lost: Sequence[Episode]) -> None:
    """What the last turn earns, and what metrics call success, goes with the verdict."""
    last = [episode.turns[-1].reward for episode in won]
    if last and min(last) < -_TOLERANCE and max(last) > _TOLERANCE:
        sent = f"the last turns of {len(won)} episodes that succeeded"
        case.find("error", sent, f"rewards from {min(last):g} to {max(last):g}", "no penalty for success")
        return
    for episode in [*won, *lost]:
        for name, value in episode.turns[-1].metrics.items():
            if name.casefold() in _VERDICTS and bool(value) != episode.success and value in (0, 1):
                came = f"success is {episode.success}, and the metric {name!r} is {value:g}"
                case.find("error", f"the end of seed {episode.seed}, {episode.player}", came, "one verdict")
                return


@answers(REACHABLE)
def of_success(case: Case) -> None:
    """Somebody succeeds."""
    if any(episode.success for episode in case.everything):
        return
    if any(episode.success for episode in case.search):
        return
    episodes = case.everything
    ended = sum(episode.ended for episode in episodes)
    sent = f"{len(episodes)} episodes, {ended} of them to their end"
    if case.place.expert:
        case.find("error", sent, "no success, not even the expert's", "success")
    elif case.thin > 1:
        raise case.skip(f"nobody succeeded in {len(episodes)} episodes, and there was no time for more; no expert")
    elif _pays(episodes):
        raise case.skip(f"nobody succeeded in {len(episodes)} episodes, though some earned more than others; no expert")
    else:
        case.find("warning", sent, "no success, and nobody earned anything", "success")


def _pays(episodes: Sequence[Episode]) -> bool:
    """Whether some actions earn more than is usual, or lasting longer does."""
    rewards = [turn.reward for each in episodes for turn in each.turns if turn.outcome is Outcome.EXECUTED]
    usual = max(set(rewards), key=rewards.count, default=0.0)
    return usual > _TOLERANCE or max(rewards, default=usual) > usual + _TOLERANCE


@answers(FARMING)
def of_circles(case: Case) -> None:
    """Where a way leads back to what was seen before, it does not pay, however often it is gone."""
    case.need_repeatable()
    episodes = [*case.random, *case.scripts, *(each for group in case.fixed.values() for each in group)]
    episodes += _alternations(case)
    acted = [turn.reward for episode in episodes for turn in episode.turns[1:] if turn.end is None]
    if not acted:
        raise case.skip("every episode ends at its first action")
    usual = max(set(acted), key=acted.count)
    if usual > 0 and acted.count(usual) >= _SURE * len(acted):
        raise case.skip(f"nearly every turn earns {usual:g}, whatever is done")
    known = [episode.total for episode in case.everything if episode.success]
    for start, cycle, episode in _circles(episodes)[:4]:
        moves = [*episode.moves[:start], *(cycle * _CYCLES)]
        with case.open(1) as stage:
            played = case.play(stage, [case.job("circle", players.replaying(moves), episode.seed, len(moves))])
        rounds = _rounds(played[0], start, len(cycle)) if played else []
        if len(rounds) < 4 or min(rounds[1:]) <= _TOLERANCE:
            continue
        gained, solving = sum(rounds), fmean(known) if known else None
        limit = case.spec.max_turns or 1_000
        possible = fmean(rounds[1:]) * (limit - start) / len(cycle)
        sent = f"seed {episode.seed}: {' '.join(_shown(move) for move in cycle)}, {len(rounds)} times"
        came = f"{rounds[-1]:g} each time, {gained:g} in all, and no end"
        if solving is not None and possible > solving:
            came += f"; {limit} turns of it earn {possible:g}"
            case.find("error", sent, came, f"less than solving the task does, {solving:g}")
        else:
            case.find("warning", sent, came, "nothing for what leads back")
        return


def _alternations(case: Case) -> list[Episode]:
    """Agents that go back and forth between two actions."""

    def made() -> list[Episode]:
        actions = [group[0].moves[0] for group in case.fixed.values() if group[0].moves]
        pairs = list(combinations(actions, 2))[:15]
        with case.open() as stage:
            return case.play(
                stage,
                [
                    case.job("back and forth", players.alternating(*order), seed, 16)
                    for pair in pairs
                    for order, seed in ((pair, case.seeds[0]), (pair[::-1], case.seeds[1]))
                ],
            )

    found: list[Episode] = case.once("alternations", made)
    return found


def _circles(episodes: Sequence[Episode]) -> list[tuple[int, list[Action | None], Episode]]:
    """Start and moves of ways that earn something and lead back to what was seen, the best first."""
    found = []
    for episode in episodes:
        seen = [(turn.pictures, turn.admissible, turn.text if not turn.pictures else "") for turn in episode.turns]
        best = 0.0
        for start in range(len(seen)):
            gained = 0.0
            for end in range(start + 1, min(start + _CYCLE + 1, len(seen))):
                gained += episode.turns[end].reward
                if episode.turns[end].end is not None:
                    break
                if seen[end] == seen[start] and gained / (end - start) > best + _TOLERANCE:
                    best = gained / (end - start)
                    found.append((best, start, episode.moves[start:end], episode))
        late = [turn.reward for turn in episode.turns[1:] if turn.end is None][4:]
        if episode.player == "back and forth" and len(late) >= 6 and len(set(late)) > 1:
            pairs = [one + other for one, other in pairwise(late)][::2]
            if min(pairs) > _TOLERANCE and fmean(pairs) / 2 > best:
                found.append((fmean(pairs) / 2, 0, episode.moves[:2], episode))
    found.sort(key=lambda each: -each[0])
    return [(start, moves, episode) for _, start, moves, episode in found]


def _rounds(episode: Episode, start: int, length: int) -> list[float]:
    """What each round earned, up to the end of the episode."""
    rewards = [turn.reward for turn in episode.turns[start + 1 :] if turn.end is None]
    return [sum(rewards[at : at + length]) for at in range(0, len(rewards) - length + 1, length)]


def _shown(action: Action | None) -> str:
    return "no action" if action is None else shortened(repr(action), 60)
