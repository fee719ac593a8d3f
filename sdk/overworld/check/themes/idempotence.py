"""A step happens once: repeats give the same result, and other content under the same name is refused."""

from __future__ import annotations

from overworld.check.case import Case, check
from overworld.check.play import NO_ACTION
from overworld.v1 import env_pb2 as pb

_TURNS = 4


@check("T1", each_env=True)
def repeats_give_the_same_result(case: Case) -> None:
    """Reset and actions are sent up to three times, alone and in a batch with a new command; each is executed once."""
    episode = case.episode(1)
    slots = 2 if case.info.slots_free >= 2 else 1
    session = case.open(slots)
    with session.blaming("T1"):
        command = session.start_of(episode)
        for turn in range(min(_TURNS, episode.playable) + 1):
            session.ready(session.send(command), "T1")
            for _ in range(2):
                session.ready(session.send(command), "T1")
            if slots == 2:  # a repeat in one slot, a new command in the other one
                session.ready(session.send(command, session.reset(1, turn)), "T1")
            if turn < episode.playable:
                command = session.act(episode.actions[turn])


@check("T1")
def parts_of_a_batch_can_be_repeated(case: Case) -> None:
    """What was sent in one batch is repeated alone, in another order, and beside a new command."""
    case.need(slots=3)
    episode = case.episode(2)
    session = case.open(3)
    with session.blaming("T1"):
        session.step(*(session.start_of(episode, slot) for slot in range(3)))
        commands = [session.act(episode.actions[0], slot) for slot in range(3)]
        session.step(*commands)
        for batch in ([commands[0]], [commands[2], commands[0]], [commands[1]], commands[::-1]):
            session.ready(session.send(*batch), "T1")
        following = session.act(episode.actions[1], 1)
        session.ready(session.send(commands[0], following, commands[2]), "T1")
        session.ready(session.send(following, commands[2]), "T1")
        session.ready(session.send(session.act(episode.actions[1], 0), following), "T1")


@check("T1", "R13")
def the_last_result_stays(case: Case) -> None:
    """The result of an episode's last action is given again, unchanged, until the next reset."""
    ended = case.ended()
    session = case.open(options_json=ended.options_json)
    session.play(ended, len(ended.actions) - 1)
    last = session.act(ended.actions[-1])
    with session.blaming("T1"):
        for _ in range(3):
            session.ready(session.send(last), "T1")


@check("T1", "S4")
def repeats_join_the_running_step(case: Case) -> None:
    """The same command in several calls at once: one step, one result."""
    recorded, turn, _ = case.slowest()
    session = case.open()
    session.bring(recorded, turn - 1)
    command = session.act(recorded.actions[turn - 1])
    with session.blaming("T1"):
        running = [session.start(command) for _ in range(4)]
        for call in running:
            session.ready(call(), "T1")
        for action in recorded.actions[turn : min(turn + 2, recorded.playable)]:
            session.ready(session.send(session.act(action)), "T1")


@check("T2", "S9")
def other_content_is_a_conflict(case: Case) -> None:
    """Another action, the same one in other words, another reply, an action for a reset: none changes anything."""
    episode = case.episode(2)
    session = case.open()
    reset = session.start_of(episode)
    session.step(reset)
    number, seed = reset.episode, reset.reset.seed
    others = [
        pb.Reset(seed=seed + 1),
        pb.Reset(seed=seed, split=case.spec.default_split),
        pb.Reset(seed=seed, split="no such split, says the checker"),
    ]
    for other in others:
        case.refused(session.send(pb.Command(episode=number, reset=other)), "T2", "CONFLICT")
    case.refused(session.send(pb.Command(episode=number, action=NO_ACTION)), "T2", "CONFLICT")
    case.refused(session.send(pb.Command(episode=number)), "T2", "CONFLICT", "REQUEST_INVALID")
    action = pb.Action()
    action.CopyFrom(episode.actions[0])
    action.reply = "The first one."
    command = session.act(action)
    session.step(command)
    replied = pb.Action()
    replied.CopyFrom(action)
    replied.reply = "The second one."
    same_in_other_words = [pb.Action(text=f"{action.text} ", reply=action.reply)] if action.text else []
    vocabulary = list(case.spec.action.vocabulary)
    if action.text in vocabulary:
        same_in_other_words.append(pb.Action(index=vocabulary.index(action.text), reply=action.reply))
    for other_action in (replied, episode.actions[0], NO_ACTION, *same_in_other_words):
        changed = pb.Command(episode=number, turn=1, action=other_action)
        case.refused(session.send(changed), "T2", "CONFLICT")
    if "prefix" in case.info.features:
        changed = pb.Command(episode=number, turn=1, reset=pb.Reset(seed=seed, prefix=[action]))
        case.refused(session.send(changed), "T2", "CONFLICT")
    with session.blaming("T2"):
        session.ready(session.send(command), "T1")
        session.ready(session.send(session.act(episode.actions[1])), "T2")
