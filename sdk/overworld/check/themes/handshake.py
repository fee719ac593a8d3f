"""GetServerInfo: what the server says about itself, and that it counts its slots."""

from __future__ import annotations

import time
import uuid

from overworld.check.case import Case, check
from overworld.v1 import env_pb2 as pb

_UNKNOWN_FIELD = b"\xc2\xbe\x03\x05hello"
"""Field 7144, which no message has: a text."""


@check("I1", "I2", "I4", "I5", "E1", "E2", "E3", "E5", "X4", "S12")
def says_the_same_twice(case: Case) -> None:
    """GetServerInfo is answered the same each time, slots_free aside; Close of nothing changes nothing."""
    first = case.server_info()
    case.close(str(uuid.uuid4()))
    second = case.server_info()
    changed = [
        field
        for field in first.DESCRIPTOR.fields_by_name
        if field not in ("instance", "slots_free", "draining", "checksum")
        and _bytes(first, field) != _bytes(second, field)
    ]
    if changed:
        case.finding("I4", "GetServerInfo twice", came=f"{changed} changed in between", expected="no effect")


def _bytes(info: pb.GetServerInfoResponse, field: str) -> bytes:
    """One field of the message; maps in it have no order of their own."""
    copy = pb.GetServerInfoResponse()
    copy.CopyFrom(info)
    for name in info.DESCRIPTOR.fields_by_name:
        if name != field:
            copy.ClearField(name)
    return copy.SerializeToString(deterministic=True)


@check("I3", "O15", "L4")
def counts_its_slots(case: Case) -> None:
    """Open takes slots, Close gives them back, more than once; the session is unknown then."""
    before = case.server_info().slots_free
    slots = min(2, before)
    if not slots:
        raise case.skip("no slot is free")
    session = case.open(slots)
    taken = case.server_info().slots_free
    if taken != before - slots:
        case.finding(
            "I3",
            f"Open of {slots} slots while {before} were free",
            came=f"{taken} are free",
            expected=f"{before - slots}; nobody else may use the server while it is checked",
        )
    for _ in range(2):
        answer = case.close(session.name)
        if answer.response is None:
            case.finding("O15", answer, expected="success, whether the session exists or not")
    if (free := free_slots(case, before)) != before:
        case.finding("O15", f"Close of a session of {slots} slots", came=f"{free} are free", expected=f"{before}")
    case.refused(session.send(), "L4", "SESSION_UNKNOWN")
    case.refused(session.send(session.reset()), "L4", "SESSION_UNKNOWN")
    for name in (str(uuid.uuid4()), ""):
        answer = case.close(name)
        if answer.response is None:
            case.finding("O15", answer, expected="success: closing what does not exist succeeds")


def free_slots(case: Case, wanted: int, seconds: float = 0.5) -> int:
    """slots_free, once it is as many as `wanted`, or some time later."""
    until = time.monotonic() + seconds
    while (free := case.server_info().slots_free) != wanted and time.monotonic() < until:
        time.sleep(0.02)
    return free


@check("G1")
def passes_over_what_it_does_not_know(case: Case) -> None:
    """Messages with a field of a later revision, and a transport of one, are accepted."""
    info = case.run.wire.call("GetServerInfo", _UNKNOWN_FIELD)
    if info.response is None:
        case.finding("G1", info, expected="the field is ignored, as a field of a later revision would be")
    case.need(slots=1)
    request = case.request(transports=[77, pb.TRANSPORT_INLINE])
    session = case.opened(case.call("Open", request), "G1")
    command = pb.StepRequest(session=session.name, commands=[session.reset()]).SerializeToString()
    answer = case.run.wire.call("Step", command + _UNKNOWN_FIELD)
    if answer.response is None:
        case.finding("G1", answer, expected="the field is ignored")
