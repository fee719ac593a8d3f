"""Checksums: those of responses are right, and a request with a wrong one does nothing."""

from __future__ import annotations

from overworld.check.case import Case, check
from overworld.check.play import NO_ACTION
from overworld.contract import checksum
from overworld.v1 import env_pb2 as pb


@check("C1", "C2")
def responses_have_checksums(case: Case) -> None:
    """Those of all four calls, with frames and without."""
    case.need(slots=1)
    listed = checksum.FEATURE in case.info.features
    session = case.open()
    answers = [
        case.call("GetServerInfo", pb.GetServerInfoRequest()),
        case.call("Open", session.request),
        session.send(),
        session.send(session.reset()),
        case.close(session.name),
    ]
    for answer in answers:
        if answer.response is None:
            continue  # found by the checks of that call
        if answer.corrupted:
            case.finding("C1", answer, expected=f"a checksum of the bytes before it: {answer.corrupted}")
        elif listed and not answer.response.HasField("checksum"):
            case.finding("C2", answer, expected="a checksum, since the server lists that feature")


@check("C3", "S9")
def requests_with_wrong_checksums_do_nothing(case: Case) -> None:
    """A flipped bit is noticed; what was refused may be sent as it should have been, or as something else."""
    case.need(feature=checksum.FEATURE, slots=1)
    session = case.open()
    session.step(session.reset())
    act = pb.StepRequest(session=session.name, commands=[session.act(NO_ACTION)])
    reset = pb.StepRequest(session=session.name, commands=[session.reset()])
    calls = [("Step", act), ("Step", reset), ("GetServerInfo", pb.GetServerInfoRequest()), ("Open", session.request)]
    for method, request in calls:
        data = request.SerializeToString()
        for header in (checksum.request_checksum(method, data + b"x"), checksum.request_checksum("Close", data), "?"):
            case.refused(case.run.wire.call(method, request, header=header), "C3", "CORRUPTED")
    header = checksum.request_checksum("Step", act.SerializeToString())
    answer = case.run.wire.call("Step", act, header=header)
    if answer.response is None:
        case.finding("C3", answer, expected="a result: the checksum is right, and the refused ones did nothing")
