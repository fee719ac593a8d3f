"""Frames: the same pixels through each transport, and where they are said to be."""

from __future__ import annotations

from overworld.check.case import Case, check
from overworld.check.session import Session
from overworld.v1 import env_pb2 as pb

_TURNS = 5


@check("F6", "F7", "F4", each_env=True)
def are_the_same_inline(case: Case) -> None:
    """A batch of slots with frames inline, on a transport that is asked for by name."""
    episode = case.episode(1)
    slots = min(3, max(case.info.slots_free, 1))
    session = case.open(slots, transports=[pb.TRANSPORT_INLINE])
    with session.blaming("F6"):
        session.step(*(session.start_of(episode, slot) for slot in range(slots)))
        for action in episode.actions[: min(episode.playable, _TURNS)]:
            session.step(*(session.act(action, slot) for slot in range(slots)))


@check("F7", "F6", "F4", each_env=True)
def are_the_same_compressed(case: Case) -> None:
    """With TRANSPORT_INLINE_LZ4, where it is offered: the pixels of the other transports."""
    if pb.TRANSPORT_INLINE_LZ4 not in case.info.transports:
        raise case.skip("the server does not offer TRANSPORT_INLINE_LZ4")
    episode = case.episode(1)
    slots = range(min(3, max(case.info.slots_free, 1)))
    session = case.open(len(slots), transports=[pb.TRANSPORT_INLINE_LZ4])
    with session.blaming("F6"):
        session.step(*(session.start_of(episode, slot) for slot in slots))
        for action in episode.actions[: min(episode.playable, _TURNS)]:
            session.step(*(session.act(action, slot) for slot in slots))


@check("F4", "F5", "F6", "F7", each_env=True)
def are_the_same_in_shared_memory(case: Case) -> None:
    """In the shared file, where they stay until the slot's next command, whatever the other slots do."""
    session = _shared(case, 2)
    episode = case.episode(1)
    with session.blaming("F6"):
        answer = session.send(session.start_of(episode, 0), session.reset(1, 5))
        session.ready(answer)
        for action in episode.actions[: min(episode.playable, _TURNS)]:
            _stays(case, session, answer.response, 0, session.step(session.reset(1, session.last[1].episode)))
            answer = session.send(session.act(action, 0))
            session.ready(answer)
    session.ready(session.send(session.act(pb.Action(), 1)))


def _shared(case: Case, slots: int) -> Session:
    if pb.TRANSPORT_SHARED_MEMORY not in case.info.transports:
        raise case.skip("the server does not offer shared memory")
    case.need(slots=slots)
    both = [pb.TRANSPORT_SHARED_MEMORY, pb.TRANSPORT_INLINE]
    session = case.open(slots, transports=both)
    if session.opened.transport != pb.TRANSPORT_SHARED_MEMORY:
        raise case.skip("the server did not grant shared memory")
    if not session.readable:
        _explain(case, session)
    return session


def _explain(case: Case, session: Session) -> None:
    """Raises SkipCheckError where the file may be on another machine; a file that is here must be the right one."""
    shared = session.opened.shared
    if not shared.path or not shared.nonce or len(shared.nonce) > shared.size:
        case.finding(
            "F4",
            f"Open of {case.spec.id} with TRANSPORT_SHARED_MEMORY",
            came=f"path {shared.path!r}, size {shared.size}, a nonce of {len(shared.nonce)} bytes",
            expected="a file, and the bytes at its end",
        )
    elif case.run.local:
        case.finding(
            "F4",
            f"Open of {case.spec.id} with TRANSPORT_SHARED_MEMORY",
            came=f"{shared.path!r} cannot be opened, or its size or nonce differ",
            expected="a regular file of that size that ends with the nonce; a server on loopback that runs in "
            "a container should not offer it",
        )
    raise case.skip("its shared memory cannot be read here")


def _stays(case: Case, session: Session, response: pb.StepResponse, slot: int, others: list[pb.SlotResult]) -> None:
    """The frames of a slot's last result are there still, after commands of other slots."""
    for result in response.results:
        for fault in session.frames(response).faults(result) if result.slot == slot else ():
            case.finding(
                "F5",
                f"frames of slot {slot}, after a command of slot {others[0].slot}",
                came=fault.came,
                expected="the pixels of its last command",
            )


@check("O3", "F4", "F6")
def move_to_another_transport(case: Case) -> None:
    """Open again with other transports: the session goes on, its frames come the other way."""
    session = _shared(case, 1)
    episode = case.episode(2)
    session.play(episode, 1)
    for transports, command in (
        ([pb.TRANSPORT_INLINE], session.act(episode.actions[1])),
        ([pb.TRANSPORT_SHARED_MEMORY, pb.TRANSPORT_INLINE], None),
    ):
        request = pb.OpenRequest()
        request.CopyFrom(session.request)
        del request.transports[:]
        request.transports.extend(transports)
        answer = case.call("Open", request)
        if answer.response is None:
            case.finding("O3", answer, expected="the session, with another transport")
            return
        case.examine_open(answer)
        session.moved(answer.response)
        with session.blaming("O3"):
            session.step(command or session.start_of(episode))
