"""Many calls at a time: disjoint slots, stragglers, calls that were given up."""

from __future__ import annotations

import time

from overworld.check.case import Case, check
from overworld.check.session import Session
from overworld.check.slow import slow_command
from overworld.v1 import env_pb2 as pb

_NOTICEABLE = 0.15
"""Seconds that a command must take to tell what comes while it runs from what comes afterwards."""


@check("S3", "D1")
def steps_on_disjoint_slots(case: Case) -> None:
    """Eight Steps at a time on a slot each, empty ones and GetServerInfo beside them, several rounds."""
    slots = min(8, case.info.slots_free)
    case.need(slots=2)
    episodes = [episode for episode in case.episodes() if episode.playable] or [case.episode(1)]
    session = case.open(slots)
    mine = [episodes[slot % len(episodes)] for slot in range(slots)]
    with session.blaming("S3"):
        steps = [session.start(session.start_of(mine[slot], slot)) for slot in range(slots)]
        for round in range(4):
            empty = session.start()
            info = case.run.wire.start("GetServerInfo", pb.GetServerInfoRequest())
            for answer in (empty(), info.wait()):
                if answer.response is None:
                    case.finding("S3", answer, expected="an answer while eight Steps run")
            for step in steps:
                session.ready(step(), "S3")
            playing = [slot for slot in range(slots) if round < mine[slot].playable]
            steps = [session.start(session.act(mine[slot].actions[round], slot)) for slot in playing]
        for step in steps:
            session.ready(step(), "S3")


@check("S3")
def a_slow_step_does_not_hold_up_others(case: Case) -> None:
    """While a step runs, empty Steps and GetServerInfo are answered, and steps of other slots accepted."""
    slow = slow_command(case, _NOTICEABLE)
    session = case.open(2)
    late = 0
    for _ in range(3):
        slow.prepare(session, (0, 1))
        running = session.start(slow.command(session, 0))
        time.sleep(slow.seconds / 8)
        other = session.start(slow.command(session, 1))
        beside = [session.start()(), case.call("GetServerInfo", pb.GetServerInfoRequest())]
        late += running.running.done
        for answer in (running(), other()):
            session.ready(answer, "S3")
        for answer in beside:
            if answer.response is None:
                case.finding("S3", answer, expected="an answer while a step runs")
    if late == 3:
        case.finding(
            "S3",
            f"an empty Step and GetServerInfo while a step of {slow.seconds:.2g} s ran",
            came="they were answered after it, three times",
            expected="answers while it runs",
        )


@check("T4", "S9")
def a_running_slot_is_busy(case: Case) -> None:
    """The next command is refused while the last one runs, and executed afterwards."""
    slow = slow_command(case, _NOTICEABLE)
    session = case.open()
    accepted = 0
    for _ in range(3):
        slow.prepare(session)
        command = slow.command(session)
        running = session.start(command)
        time.sleep(slow.seconds / 4)
        if running.running.done:
            session.ready(running(), "T4")
            continue
        following = pb.Command(episode=command.episode, turn=command.turn + 1, action=pb.Action())
        other = pb.Command(episode=command.episode + 1, turn=0, reset=pb.Reset(seed=1))
        answers = [session.send(following), session.send(other)]
        answer = running()
        if any(early.response is not None for early in answers):
            accepted += 1
            continue
        session.ready(answer, "T4")
        for early in answers:
            case.refused(early, "T4", "BUSY")
        with session.blaming("T4"):
            session.ready(session.send(following), "T4")
    if accepted == 3:
        case.finding(
            "T4",
            f"the next command, {slow.seconds / 4:.2g} s after one that takes {slow.seconds:.2g} s",
            came="it was accepted, three times",
            expected="BUSY",
        )


@check("T4", "R10")
def a_pending_slot_is_busy(case: Case) -> None:
    """Slots that came back PENDING refuse their next command as long as they run, however short that is."""
    case.need(feature="min_ready", slots=3)
    slots = min(8, case.info.slots_free)
    session = case.open(slots)
    if slow_command(case).seconds >= _NOTICEABLE:
        raise case.skip("its steps are long enough for the other check")
    longest = max(case.episodes(), key=lambda episode: episode.playable)
    prefix = longest.actions[: longest.playable] if "prefix" in case.info.features else []
    refused = 0
    for _ in range(4):
        commands = [session.reset(slot, longest.reset.seed, prefix=prefix) for slot in range(slots)]
        answer = session.send(*commands, min_ready=1)
        if answer.response is None:
            break
        pending = [result for result in answer.response.results if result.state == pb.SLOT_STATE_PENDING]
        for result in reversed(pending):
            following = pb.Command(slot=result.slot, episode=result.episode, turn=result.turn + 1, action=pb.Action())
            early = session.send(following)
            refused += early.response is None and case.refused(early, "T4", "BUSY")
        with session.blaming("T4"):
            for command in commands:
                last = session.last.get(command.slot)
                if last is None or (last.episode, last.turn) < (command.episode, command.turn):
                    session.ready(session.send(command), "T4")
    if not refused:
        raise case.skip("its steps are too short for a command to come while one runs")


@check("T4", "S8")
def a_command_too_early_does_no_harm(case: Case) -> None:
    """The next action is sent right after a command, without waiting: refused, or executed in its turn."""
    slow = slow_command(case)
    session = case.open()
    refused = 0
    for _ in range(6):
        slow.prepare(session)
        command = slow.command(session)
        following = pb.Command(episode=command.episode, turn=command.turn + 1, action=pb.Action())
        requests = [pb.StepRequest(session=session.name, commands=[each]) for each in (command, following)]
        running = [case.run.wire.start("Step", request) for request in requests]
        first, second = (call.wait() for call in running)
        with session.blaming("T4"):
            if second.response is None:  # it may have come first
                session.examine(first)
                session.ready(first, "T4")
                case.refused(second, "T4", "BUSY", "NOT_RESET", "TURN_SKIPPED")
                refused += second.refusal is not None and second.refusal.reason == "BUSY"
                session.ready(session.send(following), "T4")
            else:  # who moves on without waiting may not get the first result any more
                if first.response is None:
                    case.refused(first, "S8", "STALE")
                session.examine(first)
                session.examine(second)
                session.ready(second, "T4")
    if not refused:
        raise case.skip("its steps are too short for a command to come while one runs")


@check("S5", "S8")
def a_batch_is_overtaken(case: Case) -> None:
    """One slot of a batch is sent on while another still runs: the batch gets its own results, or STALE."""
    case.need(slots=2)
    slow = slow_command(case, _NOTICEABLE)
    session = case.open(2)
    overtaken = False
    for _ in range(3):
        slow.prepare(session, (1,))
        held_up = slow.command(session, 1)
        quick = session.reset(0, 1)
        batch = session.start(quick, held_up)
        following = session.reset(0, 2, episode=quick.episode + 1)
        while not batch.running.done:
            early = session.send(following)
            if early.response is not None:
                overtaken |= not batch.running.done
                break
            case.refused(early, "T4", "BUSY", "NOT_RESET")
            time.sleep(slow.seconds / 20)
        answer = batch()
        if answer.response is None:
            case.refused(answer, "S8", "STALE")
        with session.blaming("S8"):
            session.ready(session.send(following), "S8")
            session.ready(session.send(held_up), "S8")
    if not overtaken:
        raise case.skip("the slots of a batch are busy until all of it is done")


@check("S5", "R10")
def stragglers_are_pending(case: Case) -> None:
    """min_ready returns when so many are ready; the others are collected by the same commands again."""
    case.need(slots=2)
    slots = min(4, case.info.slots_free)
    session = case.open(slots)
    slow = slow_command(case)
    with session.blaming("S5"):
        for least in (1, slots, slots + 3):
            slow.prepare(session, range(slots))
            commands = [slow.command(session, slot) for slot in range(slots)]
            for attempt in range(200):
                answer = session.send(*commands, min_ready=least if attempt < 199 else 0)
                if answer.response is None:
                    case.finding("S5", answer, expected="results, some of them PENDING")
                    return
                if all(result.state != pb.SLOT_STATE_PENDING for result in answer.response.results):
                    break
                time.sleep(0.005)
            session.ready(answer, "S5")


@check("S4", "T1")
def steps_finish_though_their_callers_hang_up(case: Case) -> None:
    """Calls are cancelled soon after they were sent, on two connections; their repeats give the results."""
    slow = slow_command(case)
    session = case.open()
    with session.blaming("S4"):
        for wait in (0.0, 0.001, slow.seconds / 4):
            slow.prepare(session)
            command = slow.command(session)
            _give_up(case, session, command, wait)
            session.ready(session.send(command), "S4")
            following = slow.episode.actions[command.turn : min(command.turn + 1, slow.episode.playable)]
            for action in following:
                session.ready(session.send(session.act(action)), "S4")


def _give_up(case: Case, session: Session, command: pb.Command, wait: float) -> None:
    wire = case.run.wire.another()
    try:
        running = wire.start("Step", pb.StepRequest(session=session.name, commands=[command]))
        time.sleep(wait)
        running.cancel()
    finally:
        wire.close()


@check("S4")
def calls_that_were_given_up_hold_up_no_others(case: Case) -> None:
    """Many calls of a slow step are given up; others are answered all the same."""
    slow = slow_command(case)
    session = case.open()
    slow.prepare(session)
    command = slow.command(session)
    for _ in range(40):
        session.start(command).running.cancel()
    answer = case.call("GetServerInfo", pb.GetServerInfoRequest())
    if answer.response is None:
        case.finding("S4", answer, expected="an answer")
    with session.blaming("S4"):
        session.ready(session.send(command), "S4")
