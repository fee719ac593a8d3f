"""The bearer token, where the server has one."""

from __future__ import annotations

import uuid

from overworld.check.case import Case, check
from overworld.v1 import env_pb2 as pb


@check("H3")
def is_asked_for(case: Case) -> None:
    """No call is answered without the token, with a wrong one, or with part of it."""
    right = case.run.wire.token
    if not right:
        raise case.skip("no token was given")
    calls = {
        "GetServerInfo": pb.GetServerInfoRequest(),
        "Open": case.request(),
        "Step": pb.StepRequest(session=str(uuid.uuid4())),
        "Close": pb.CloseRequest(session=str(uuid.uuid4())),
    }
    wrong = (f"{right}x", right[:-1] or "x", "no such token")
    for token, reason in (("", "TOKEN_MISSING"), *((token, "TOKEN_WRONG") for token in wrong)):
        wire = case.run.wire.another(token=token)
        try:
            for method, request in calls.items():
                answer = wire.call(method, request)
                what = "without a token" if not token else "with a wrong token"
                if answer.response is not None:
                    case.finding(
                        "H3",
                        f"{answer.sent}, {what}",
                        came=answer.came,
                        expected=f"UNAUTHENTICATED, {reason}; leave the token out if there is none",
                    )
                else:
                    case.refused(answer, "H3", reason)
        finally:
            wire.close()
