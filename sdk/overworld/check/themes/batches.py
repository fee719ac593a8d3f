"""Batches: results in the order of the commands, and nothing moves if one command is refused."""

from __future__ import annotations

import uuid

from overworld.check.case import Case, check
from overworld.check.play import NO_ACTION
from overworld.v1 import env_pb2 as pb


@check("S8", "T10")
def results_are_in_the_order_of_the_commands(case: Case) -> None:
    """Slots in any order, some left out, resets and actions mixed."""
    slots = min(4, case.info.slots_free)
    if slots < 2:
        raise case.skip("it takes two free slots")
    episodes = [episode for episode in case.episodes() if episode.playable] or [case.episode(1)]
    session = case.open(slots)
    mine = {slot: episodes[slot % len(episodes)] for slot in range(slots)}
    session.step(*(session.start_of(mine[slot], slot) for slot in reversed(range(slots))))
    turns = dict.fromkeys(range(slots), 0)
    for chosen in ([slots - 1], list(range(slots)), [1, 0], list(reversed(range(slots)))):
        commands = []
        for slot in chosen:
            if turns[slot] < mine[slot].playable:
                commands.append(session.act(mine[slot].actions[turns[slot]], slot))
                turns[slot] += 1
            else:
                commands.append(session.start_of(mine[slot], slot))
                turns[slot] = 0
        session.step(*commands)
    answer = session.send()
    if answer.response is None or answer.response.results:
        case.finding("S8", answer, expected="no results: there were no commands")


@check("S9", "S10", "X1", "X2")
def a_refused_batch_changes_nothing(case: Case) -> None:
    """A good command beside a wrong one, before it and after it, for each way to be wrong."""
    episode = case.episode(3)
    session = case.open(2)
    session.step(session.start_of(episode, 0), session.reset(1, 7))
    number = session.last[1].episode
    other = pb.Action()
    other.CopyFrom(episode.actions[0])
    other.reply = "If this was executed, the same action without a reply is a conflict."
    good = session.act(other, 0)
    stale_reset = pb.Command(slot=1, episode=number, turn=0, reset=pb.Reset(seed=8))
    wrong = [
        (pb.Command(slot=1, episode=number, turn=5, action=NO_ACTION), "TURN_SKIPPED"),
        (pb.Command(slot=1, episode=number + 1, turn=1, action=NO_ACTION), "NOT_RESET"),
        (stale_reset, "CONFLICT"),
        (pb.Command(slot=1, episode=number, turn=1), "REQUEST_INVALID"),
        (pb.Command(slot=2, episode=0, turn=0, reset=pb.Reset()), "SLOT_UNKNOWN"),
        (pb.Command(slot=2**32 - 1, episode=0, turn=0, reset=pb.Reset()), "SLOT_UNKNOWN"),
        (good, "SLOT_REPEATED"),
        (pb.Command(slot=1, episode=number + 1, reset=pb.Reset(split="no such split")), "SPLIT_UNKNOWN"),
        (pb.Command(slot=1, episode=number, turn=1, action=pb.Action(reply="é" * 40_000)), "ACTION_TOO_LARGE"),
    ]
    for command, reason in wrong:
        rule = "S10" if reason.startswith("SLOT") or reason == "REQUEST_INVALID" else "S9"
        for batch in ((good, command), (command, good)):
            case.refused(session.send(*batch), rule, reason)
    with session.blaming("S9"):
        session.ready(session.send(session.act(episode.actions[0], 0)), "S9")
        session.ready(session.send(session.act(episode.actions[1], 0), session.act(NO_ACTION, 1)), "S9")
        session.ready(session.send(session.act(episode.actions[2], 0)), "S9")


@check("S10", "S9")
def a_refused_reset_starts_nothing(case: Case) -> None:
    """A slot that refused a reset still takes one of the same number, with other content."""
    session = case.open()
    for wrong, reason in (
        (pb.Reset(split="no such split, says the checker"), "SPLIT_UNKNOWN"),
        (pb.Reset(task=2**64 - 1), "TASK_UNKNOWN"),
    ):
        case.refused(session.send(pb.Command(episode=4, reset=wrong)), "A4", reason)
    case.refused(session.send(pb.Command(episode=4)), "S10", "REQUEST_INVALID")
    with session.blaming("S9"):
        session.ready(session.send(session.reset(0, 1, episode=4)), "S9")


@check("S10", "L4")
def unknown_sessions_are_refused(case: Case) -> None:
    """Sessions that were never opened, with and without commands."""
    for name in (str(uuid.uuid4()), "", "nobody's"):
        for commands in ([], [pb.Command(reset=pb.Reset())]):
            answer = case.call("Step", pb.StepRequest(session=name, commands=commands))
            case.refused(answer, "S10", "SESSION_UNKNOWN")
