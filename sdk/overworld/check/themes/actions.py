"""Actions: how they are spelled, which are admissible, what happens to the others, and how large they may be."""

from __future__ import annotations

import numpy as np

from overworld.check.case import Case, check
from overworld.check.histories import comparable, difference
from overworld.check.play import NO_ACTION, inadmissible
from overworld.check.session import Session
from overworld.contract.wire import tensor_from_proto, tensor_to_proto
from overworld.service import bounds
from overworld.v1 import env_pb2 as pb

_TEXT_BYTES = 4096


@check("A2", "A3", "A7", each_env=True)
def mean_the_same_however_they_are_spelled(case: Case) -> None:
    """In other case, with other white space, as an index: the same result. Longer texts do not mean it."""
    episode = case.episode(1)
    action = episode.actions[0]
    choices = list(episode.results[0].observation.admissible or case.spec.action.vocabulary)
    if action.text not in choices:
        raise case.skip("the env lists no actions")
    spelled = f" \t{action.text.upper().replace(' ', '   ')}\n"
    limit = case.spec.action.max_text_bytes or _TEXT_BYTES
    others = [pb.Action(text=spelled)] if len(spelled.encode()) <= limit else []
    if action.text in case.spec.action.vocabulary:
        others.append(pb.Action(index=list(case.spec.action.vocabulary).index(action.text)))
    session = case.open()
    for other in others:
        session.step(session.start_of(episode))
        answer = session.send(session.act(other))
        (result,) = session.ready(answer)
        if differs := difference(comparable(result), comparable(episode.results[1])):
            case.finding("A2", answer, came=differs[0], expected=f"{differs[1]}, the result of {action.text!r}")
    for text in (f"{action.text} {action.text}", f"{action.text}, please", f"x{action.text}", ""):
        if text not in choices and len(text.encode()) <= limit:
            session.step(session.start_of(episode))
            session.step(session.act(pb.Action(text=text)))  # the audit knows what is admissible


@check("A7", "A8", each_env=True)
def that_cannot_be_executed_are_skipped(case: Case) -> None:
    """No action and inadmissible ones, in sessions that charge for them differently: the difference is the charge."""
    episode = case.episode(1)
    wrong = [NO_ACTION, inadmissible(case.spec, episode.results[0].observation.admissible), pb.Action(index=2**32 - 1)]
    rewards: dict[float, list[float]] = {}
    for charge in (0.0, -0.25, 1.5):
        session = case.open(fallback_reward=charge, fallback=pb.FALLBACK_SKIP if charge else pb.FALLBACK_UNSPECIFIED)
        session.step(session.start_of(episode))
        rewards[charge] = []
        for action in wrong:
            if action is None or session.last[0].end:
                continue
            (result,) = session.step(session.act(action))
            rewards[charge].append(result.reward)
            expected = pb.OUTCOME_NO_ACTION if action == NO_ACTION else pb.OUTCOME_NOT_ADMISSIBLE
            if result.outcome != expected:
                case.finding(
                    "A7", f"Step with {action or 'no action'}", came=f"outcome {result.outcome}", expected=f"{expected}"
                )
        case.close(session.name)
    for charge, earned in rewards.items():
        added = [one - other for one, other in zip(earned, rewards[0.0], strict=False)]
        if not np.allclose(added, charge):
            case.finding(
                "A8",
                f"skipped turns with fallback_reward {charge}",
                came=f"rewards of {earned}",
                expected=f"{charge} more than the {rewards[0.0]} of fallback_reward 0",
            )


@check("A9", each_env=True)
def that_cannot_be_executed_are_drawn(case: Case) -> None:
    """FALLBACK_RANDOM in two sessions, and in a replay: the same actions, all of them admissible."""
    case.need(feature="random_fallback", slots=1)
    asked = case.call("Open", case.request(fallback=pb.FALLBACK_RANDOM))
    if asked.response is None:
        raise case.skip("the env does not list its actions")
    case.close(case.opened(asked).name)
    drawn: list[list[str]] = []
    for _ in range(2):
        session = case.open(fallback=pb.FALLBACK_RANDOM, fallback_reward=-3.0)
        with session.blaming("A9"):
            drawn.append(_draw(session))
        case.close(session.name)
    if drawn[0] != drawn[1]:
        case.finding("A9", "turns without action in two sessions", came=f"{drawn[1]}", expected=f"{drawn[0]}")
    if "prefix" in case.info.features:
        session = case.open(fallback=pb.FALLBACK_RANDOM, fallback_reward=-3.0)
        with session.blaming("A9"):
            session.step(session.reset(0, 2, prefix=[NO_ACTION] * (len(drawn[0]) - 1)))


def _draw(session: Session) -> list[str]:
    (result,) = session.step(session.reset(0, 2))
    drawn: list[str] = []
    while not result.end and len(drawn) < 6:
        (result,) = session.step(session.act(NO_ACTION))
        drawn.append(result.executed.text)
    return drawn


@check("A1", "A7")
def tensors_are_checked(case: Case) -> None:
    """Where the env takes none, where they are too large, where they contradict themselves, where they are outside."""
    episode = case.episode(1)
    session = case.open()
    session.step(session.start_of(episode))
    broken = [
        pb.Tensor(dtype="float32", shape=[2], data=bytes(4)),
        pb.Tensor(dtype="object", shape=[1], data=bytes(8)),
        pb.Tensor(dtype="float32", shape=[2**31, 2**31], data=bytes(8)),
    ]
    spec = case.spec.action
    if not spec.HasField("low"):
        broken.append(pb.Tensor(dtype="float32", shape=[1], data=bytes(4)))
    else:
        size = len(spec.low.data)
        broken.append(pb.Tensor(dtype="uint8", shape=[size + 1], data=bytes(size + 1)))
    for tensor in broken:
        case.refused(session.send(session.act(pb.Action(tensor=tensor))), "A1", "REQUEST_INVALID")
    if spec.HasField("low"):
        case.refused(session.send(session.act(pb.Action(text="up"))), "A1", "ACTION_TOO_LARGE")
        low, high = tensor_from_proto(spec.low), tensor_from_proto(spec.high)
        outside = [high + 1] if high.dtype.kind == "f" and np.all(np.isfinite(high)) else []
        flat = low.reshape(-1)[:0]
        for array in (*outside, flat):
            if not session.last[0].end:
                session.step(session.act(pb.Action(tensor=tensor_to_proto(array.astype(low.dtype)))))
    with session.blaming("S9"):
        session.step(session.start_of(episode))
        session.ready(session.send(session.act(episode.actions[0])), "S9")


@check("A6", each_env=True)
def texts_have_bounds(case: Case) -> None:
    """Texts and replies of one byte too many are refused, those of the bound itself are taken."""
    spec = case.spec.action
    bound = max(spec.max_text_bytes, _TEXT_BYTES if spec.vocabulary else 0)
    if bound > 1 << 20:
        raise case.skip(f"max_text_bytes is {bound:,}: too much to try")
    episode = case.episode(1)
    session = case.open()
    session.step(session.start_of(episode))
    for text in ("x" * (bound + 1), "é" * (bound // 2 + 1)):
        case.refused(session.send(session.act(pb.Action(text=text))), "A6", "ACTION_TOO_LARGE")
    for reply in ("r" * (bounds.REPLY + 1), "é" * (bounds.REPLY // 2 + 1)):
        case.refused(session.send(session.act(pb.Action(reply=reply))), "A6", "ACTION_TOO_LARGE")
    if "prefix" in case.info.features:
        long = session.reset(0, 1, prefix=[pb.Action(text="x" * (bound + 1))])
        case.refused(session.send(long), "A6", "ACTION_TOO_LARGE")
    action = pb.Action()
    action.CopyFrom(episode.actions[0])
    action.reply = "r" * bounds.REPLY
    with session.blaming("A6"):
        session.ready(session.send(session.act(action)), "A6")
    if bound and not session.last[0].end:
        session.ready(session.send(session.act(pb.Action(text="x" * bound))), "A6")
