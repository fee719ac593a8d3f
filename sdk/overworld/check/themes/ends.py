"""Ends: the limit of turns, prefixes up to the end and past it, and the observation that an episode ends with."""

from __future__ import annotations

import json

from overworld.check.case import Case, check
from overworld.check.play import NO_ACTION, Episode
from overworld.check.session import Session
from overworld.v1 import env_pb2 as pb

_LONGEST_PREFIX = 2_000


@check("R8", "R7", "R1", each_env=True)
def the_limit_of_turns_is_kept(case: Case) -> None:
    """Turns without action, up to max_turns, at once: the episode has ended by then, and not without a reason."""
    limit = case.spec.max_turns
    if not 0 < limit <= _LONGEST_PREFIX:
        raise case.skip(f"max_turns is {limit}: {'no limit' if not limit else 'too many to try'}")
    case.need(feature="prefix")
    session = case.open()
    answer = session.send(session.reset(0, 1, prefix=[NO_ACTION] * limit))
    if answer.response is None:
        case.finding("R8", answer, expected="a result, since a prefix may be as long as max_turns")
        return
    failed = [result for result in answer.response.results if result.state == pb.SLOT_STATE_FAILED]
    if failed and failed[0].error.reason == "PREFIX_TOO_LONG":
        return  # the env's own rule ended it before
    session.ready(answer, "R8")  # the audit asks for an end at the limit


@check("R8", "R13", each_env=True)
def a_shorter_limit_ends_episodes_as_they_are(case: Case) -> None:
    """With the option max_turns, if there is one: END_TIME_LIMIT, with the observation of that very turn."""
    if "max_turns" not in case.options():
        raise case.skip("the env has no option max_turns")
    turns = 2
    episode = case.episode(turns)
    answer = case.call("Open", case.request(options_json=json.dumps({"max_turns": turns})))
    if answer.response is None:
        case.refused(answer, "O14", "OPTIONS_INVALID", "ENV_FAILED")
        raise case.skip(f"the env does not take max_turns {turns}")
    session = case.opened(answer)
    if session.spec.max_turns != turns:
        case.finding("R8", answer, came=f"the spec has max_turns {session.spec.max_turns}", expected=f"{turns}")
        return
    (first,) = session.step(session.start_of(episode))
    (second,) = session.step(session.act(episode.actions[0]))
    same = _look(first) == _look(episode.results[0]) and _look(second) == _look(episode.results[1])
    (last,) = session.step(session.act(episode.actions[1]))
    if last.end != pb.END_TIME_LIMIT:
        case.finding("R8", f"turn {turns} with max_turns {turns}", came=f"end is {last.end}", expected="END_TIME_LIMIT")
    if same and _look(last) != _look(episode.results[turns]):
        case.finding(
            "R13",
            f"the last turn of an episode with max_turns {turns}",
            came="another observation than the same actions give with a larger max_turns",
            expected="the true final observation",
        )
    case.refused(session.send(session.act(NO_ACTION)), "T8", "EPISODE_ENDED")


@check("R13", each_env=True)
def the_last_observation_is_not_the_next_episodes(case: Case) -> None:
    """Final observations are compared with first ones: there is no reset that nobody asked for."""
    ended = [episode for episode in case.episodes() if episode.ended]
    firsts = [_look(episode.results[0]) for episode in case.episodes()]
    different = {json.dumps(first) for first in firsts}
    moving = [episode for episode in ended if episode.telling > 1 or len(different) > 1]
    if not ended:
        raise case.skip("no episode ended")
    session = case.open()
    suspicious = 0
    for episode in moving[:4]:
        around = [episode.reset.seed, episode.reset.seed + 1, 0, 1]
        starts = [_look(session.step(session.reset(0, seed))[0]) for seed in around]
        suspicious += _look(episode.results[-1]) in [*starts, *firsts]
    if len(different) > 1 and suspicious == len(moving[:4]) >= 2:
        case.finding(
            "R13",
            f"{suspicious} episodes were played to their end",
            came="each ended with what an episode begins with",
            expected="the true final observation",
        )


@check("A5", "D2", each_env=True)
def prefixes_reach_the_end_and_not_further(case: Case) -> None:
    """A prefix that ends exactly at the end gives the last result; a longer one fails the slot."""
    case.need(feature="prefix")
    ended = case.ended()
    session = case.open(options_json=ended.options_json)
    with session.blaming("A5"):
        session.ready(session.send(_replay(session, ended, 0)), "A5")
    case.refused(session.send(session.act(NO_ACTION)), "T8", "EPISODE_ENDED")
    answer = session.send(_replay(session, ended, 1))
    if answer.response is None:
        if 0 < session.spec.max_turns < len(ended.actions) + 1:
            case.refused(answer, "A5", "REQUEST_INVALID")
            return
        case.finding("A5", answer, expected="a FAILED result with PREFIX_TOO_LONG")
        return
    for result in answer.response.results:
        if result.state != pb.SLOT_STATE_FAILED or result.error.reason != "PREFIX_TOO_LONG":
            case.finding("A5", answer, expected="a FAILED result with PREFIX_TOO_LONG")
    with session.blaming("A5"):
        session.ready(session.send(session.start_of(ended)), "A5")


def _replay(session: Session, episode: Episode, more: int) -> pb.Command:
    task = episode.reset.task if episode.reset.HasField("task") else None
    prefix = [*episode.actions, *[NO_ACTION] * more]
    return session.reset(0, episode.reset.seed, split=episode.reset.split, task=task, prefix=prefix)


def _look(result: pb.SlotResult) -> list[str]:
    look = result.observation
    return [*(f"{image.name} {image.xxh64}" for image in look.images), *(part.text for part in look.parts)]
