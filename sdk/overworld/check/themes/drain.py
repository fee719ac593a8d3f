"""Draining: of a server that drains already, or that may be told to at the end."""

from __future__ import annotations

import os
import signal
import time

from overworld.check.case import Case, check
from overworld.check.session import Session
from overworld.check.themes.health import health
from overworld.v1 import env_pb2 as pb

_SECONDS = 5.0
"""Within which a server must have noticed SIGTERM."""


@check("H4", "O4", "S11")
def refuses_new_sessions_and_keeps_the_others(case: Case) -> None:
    """On SIGTERM health is NOT_SERVING and Open refused; a session that is open plays on, and is told."""
    if not case.run.terminate:
        raise case.skip("--terminate names no process that may be ended")
    episode = case.episode(3)
    session = case.open()
    session.play(episode, 1)
    try:
        os.kill(case.run.terminate, signal.SIGTERM)
    except OSError as error:
        raise case.skip(f"process {case.run.terminate} cannot be ended: {error}") from None
    case.run.draining = True
    until = time.monotonic() + _SECONDS
    while not (drains := _drains(case)) and time.monotonic() < until:
        time.sleep(0.05)
    if not drains:
        case.finding("H4", f"SIGTERM, {_SECONDS:g} s ago", came="draining is not set", expected="draining")
        return
    if (status := health(case, "")) != "NOT_SERVING":
        case.finding("H4", "Health/Check while draining", came=status, expected="NOT_SERVING")
    answer = case.call("Open", case.request())
    case.refused(answer, "O4", "DRAINING")
    _plays_on(case, session)


def _drains(case: Case) -> bool:
    answer = case.call("GetServerInfo", pb.GetServerInfoRequest())
    return answer.response is not None and bool(answer.response.draining)


def _plays_on(case: Case, session: Session) -> None:
    episode = case.episode(3)
    again = case.call("Open", session.request)
    if again.response is None:
        case.finding("O4", again, expected="the session, which is open: only new ones are refused")
    with session.blaming("H4"):
        answer = session.send(session.act(episode.actions[1]))
        session.ready(answer, "H4")
    if not answer.response.draining:
        case.finding("S11", answer, came="draining is not set", expected="set while the server drains")
