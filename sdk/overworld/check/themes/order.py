"""The table of commands: what a slot does with a name that is not the next."""

from __future__ import annotations

from overworld.check.case import Case, check
from overworld.check.play import NO_ACTION, Episode
from overworld.check.session import Session
from overworld.v1 import env_pb2 as pb


def _renamed(command: pb.Command, **fields: int) -> pb.Command:
    copy = pb.Command()
    copy.CopyFrom(command)
    for name, value in fields.items():
        setattr(copy, name, value)
    return copy


def _play_on(session: Session, episode: Episode, turn: int, rule: str) -> None:
    """The action that makes `turn`, which must be executed as if nothing had happened before."""
    with session.blaming(rule):
        session.ready(session.send(session.act(episode.actions[turn - 1])), rule)


@check("T3", "S9")
def older_names_are_stale(case: Case) -> None:
    """Turns and episodes that are past, whatever they contain; the episode goes on as if they had not come."""
    episode = case.episode(3)
    session = case.open()
    session.step(session.reset(0, 99, episode=3))
    started = _renamed(session.start_of(episode), episode=7)
    session.step(started)
    first, second = (session.act(action) for action in episode.actions[:2])
    session.step(first)
    session.step(_renamed(second, turn=2))
    for older in (
        first,
        started,
        _renamed(started, episode=3),
        _renamed(started, episode=0),
        _renamed(first, episode=3, turn=9),
        pb.Command(slot=0, episode=6, turn=0, reset=pb.Reset(seed=5)),
        pb.Command(slot=0, episode=7, turn=1, reset=pb.Reset(seed=5, prefix=[NO_ACTION])),
    ):
        case.refused(session.send(older), "T3", "STALE")
    _play_on(session, episode, 3, "T3")


@check("T5", "T6", "S9")
def resets_need_a_new_episode_and_their_turn(case: Case) -> None:
    """A reset under the running episode's number, and resets whose turn is not the length of their prefix."""
    episode = case.episode(2)
    session = case.open()
    wrong = [pb.Command(turn=1, reset=pb.Reset(seed=1)), pb.Command(turn=2**32 - 1, reset=pb.Reset(seed=1))]
    if "prefix" in case.info.features:
        wrong += [
            pb.Command(turn=0, reset=pb.Reset(prefix=[NO_ACTION])),
            pb.Command(turn=1, reset=pb.Reset(prefix=[NO_ACTION, NO_ACTION])),
        ]
    for command in wrong:
        case.refused(session.send(command), "T6", "TURN_SKIPPED")
    session.play(episode, 1)
    if "prefix" in case.info.features:
        again = pb.Command(turn=2, reset=pb.Reset(seed=episode.reset.seed, prefix=[NO_ACTION, NO_ACTION]))
        case.refused(session.send(_renamed(again, episode=session.last[0].episode)), "T5", "REQUEST_INVALID")
    later = pb.Command(episode=session.last[0].episode, turn=2, reset=pb.Reset(seed=1))
    case.refused(session.send(later), "T5", "REQUEST_INVALID")
    following = pb.Command(episode=session.last[0].episode + 1, turn=1, reset=pb.Reset(seed=1))
    case.refused(session.send(following), "T6", "TURN_SKIPPED")
    _play_on(session, episode, 2, "T6")


@check("T7", "S9")
def actions_need_an_episode(case: Case) -> None:
    """Actions before the first reset, and of an episode that was not started."""
    episode = case.episode(2)
    session = case.open()
    for command in (pb.Command(turn=1, action=episode.actions[0]), pb.Command(turn=0, action=NO_ACTION)):
        case.refused(session.send(command), "T7", "NOT_RESET")
    session.play(episode, 1)
    number = session.last[0].episode
    for command in (
        pb.Command(episode=number + 1, turn=1, action=episode.actions[1]),
        pb.Command(episode=number + 1, turn=2, action=episode.actions[1]),
        pb.Command(episode=2**64 - 1, turn=0, action=NO_ACTION),
    ):
        case.refused(session.send(command), "T7", "NOT_RESET")
    _play_on(session, episode, 2, "T7")


@check("T7", "A5", "R10")
def a_failed_episode_takes_only_a_reset(case: Case) -> None:
    """An episode that failed because its prefix was too long takes no action, and a reset."""
    case.need(feature="prefix")
    ended = case.ended()
    session = case.open(options_json=ended.options_json)
    task = ended.reset.task if ended.reset.HasField("task") else None
    prefix = [*ended.actions, NO_ACTION]
    answer = session.send(session.reset(0, ended.reset.seed, split=ended.reset.split, task=task, prefix=prefix))
    if answer.response is None:
        if 0 < session.spec.max_turns < len(prefix) and case.refused(answer, "A5", "REQUEST_INVALID"):
            raise case.skip("the server refuses prefixes that are longer than max_turns, so no episode failed")
        case.finding("A5", answer, expected="a FAILED result with PREFIX_TOO_LONG")
        return
    (result,) = list(answer.response.results)[:1] or [pb.SlotResult()]
    if result.state != pb.SLOT_STATE_FAILED or result.error.reason != "PREFIX_TOO_LONG":
        case.finding("A5", answer, expected="FAILED with PREFIX_TOO_LONG: the episode ended before")
        return
    acting = pb.Command(slot=0, episode=result.episode, turn=result.turn + 1, action=NO_ACTION)
    case.refused(session.send(acting), "T7", "NOT_RESET")
    with session.blaming("T7"):
        session.ready(session.send(session.reset(0, 1)), "T7")


@check("T8", each_env=True)
def ended_episodes_take_only_a_reset(case: Case) -> None:
    """After the end, actions are refused; nothing was reset by itself."""
    ended = case.ended()
    session = case.open(options_json=ended.options_json)
    session.play(ended, len(ended.actions))
    for action in (NO_ACTION, ended.actions[-1]):
        case.refused(session.send(session.act(action)), "T8", "EPISODE_ENDED")
    case.refused(session.send(session.act(NO_ACTION, ahead=5)), "T8", "EPISODE_ENDED")
    with session.blaming("T8"):
        session.ready(session.send(session.start_of(ended)), "T8")


@check("T9", "S9")
def turns_are_not_skipped(case: Case) -> None:
    """An action with a turn beyond the next is refused, and the next one still executed."""
    episode = case.episode(2)
    session = case.open()
    session.step(session.start_of(episode))
    for ahead in (2, 3, 2**31):
        case.refused(session.send(session.act(episode.actions[0], ahead=ahead)), "T9", "TURN_SKIPPED")
    _play_on(session, episode, 1, "T9")
    _play_on(session, episode, 2, "T9")


@check("T10")
def episodes_are_left_at_any_time(case: Case) -> None:
    """A reset with a larger number starts an episode, in the middle of another one and with gaps between numbers."""
    episode = case.episode(2)
    session = case.open()
    with session.blaming("T10"):
        for number in (0, 1, 10, 11):
            session.ready(session.send(_renamed(session.start_of(episode), episode=number)))
            session.ready(session.send(session.act(episode.actions[0])))
