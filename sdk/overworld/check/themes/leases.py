"""Leases: sessions that nobody asks for end, others do not."""

from __future__ import annotations

import time

from google.protobuf.duration_pb2 import Duration

from overworld.check.case import Case, check
from overworld.check.session import Session
from overworld.check.slow import slow_command
from overworld.check.themes.handshake import free_slots

_LEASE = Duration(nanos=900_000_000)
_OUTLASTING = 0.4
"""Seconds that a batch must take for a lease to be over before it."""

_MARGIN = 3.0
"""Seconds after the end of a lease within which its slots must be free."""


@check("L1", "L2", "L4", "O6", "I3")
def end_sessions_that_are_silent(case: Case) -> None:
    """Of sessions with a short lease the silent one ends; those that Step, step empty, or Open again stay."""
    case.need(slots=4)
    free = case.server_info().slots_free
    silent, empty, acting, opening = sessions = [case.open(lease=_LEASE) for _ in range(4)]
    for session in sessions:
        session.step(session.reset(0, 1))
    lease = silent.lease
    if lease > 10:
        raise case.skip(f"the shortest lease is {lease:g} s")
    started = time.monotonic()
    ended = False
    while time.monotonic() - started < lease + _MARGIN and not ended:
        time.sleep(lease / 4)
        for session, answer in (
            (empty, empty.send()),
            (acting, acting.send(acting.reset(0, 2))),
            (opening, case.call("Open", opening.request)),
        ):
            if answer.response is None:
                waited = time.monotonic() - started
                case.finding(
                    "L2",
                    answer,
                    came=f"{answer.came}, {waited:.2g} s after a lease of {lease:g} s began",
                    expected="a session that is renewed every quarter of its lease",
                )
                return
            assert session is not silent
        ended = time.monotonic() - started > lease and case.server_info().slots_free == free - 3
    if time.monotonic() - started < lease * 0.9 or not ended:
        now = case.server_info().slots_free
        case.finding(
            "L1",
            f"a session with a lease of {lease:g} s, {lease + _MARGIN:.2g} s after its last call",
            came=f"{now} slots are free",
            expected=f"{free - 3}: its slot is free again",
        )
        return
    case.refused(silent.send(), "L4", "SESSION_UNKNOWN")
    _opens_again(case, silent)
    for session in (empty, acting, opening):
        session.ready(session.send(session.reset(0, 3)), "L2")


def _opens_again(case: Case, session: Session) -> None:
    """The name can be used again; nothing is left of the first session."""
    again = case.opened(case.call("Open", session.request), "L4")
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
