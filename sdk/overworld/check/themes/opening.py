"""Open: names, repeats, and everything that must be refused."""

from __future__ import annotations

import math
from typing import Any

from google.protobuf.duration_pb2 import Duration

from overworld.check.case import Case, check
from overworld.check.play import advised_action
from overworld.check.session import Session
from overworld.v1 import env_pb2 as pb


def _changed(request: pb.OpenRequest, **fields: Any) -> pb.OpenRequest:
    copy = pb.OpenRequest()
    copy.CopyFrom(request)
    for name in fields:
        copy.ClearField(name)
    copy.MergeFrom(pb.OpenRequest(**fields))
    return copy


@check("O3", "O6", "O7")
def is_repeatable(case: Case) -> None:
    """The same Open joins the session, which goes on where it was, and takes no more slots."""
    episode = case.episode(2)
    free = case.server_info().slots_free
    session = case.open()
    session.play(episode, 1)
    running = [case.run.wire.start("Open", session.request) for _ in range(2)]
    answers = [call.wait() for call in running]
    for answer in answers:
        if answer.response is None:
            case.finding("O3", answer, expected="the session that is open")
            return
        case.examine_open(answer)
        first, again = session.opened, answer.response
        for field in ("spec", "options_json", "provenance_digest", "transport", "lease"):
            if getattr(first, field) != getattr(again, field):
                case.finding(
                    "O3",
                    answer,
                    came=f"another {field}: {getattr(again, field)}".replace("\n", " "),
                    expected=f"{getattr(first, field)}".replace("\n", " "),
                )
    taken = free - case.server_info().slots_free
    if taken != 1:
        case.finding("O3", answers[0], came=f"{taken} slots are taken", expected="1: the session is the same one")
    with session.blaming("O3"):
        session.step(session.act(episode.actions[1]))


@check("O3")
def opens_once_at_a_time(case: Case) -> None:
    """Two Opens of one new session at the same time are the same session."""
    free = case.server_info().slots_free
    case.need(slots=2)
    request = case.request()
    running = [case.run.wire.start("Open", request) for _ in range(2)]
    answers = [call.wait() for call in running]
    sessions = [case.opened(answer) for answer in answers]
    if (taken := free - case.server_info().slots_free) != 1:
        case.finding("O3", f"{answers[0].sent}, twice at the same time", came=f"{taken} slots are taken", expected="1")
    sessions[0].step(sessions[0].reset())


@check("O3")
def conflicts_with_another_of_the_name(case: Case) -> None:
    """Under the name of an open session nothing else is opened, however small the difference; the session stays."""
    session = case.open(options_json="{}", required_features=[])
    request = session.request
    session.step(session.reset(0, 1))
    others: list[dict[str, Any]] = [
        {"options_json": "{ }"},
        {"options_json": ""},
        {"lease": Duration(seconds=7)},
        {"fallback": pb.FALLBACK_SKIP},
        {"fallback_reward": -0.5},
        {"required_features": list(case.info.features[:1])},
    ]
    if case.info.slots_free >= 2:
        others.append({"slots": 2})
    others += [{"env_id": spec.id} for spec in case.info.envs if spec.id != request.env_id][:1]
    for fields in others:
        changed = _changed(request, **fields)
        if changed == request:
            continue
        answer = case.call("Open", changed)
        if answer.response is not None:
            case.finding(
                "O3",
                answer,
                came="a session",
                expected="SESSION_CONFLICT: the messages differ (rule O3: field by field)",
            )
        else:
            case.refused(answer, "O3", "SESSION_CONFLICT")
    with session.blaming("O3"):
        session.step(session.reset(0, 2))


@check("O5", "O11", "O16", "O6")
def refuses_what_is_out_of_bounds(case: Case) -> None:
    """Names that are no UUIDs, no slots, leases that are over, rewards that are no numbers: nothing is taken."""
    free = case.server_info().slots_free
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("O5", {"session": ""}),
        ("O5", {"session": "me"}),
        ("O5", {"session": "00000000-0000-0000-0000-00000000000g"}),
        ("O11", {"slots": 0}),
        ("O11", {"lease": Duration(seconds=0)}),
        ("O11", {"lease": Duration(seconds=-1)}),
        ("O11", {"fallback": 9}),
        ("O11", {"fallback_reward": math.nan}),
        ("O11", {"fallback_reward": -math.inf, "fallback": pb.FALLBACK_SKIP}),
    ]
    for rule, fields in wrong:
        case.refused(case.call("Open", case.request(**fields)), rule, "REQUEST_INVALID")
    if (now := case.server_info().slots_free) != free:
        case.finding("O16", "Opens that were refused", came=f"{now} slots are free", expected=f"{free}, as before")
    huge = case.call("Open", case.request(lease=Duration(seconds=10**9)))
    case.opened(huge, "O6")
    ignored = case.request(fallback=pb.FALLBACK_RANDOM, fallback_reward=math.nan)
    if "random_fallback" in case.info.features and case.spec.action.vocabulary and case.info.slots_free >= 2:
        case.opened(case.call("Open", ignored), "O11")  # the reward is ignored then


@check("O12", "O16")
def refuses_unknown_envs(case: Case) -> None:
    """Ids that are not those of an env, if only by a letter."""
    for env_id in ("", f"{case.spec.id}s", "nowhere/Nothing", case.spec.id.swapcase(), case.spec.id.partition("/")[0]):
        if env_id not in {spec.id for spec in case.info.envs}:
            case.refused(case.call("Open", case.request(env_id=env_id)), "O12", "ENV_UNKNOWN")


@check("O9", "O16")
def refuses_more_slots_than_there_are(case: Case) -> None:
    """More than all, more than are free; nothing is taken."""
    info = case.server_info()
    for slots in (min(info.slots_total + 1, 2**32 - 1), 2**32 - 1):
        case.refused(case.call("Open", case.request(slots)), "O9", "NO_FREE_SLOTS")
    if info.slots_free > 1:
        case.open()
        case.refused(case.call("Open", case.request(info.slots_free)), "O9", "NO_FREE_SLOTS")
        if (now := case.server_info().slots_free) != info.slots_free - 1:
            case.finding(
                "O16",
                "Open of more slots than are free",
                came=f"{now} slots are free",
                expected=f"{info.slots_free - 1}",
            )


@check("O13")
def grants_features_that_it_lists(case: Case) -> None:
    """All that are listed can be required, and nothing else."""
    listed = list(case.info.features)
    session = case.opened(case.call("Open", case.request(required_features=listed)), "O13")
    case.close(session.name)
    for features in (["telepathy"], [*listed, "telepathy"], [""]):
        answer = case.call("Open", case.request(required_features=features))
        case.refused(answer, "O13", "FEATURE_MISSING")
    for known in ("prefix", "min_ready", "random_fallback", "expert"):
        if known not in listed:
            answer = case.call("Open", case.request(required_features=[known]))
            case.refused(answer, "O13", "FEATURE_MISSING")


@check("O2")
def grants_a_transport_that_was_listed(case: Case) -> None:
    """None, inline, what is not offered first, what is not offered only."""
    offered = set(case.info.transports)
    missing = [value for value in (*pb.Transport.values(), 99) if value not in offered or not value]
    for transports in ([], [pb.TRANSPORT_INLINE], [*missing, pb.TRANSPORT_INLINE], [0, pb.TRANSPORT_INLINE]):
        session = case.opened(case.call("Open", case.request(transports=transports)), "O2")
        if session.opened.transport != pb.TRANSPORT_INLINE:
            case.finding(
                "O2",
                f"Open with transports {transports}",
                came=f"transport {session.opened.transport}",
                expected="TRANSPORT_INLINE",
            )
        case.close(session.name)
    for value in missing:
        answer = case.call("Open", case.request(transports=[value]))
        case.refused(answer, "O2", "FEATURE_MISSING")


@check("O8", "R9", "R14", each_env=True)
def gives_expert_advice_where_it_has_it(case: Case) -> None:
    """Where the server and the env have an expert, advice and captions come with each result."""
    answer = case.call("Open", case.request(expert=True))
    if "expert" not in case.info.features:
        if case.spec.has_expert:
            case.refused(answer, "O8", "EXPERT_NOT_ALLOWED")
        else:
            case.refused(answer, "O8", "EXPERT_NOT_ALLOWED", "FEATURE_MISSING")
        return
    if not case.spec.has_expert:
        case.refused(answer, "O8", "FEATURE_MISSING")
        return
    session = case.opened(answer, "O8")
    _follow(session, case.spec)


def _follow(session: Session, spec: pb.EnvSpec) -> None:
    with session.blaming("R9"):
        (result,) = session.step(session.reset(0, 1))
        for _ in range(12):
            if result.end or not result.HasField("expert"):
                break
            (result,) = session.step(session.act(advised_action(spec, result.expert)))


@check("O17", each_env=True)
def grants_random_actions_where_they_are_listed(case: Case) -> None:
    """FALLBACK_RANDOM: granted with a vocabulary, refused for tensors."""
    answer = case.call("Open", case.request(fallback=pb.FALLBACK_RANDOM))
    if "random_fallback" not in case.info.features or case.spec.action.HasField("low"):
        case.refused(answer, "O17", "FEATURE_MISSING")
    elif case.spec.action.vocabulary:
        case.opened(answer, "O17")
    elif answer.response is None:
        case.refused(answer, "O17", "FEATURE_MISSING")
    else:
        case.opened(answer)
