"""Leases: sessions that nobody asks for end, others do not."""

from __future__ import annotations

import time

from google.protobuf.duration_pb2 import Duration

from overworld.check.case import Case, check
from overworld.check.findings import StopCheckError
from overworld.check.play import NO_ACTION
from overworld.check.session import Session
from overworld.check.slow import slow_command
from overworld.check.themes.handshake import free_slots
from overworld.check.wire import Answer

_SHORTEST, _SLOWEST = 0.9, 1.0
"""Seconds: of a lease, and that Open and a reset may take."""
_OUTLASTING = 0.4
"""Seconds that a batch must take for a lease to be over before it."""

_MARGIN = 3.0
"""Seconds after the end of a lease within which its slots must be free."""


@check("L1", "L2", "L4", "O6", "I3")
def end_sessions_that_are_silent(case: Case) -> None:
    """Of sessions with a short lease the silent one ends; those that Step, step empty, or Open again stay."""
    case.need(slots=4)
    free = case.server_info().slots_free
    began = time.monotonic()
    probe = case.open()
    probe.step(probe.reset(0, 1))
    case.close(probe.name)
    pace = time.monotonic() - began  # of Open and reset: four of them must fit into the lease
    if pace > _SLOWEST:
        raise case.skip(f"Open and a reset take {pace:.2g} s, too long for a short lease")
    asked = Duration(nanos=0)
    asked.FromMilliseconds(int(1000 * max(_SHORTEST, 8 * pace)))
    called = time.monotonic()
    silent, empty, acting, opening = sessions = [case.open(lease=asked) for _ in range(4)]
    lease = silent.lease
    if lease > 8 * _SLOWEST:
        raise case.skip(f"the shortest lease is {lease:g} s")
    answers = [session.send(session.reset(0, 1)) for session in sessions]
    for session, answer in zip(sessions, answers, strict=True):
        _renewed(case, session, answer, called)
    started = time.monotonic()
    ended = False
    while time.monotonic() - started < lease + _MARGIN and not ended:
        called = time.monotonic()
        time.sleep(lease / 4)
        for session, answer in (
            (empty, empty.send()),
            (acting, acting.send(acting.reset(0, 2))),
            (opening, case.call("Open", opening.request)),
        ):
            _renewed(case, session, answer, called)
        ended = case.server_info().slots_free == free - 3
        if ended and time.monotonic() - started < lease * 0.7:
            case.finding("L1", f"a session with a lease of {lease:g} s", came="it ended earlier", expected="it stays")
            return
    if not ended:
        now = case.server_info().slots_free
        case.finding(
            "L1",
            f"a session with a lease of {lease:g} s, {lease + _MARGIN:.2g} s after its last call",
            came=f"{now} slots are free",
            expected=f"{free - 3}: its slot is free again",
        )
        return
    time.sleep(lease / 4)  # a lease that was not renewed may end a moment after the silent one's
    for session in (empty, opening):  # an Open that did not renew has made a new session, which has no episode
        _renewed(case, session, session.send(session.act(NO_ACTION)), called)
    case.refused(silent.send(), "L4", "SESSION_UNKNOWN")
    _opens_again(case, silent)


def _renewed(case: Case, session: Session, answer: Answer, called: float) -> None:
    """The session must be there, if it was called since `called` often enough. Raises SkipCheckError if it was not."""
    waited = time.monotonic() - called
    if answer.response is None and waited > session.lease * 0.8:
        raise case.skip("this machine is too busy to renew a short lease in time")
    if answer.response is None:
        case.finding(
            "L2",
            answer,
            came=f"{answer.came}, at most {waited:.2g} s after a call that renewed its lease of {session.lease:g} s",
            expected="the session",
        )
        raise StopCheckError


def _opens_again(case: Case, session: Session) -> None:
    """The name can be used again; nothing is left of the first session."""
    again = case.opened(case.call("Open", case.request(session=session.name)), "L4")
    with again.blaming("L4"):
        case.refused(again.send(session.act(case.episode(1).actions[0])), "T7", "NOT_RESET")
        again.ready(again.send(again.reset(0, 1, episode=0)), "L4")


@check("L4", "D1")
def closed_sessions_can_be_opened_again(case: Case) -> None:
    """After Close the name is free, for another env and other slots, too, and episodes are numbered from anywhere."""
    first = case.open()
    first.step(first.reset(0, 1, episode=5))
    case.close(first.name)
    request = case.request(2 if case.info.slots_free >= 2 else 1, session=first.name, fallback_reward=-1.0)
    second = case.opened(case.call("Open", request), "L4")
    with second.blaming("L4"):
        second.ready(second.send(second.reset(0, 1, episode=0)), "L4")


@check("L3")
def wait_for_calls_that_run(case: Case) -> None:
    """A step that takes longer than the lease does not end its session."""
    slow = slow_command(case)
    slots = range(min(4, case.info.slots_free))
    session = case.open(len(slots))
    slow.prepare(session, slots)
    answer = session.send(*(slow.command(session, slot) for slot in slots))
    session.ready(answer)
    case.close(session.name)
    if answer.seconds < _OUTLASTING:
        raise case.skip(f"the longest batch took {answer.seconds:.2g} s, too little to outlast a lease")
    session = case.open(len(slots), lease=Duration(nanos=int(min(answer.seconds * 0.7, 0.9) * 1e9)))
    slow.prepare(session, slots)
    with session.blaming("L3"):
        session.ready(session.send(*(slow.command(session, slot) for slot in slots)), "L3")
        session.ready(session.send(session.reset(0, 1)), "L3")


@check("L1")
def closing_frees_what_a_lease_would(case: Case) -> None:
    """A session that is closed while a Step waits frees its slots; the Step ends in one way or another."""
    episode, turn, _ = case.slowest()
    free = case.server_info().slots_free
    session = case.open()
    session.bring(episode, turn - 1)
    waiting = session.start(session.act(episode.actions[turn - 1]))
    case.close(session.name)
    answer = waiting()
    if answer.response is None:
        case.refused(answer, "L4", "SESSION_UNKNOWN")
    if (now := free_slots(case, free, seconds=2.0)) != free:
        case.finding("O15", "Close while a Step waited", came=f"{now} slots are free", expected=f"{free}")
