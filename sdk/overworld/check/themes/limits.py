"""Bounds of messages, and bytes that are none."""

from __future__ import annotations

from overworld.check.case import Case, check
from overworld.check.findings import StopCheckError
from overworld.check.play import NO_ACTION
from overworld.v1 import env_pb2 as pb

_DEFAULT_REQUEST_BYTES = 4 << 20
_TRIED_BYTES = 32 << 20


@check("S7")
def requests_up_to_the_bound_are_read(case: Case) -> None:
    """A request a little below max_request_bytes is read; one above ends with RESOURCE_EXHAUSTED, and no harm."""
    bound = case.info.max_request_bytes or _DEFAULT_REQUEST_BYTES
    session = case.open()
    reply = "r" * 60_000
    if bound <= _TRIED_BYTES:
        command = session.reset(0, 1, episode=9)
        command.reset.split = "x" * (bound - 1000)
        case.refused(session.send(command), "S7", "SPLIT_UNKNOWN")
        command.reset.split = "x" * (bound + 1000)
        if case.info.max_request_bytes:
            case.refused(session.send(command), "S7", codes=["RESOURCE_EXHAUSTED"])
    if "prefix" in case.info.features and case.spec.max_turns:
        many = min(case.spec.max_turns, (bound - 4096) // len(reply), 40)
        answer = session.send(session.reset(0, 1, prefix=[pb.Action(reply=reply)] * many))
        if answer.response is None:
            case.finding("S7", answer, expected=f"a result: the request is smaller than {bound:,} bytes")
    answer = session.send(session.reset(0, 1))
    if answer.response is None:
        case.finding("S7", answer, expected="a server that goes on")


@check("X3", "X1")
def bytes_that_are_no_message(case: Case) -> None:
    """Broken messages are refused, in whatever way, and the server goes on."""
    case.need(slots=1)
    session = case.open()
    session.step(session.reset(0, 1))
    for method in ("GetServerInfo", "Open", "Step", "Close"):
        for data in (b"\xff", b"\x0a\x02\xff\xfe", b"\x0a\xff\xff\xff\xff\x0f"):
            if method == "GetServerInfo" and data == b"\x0a\x02\xff\xfe":
                continue  # an unknown field there
            answer = case.run.wire.call(method, data)
            if answer.response is not None:
                case.finding("X3", answer, expected="an error, since these bytes are not a message")
    command = pb.StepRequest(session=session.name, commands=[session.act(NO_ACTION)])
    answer = case.run.wire.call("Step", command.SerializeToString() + b"\xff")
    if answer.response is not None:
        case.finding("X3", answer, expected="an error, since these bytes are not a message")
    info = case.server_info()
    if info.instance != case.info.instance:
        raise StopCheckError  # found already, I1
    session.ready(session.send(session.act(NO_ACTION)), "X3")
