"""The same seed, split, task and actions give the same episode, wherever and however they are played."""

from __future__ import annotations

import json

from overworld.check.case import Case, check
from overworld.check.play import NO_ACTION
from overworld.v1 import env_pb2 as pb

_TASKS = 5
_SEEDS = (0, 1, 2**53 + 1, 2**64 - 1)


@check(
    "D1",
    "R1",
    "R2",
    "R3",
    "R4",
    "R5",
    "R7",
    "R10",
    "R11",
    "R12",
    "S8",
    "S11",
    "S12",
    "F8",
    "A3",
    "A7",
    "G2",
    "S6",
    each_env=True,
)
def of_a_seed(case: Case) -> None:
    """Recorded episodes are played again: in another session and slot, after other episodes, side by side."""
    episodes = case.episodes()
    session = case.open(slots=2 if case.info.slots_free >= 2 else 1)
    last = session.request.slots - 1
    for episode in reversed(episodes):
        session.play(episode, slot=last)
    if not last:
        return
    # Side by side, so that two slots that share something disturb each other.
    one, other = episodes[0], episodes[-1]
    session.step(session.start_of(one, 0), session.start_of(other, 1))
    for turn in range(min(one.playable, other.playable, 8)):
        session.step(session.act(one.actions[turn], 0), session.act(other.actions[turn], 1))
    _advise(case)


def _advise(case: Case) -> None:
    """What makes learning harder and breaks no rule."""
    episodes = case.episodes()
    first = {json.dumps(_look(episode.results[0])) for episode in episodes}
    if len(episodes) > 2 and len(first) == 1 and not case.spec.splits.get(case.spec.default_split, 0):
        case.finding(
            "D5",
            f"{len(episodes)} resets with different seeds",
            came="the same observation each time",
            expected="different episodes, unless the env has only one",
        )
    shapes = {
        tuple(image.name for image in result.observation.images) for episode in episodes for result in episode.results
    }
    if len(shapes) > 1:
        case.finding("R6", f"{len(episodes)} episodes", came=f"images {sorted(shapes)[:4]}", expected="the same names")


def _look(result: pb.SlotResult) -> list[str]:
    return [
        *(f"{image.xxh64}" for image in result.observation.images),
        *(part.text for part in result.observation.parts),
    ]


@check("D1", "T10")
def of_large_numbers(case: Case) -> None:
    """Seeds and episodes are 64 bits wide: neighbours above 2^53 are not mixed up."""
    session = case.open()
    for seed in _SEEDS:
        session.step(session.reset(0, seed))
    again = case.open() if case.info.slots_free >= 2 else session
    for seed in reversed(_SEEDS):
        again.step(again.reset(0, seed))
    with session.blaming("T10"):
        for seed, number in enumerate((2**53, 2**53 + 1, 2**53 + 2, 2**64 - 1)):
            answer = session.send(session.reset(0, seed, episode=number))
            session.ready(answer)


@check("D1")
def of_two_sessions(case: Case) -> None:
    """Two sessions in turns, under the same names of commands: neither sees what the other one does."""
    case.need(slots=2)
    episodes = case.episodes()
    one, other = case.open(), case.open(fallback_reward=-1.0)
    one.step(one.start_of(episodes[0]))
    other.step(other.start_of(episodes[-1]))
    for turn in range(min(episodes[0].playable, episodes[-1].playable, 6)):
        one.step(one.act(episodes[0].actions[turn]))
        other.step(other.act(episodes[-1].actions[turn]))


@check("D3", "A4", each_env=True)
def of_a_task(case: Case) -> None:
    """In a finite split the seed chooses the task where none is given; the default split needs no name."""
    session = case.open()
    default = case.spec.default_split
    with session.blaming("D3"):
        session.step(session.reset(0, 5))
        session.step(session.reset(0, 5, split=default))
        for split, size in sorted(case.spec.splits.items())[:5]:
            if not size:
                session.step(session.reset(0, 5, split=split))
                continue
            for seed in (size + 1, 2**64 - 1, 2**53 + 1):
                session.step(session.reset(0, seed, split=split))
                session.step(session.reset(0, seed, split=split, task=seed % size))
            session.step(session.reset(0, 1, split=split, task=size - 1))
    for split, size in sorted(case.spec.splits.items())[:5]:
        for task in (size, 2**64 - 1) if size else (0, 7):
            case.refused(session.send(session.reset(0, 1, split=split, task=task)), "A4", "TASK_UNKNOWN")
    missing = "no such split, says the checker"
    case.refused(session.send(session.reset(0, 1, split=missing)), "A4", "SPLIT_UNKNOWN")


@check("D3", each_env=True)
def of_other_tasks(case: Case) -> None:
    """Where different seeds show that tasks differ, different tasks under one seed must do so as well."""
    session = case.open()
    for split, size in sorted(case.spec.splits.items())[:5]:
        if size < _TASKS:
            continue
        seeds = [session.step(session.reset(0, seed, split=split))[0] for seed in range(_TASKS)]
        tasks = [session.step(session.reset(0, 0, split=split, task=task))[0] for task in range(_TASKS)]
        if len({json.dumps(_look(result)) for result in tasks}) == 1 < len({json.dumps(_look(each)) for each in seeds}):
            case.finding(
                "D3",
                f"resets with the tasks 0 to {_TASKS - 1} of split {split!r} under one seed",
                came="one and the same observation, while other seeds without a task give others",
                expected="other tasks",
            )


@check("D2", "R4", each_env=True)
def of_a_prefix(case: Case) -> None:
    """A prefix leads where its actions led one by one, and the episode goes on from there; replies do not count."""
    case.need(feature="prefix")
    session = case.open()
    with session.blaming("D2"):
        for episode in case.episodes()[:4]:
            middle = min(episode.playable, 6)
            prefix = [pb.Action() for _ in range(middle)]
            for action, recorded in zip(prefix, episode.actions, strict=False):
                action.CopyFrom(recorded)
                action.reply = "I think, therefore I replay."
            reset = episode.reset
            task = reset.task if reset.HasField("task") else None
            session.step(session.reset(0, reset.seed, split=reset.split, task=task, prefix=prefix))
            for action in episode.actions[middle : min(episode.playable, middle + 2)]:
                session.step(session.act(action))


@check("D2")
def of_a_prefix_with_skipped_turns(case: Case) -> None:
    """A turn without action counts in a prefix as it does in play."""
    case.need(feature="prefix")
    episode = case.episode(2)
    actions = [NO_ACTION, episode.actions[0], NO_ACTION, NO_ACTION, episode.actions[1]]
    session = case.open(fallback_reward=-0.5)
    with session.blaming("D2"):
        (result,) = session.step(session.start_of(episode))
        done = 0
        while done < len(actions) and not result.end:
            (result,) = session.step(session.act(actions[done]))
            done += 1
        reset = episode.reset
        task = reset.task if reset.HasField("task") else None
        for turns in range(1, done + 1):
            session.step(session.reset(0, reset.seed, split=reset.split, task=task, prefix=actions[:turns]))


@check("D4", each_env=True)
def of_replies(case: Case) -> None:
    """What the agent says beside its action changes nothing, even if it looks like another action."""
    episode = case.episode(1)
    session = case.open()
    others = list(case.spec.action.vocabulary[:2]) or ["look"]
    with session.blaming("D4"):
        session.step(session.start_of(episode))
        for turn, recorded in enumerate(episode.actions[: min(episode.playable, 6)]):
            action = pb.Action()
            action.CopyFrom(recorded)
            action.reply = json.dumps({"action": others[turn % len(others)]})
            session.step(session.act(action))


@check("D2")
def without_the_feature(case: Case) -> None:
    """A server without the feature prefix refuses prefixes."""
    if "prefix" in case.info.features:
        raise case.skip("the server has the feature")
    session = case.open()
    case.refused(session.send(session.reset(prefix=[pb.Action()])), "D2", "FEATURE_MISSING")
