"""Connections: sessions belong to none of them; pings as often as allowed, and silence, which take minutes."""

from __future__ import annotations

import threading
import time
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration

from overworld.check.case import Case, check
from overworld.service.extras import needs_extra
from overworld.v1 import env_pb2 as pb

with needs_extra("check"):
    from grpc_health.v1 import health_pb2

_LEAST_SECONDS = 10.0
"""gRPC's clients ping no more often than that."""
_LONGEST_SECONDS = 30.0
_PINGS = 4
SILENCE = 60.0
"""Seconds."""


@check("K3")
def sessions_outlive_them(case: Case) -> None:
    """A session is opened on one connection, played on another, and goes on when the first one is closed."""
    episode = case.episode(3)
    first = case.run.wire.another()
    try:
        session = case.opened(first.call("Open", case.request()))
        started = pb.StepRequest(session=session.name, commands=[session.start_of(episode)])
        answer = first.call("Step", started)
        if answer.response is None:
            case.finding("T10", answer, expected="the commands are executed")
            return
        with session.blaming("K3"):
            session.ready(session.send(*started.commands), "K3")
            session.ready(session.send(session.act(episode.actions[0])), "K3")
    finally:
        first.close()
    time.sleep(0.05)  # for the server to notice
    with session.blaming("K3"):
        session.ready(session.send(session.act(episode.actions[1])), "K3")


@check("K1", slow=True)
def pings_as_often_as_allowed(case: Case) -> None:
    """A stream stays open while the client pings at the announced interval."""
    if not case.info.HasField("keepalive"):
        raise case.skip("keepalive is not set, and the default of 5 minutes is too long to wait")
    announced = case.info.keepalive.seconds + case.info.keepalive.nanos / 1e9
    if announced > _LONGEST_SECONDS:
        raise case.skip(f"keepalive is {announced:g} s, which is too long to wait")
    interval = max(announced, _LEAST_SECONDS)
    wire = case.run.wire.another(
        options=[
            ("grpc.keepalive_time_ms", int(interval * 1000) + 200),
            ("grpc.keepalive_timeout_ms", 10_000),
            ("grpc.keepalive_permit_without_calls", 0),
            ("grpc.http2.max_pings_without_data", 0),
        ]
    )
    try:
        stub: Any = wire.channel.unary_stream("/grpc.health.v1.Health/Watch")
        seconds = interval * (_PINGS + 1)
        watching = stub(health_pb2.HealthCheckRequest().SerializeToString(), timeout=seconds + 5)
        ended = threading.Event()
        reader = threading.Thread(target=_read, args=(watching, ended), daemon=True)
        reader.start()
        cut = ended.wait(seconds)
        status = watching.code() if cut else None
        watching.cancel()
        reader.join(5)
    finally:
        wire.close()
    if status is grpc.StatusCode.UNIMPLEMENTED:
        raise case.skip("the server lacks grpc.health.v1.Health/Watch, the call that stays open")
    if cut:
        case.finding(
            "K1",
            f"pings every {interval:g} s beside a running call",
            came=f"the call ended with {status}",
            expected=f"a connection that stays, as keepalive ({announced:g} s) allows",
        )


def _read(stream: Any, ended: threading.Event) -> None:
    try:
        for _ in stream:
            continue
    except grpc.RpcError:
        return  # the caller asks the stream for its status
    finally:
        ended.set()


@check("K2", "L2", slow=True)
def a_minute_of_silence(case: Case) -> None:
    """A session with a longer lease is there after a minute without any call on its connection."""
    session = case.open(lease=Duration(seconds=int(SILENCE) + 30))
    if session.lease <= SILENCE:
        raise case.skip(f"the longest lease is {session.lease:g} s")
    episode = case.episode(2)
    session.play(episode, 1)
    time.sleep(SILENCE)
    answer = session.send(session.act(episode.actions[1]))
    if answer.response is None:
        case.run.record("K2", answer.sent, answer.came, f"a result, {SILENCE:g} s after the last call")
        return
    with session.blaming("K2"):
        session.ready(answer, "K2")


@check("L1", slow=True)
def long_leases_end(case: Case) -> None:
    """The server's default lease ends, too, if it is not longer than two minutes."""
    free = case.server_info().slots_free
    session = case.open()
    if session.lease > 120:
        raise case.skip(f"the default lease is {session.lease:g} s")
    until = time.monotonic() + session.lease + 5
    while time.monotonic() < until:
        time.sleep(1)
        if case.server_info().slots_free == free:
            case.refused(case.call("Step", pb.StepRequest(session=session.name)), "L4", "SESSION_UNKNOWN")
            return
    case.finding(
        "L1",
        f"a session with the default lease of {session.lease:g} s, without a call",
        came=f"{case.server_info().slots_free} slots are free 5 s after its end",
        expected=f"{free}",
    )
