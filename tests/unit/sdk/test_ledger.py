"""The client's ledger, without a server: the tests say what the server answers."""

from collections.abc import Sequence
from typing import Any

import pytest
from overworld import Act, Reason, Reset, Result
from overworld.client.counts import Counts, total
from overworld.client.ledger import Ledger
from overworld.client.moves import Moves
from overworld.v1 import env_pb2 as pb


def names(commands: Sequence[pb.Command]) -> list[tuple[int, int, int]]:
    return [(command.slot, command.episode, command.turn) for command in commands]


def ready(command: pb.Command, text: str = "", **fields: Any) -> pb.SlotResult:
    """What a server answers that executed the command; `text` is what it shows."""
    result = pb.SlotResult(
        slot=command.slot, episode=command.episode, turn=command.turn, state=pb.SLOT_STATE_READY, **fields
    )
    result.observation.parts.add(text=text or f"turn {command.turn}")
    return result


def pending(command: pb.Command) -> pb.SlotResult:
    return pb.SlotResult(slot=command.slot, episode=command.episode, turn=command.turn, state=pb.SLOT_STATE_PENDING)


def failed(command: pb.Command, message: str = "RuntimeError: boom") -> pb.SlotResult:
    return pb.SlotResult(
        slot=command.slot,
        episode=command.episode,
        turn=command.turn,
        state=pb.SLOT_STATE_FAILED,
        error=pb.SlotError(reason="ENV_ERROR", message=message, reset_helps=True),
    )


def play(ledger: Ledger, *rounds: Moves) -> list[pb.Command]:
    """Plays rounds of moves that a server executes; the commands of the last round."""
    commands: list[pb.Command] = []
    for moves in rounds:
        commands = ledger.number(moves)
        for command in commands:
            ledger.note(command, ready(command))
    return commands


def unanswered(command: pb.Command) -> Result:
    return Result(slot=command.slot, episode=command.episode, turn=command.turn, pending=True)


def lose(ledger: Ledger) -> None:
    """All running episodes are replayed and lead elsewhere."""
    for command in ledger.replays():
        ledger.note_replayed(ready(command, "elsewhere"))


def test_episodes_and_turns_are_numbered() -> None:
    ledger = Ledger(3)
    assert names(play(ledger, [Reset(seed=7), Reset(), Reset()])) == [(0, 0, 0), (1, 0, 0), (2, 0, 0)]
    assert names(play(ledger, ["up", "up", "up"])) == [(0, 0, 1), (1, 0, 1), (2, 0, 1)]
    assert names(play(ledger, {2: "up", 0: Reset()})) == [(2, 0, 2), (0, 1, 0)]
    assert names(play(ledger, {1: None, 0: Act("up")})) == [(1, 0, 2), (0, 1, 1)]


def test_commands_say_what_the_moves_say() -> None:
    ledger = Ledger(3)
    first, second, third = ledger.number([Reset(seed=7, split="test", task=0), Act("up", "I go up."), None])
    assert (first.reset.seed, first.reset.split, first.reset.HasField("task"), first.reset.task) == (7, "test", True, 0)
    assert (second.action.text, second.action.reply) == ("up", "I go up.")
    assert third.HasField("action")
    assert third.action.WhichOneof("value") is None
    assert not ledger.number({0: Reset(seed=7)})[0].reset.HasField("task")


def test_a_reset_with_a_prefix_is_at_the_turn_of_its_last_action() -> None:
    ledger = Ledger(1)
    assert names(play(ledger, [Reset(prefix=["up", None, "down"])])) == [(0, 0, 3)]
    assert names(play(ledger, ["up"])) == [(0, 0, 4)]


def test_a_command_without_an_answer_is_repeated_under_its_name_but_a_reset_gets_a_new_number() -> None:
    ledger = Ledger(1)
    play(ledger, [Reset()])
    assert names(ledger.number(["up"])) == names(ledger.number(["up"])) == [(0, 0, 1)]
    assert [names(ledger.number([Reset()])) for _ in range(2)] == [[(0, 1, 0)], [(0, 2, 0)]]
    assert names(ledger.number(["up"])) == [(0, 0, 1)]  # the answered episode is still the one that is played


def test_slots_that_do_not_exist_are_refused_and_nothing_is_numbered() -> None:
    ledger = Ledger(2)
    for slot in (2, -1):
        with pytest.raises(IndexError, match=r"no slot .* 0 to 1"):
            ledger.number({0: Reset(), slot: "up"})
    assert names(ledger.number({0: Reset()})) == [(0, 0, 0)]
    with pytest.raises(IndexError, match="no slot 2"):
        ledger.resume_point(2)


def test_a_pending_command_is_collected_later() -> None:
    ledger = Ledger(2)
    play(ledger, [Reset(), Reset()])
    slow, quick = ledger.number(["slow", "up"])
    ledger.note(slow, pending(slow))
    ledger.note(quick, ready(quick))
    assert ledger.pending([unanswered(slow), unanswered(quick)]) == [slow]
    assert names(ledger.number(["other", "up"])) == [(0, 0, 1), (1, 0, 2)]
    assert ledger.replays()[0].turn == 0  # what is pending is not replayed: it is collected afterwards
    ledger.note(slow, ready(slow))
    assert ledger.pending([unanswered(slow)]) == []
    assert ledger.replays()[0].turn == 1


def test_results_are_collected_in_any_order() -> None:
    ledger = Ledger(3)
    play(ledger, [Reset()] * 3)
    commands = ledger.number(["a", "b", "c"])
    for command in commands:
        ledger.note(command, pending(command))
    for command in (commands[2], commands[0], commands[1]):
        ledger.note(command, ready(command))
    assert [[action.text for action in replay.reset.prefix] for replay in ledger.replays()] == [["a"], ["b"], ["c"]]
    assert names(ledger.number(["up"] * 3)) == [(0, 0, 2), (1, 0, 2), (2, 0, 2)]


def test_an_answer_that_comes_again_changes_nothing() -> None:
    ledger = Ledger(1)
    (first,) = play(ledger, [Reset()], ["a"])
    ledger.note(first, ready(first))
    (second,) = play(ledger, ["b"])
    ledger.note(first, ready(first))  # an old one, too
    assert names(ledger.number(["c"])) == [(0, 0, second.turn + 1)]
    assert [action.text for action in ledger.replays()[0].reset.prefix] == ["a", "b"]


@pytest.mark.parametrize("outcome", ["failed", "ended"])
def test_after_a_failure_or_an_end_nothing_is_replayed(outcome: str) -> None:
    ledger = Ledger(2)
    play(ledger, [Reset(), Reset()])
    (command,) = ledger.number({0: "up"})
    ledger.note(command, failed(command) if outcome == "failed" else ready(command, end=pb.END_TASK))
    assert names(ledger.replays()) == [(1, 0, 0)]
    with pytest.raises(LookupError, match="slot 0 plays no episode"):
        ledger.resume_point(0)
    assert ledger.loss(ledger.number({0: "up"})[0]) is None  # whether that is allowed is the server's to say
    assert names(ledger.number({0: Reset()})) == [(0, 1, 0)]


def test_a_replay_is_the_reset_with_all_actions_as_its_prefix() -> None:
    ledger = Ledger(1)
    play(ledger, [Reset(seed=5, split="test", task=3, prefix=["a", None])], ["b"], [None], ["c"])
    (replay,) = ledger.replays()
    assert names([replay]) == [(0, 0, 5)]
    assert (replay.reset.seed, replay.reset.split, replay.reset.task) == (5, "test", 3)
    assert [action.text for action in replay.reset.prefix] == ["a", "", "b", "", "c"]
    ledger.note_replayed(ready(replay))
    assert names(play(ledger, ["d"])) == [(0, 0, 6)]
    assert [action.text for action in ledger.replays()[0].reset.prefix] == ["a", "", "b", "", "c", "d"]


def test_slots_without_an_episode_are_not_replayed() -> None:
    ledger = Ledger(3)
    assert ledger.replays() == []
    play(ledger, {1: Reset()})
    assert names(ledger.replays()) == [(1, 0, 0)]


def test_replies_are_not_replayed() -> None:
    ledger = Ledger(1)
    (command,) = play(ledger, [Reset()], [Act("up", "I go up.")])
    assert command.action.reply == "I go up."
    (action,) = ledger.replays()[0].reset.prefix
    assert (action.text, action.reply) == ("up", "")


def test_a_replay_may_differ_in_time_and_in_where_its_images_lie() -> None:
    ledger = Ledger(1)
    (command,) = ledger.number([Reset()])
    first, again = ready(command, micros=5), ready(command, micros=9)
    first.observation.images.add(name="view", block=1, index=2, xxh64=77)
    again.observation.images.add(name="view", block=0, index=0, xxh64=77)
    ledger.note(command, first)
    ledger.note_replayed(again)
    assert ledger.loss(ledger.number(["up"])[0]) is None
    again.observation.images[0].xxh64 = 78
    ledger.note_replayed(again)
    assert ledger.loss(ledger.number(["up"])[0]) is not None


def test_an_episode_whose_replay_leads_elsewhere_is_lost_until_a_reset() -> None:
    ledger = Ledger(2)
    play(ledger, [Reset(), Reset()], ["up", "up"])
    stays, goes = ledger.replays()
    ledger.note_replayed(ready(stays))
    ledger.note_replayed(ready(goes, "elsewhere"))
    first, second = ledger.number(["up", "up"])
    assert ledger.loss(first) is None
    loss = ledger.loss(second)
    assert loss is not None
    assert (loss.reason, loss.reset_helps) == (Reason.REBUILD_MISMATCH.name, True)
    assert "another state" in loss.message
    assert names(ledger.replays()) == [(0, 0, 1)]
    with pytest.raises(LookupError):
        ledger.resume_point(1)
    (reset,) = ledger.number({1: Reset()})
    assert ledger.loss(reset) is None
    ledger.note(reset, ready(reset))
    assert ledger.loss(ledger.number({1: "up"})[0]) is None


def test_a_replay_that_fails_says_why() -> None:
    ledger = Ledger(1)
    play(ledger, [Reset()])
    (replay,) = ledger.replays()
    ledger.note_replayed(failed(replay, "the disk is full"))
    loss = ledger.loss(ledger.number(["up"])[0])
    assert loss is not None
    assert "the disk is full" in loss.message


def test_an_action_that_is_pending_when_its_episode_is_lost_is_lost_too() -> None:
    ledger = Ledger(1)
    play(ledger, [Reset()])
    (command,) = ledger.number(["slow"])
    ledger.note(command, pending(command))
    lose(ledger)
    (collected,) = ledger.pending([unanswered(command)])
    assert ledger.loss(collected) is not None


def test_a_reset_that_is_pending_when_its_slots_last_episode_is_lost_is_not() -> None:
    ledger = Ledger(1)
    play(ledger, [Reset()])
    (command,) = ledger.number([Reset(seed=1)])
    ledger.note(command, pending(command))
    lose(ledger)
    (collected,) = ledger.pending([unanswered(command)])
    assert ledger.loss(collected) is None
    ledger.note(collected, ready(collected))
    assert ledger.loss(ledger.number(["up"])[0]) is None


def test_a_resume_point_leads_to_where_the_slot_is() -> None:
    ledger = Ledger(2)
    with pytest.raises(LookupError, match="slot 0 plays no episode"):
        ledger.resume_point(0)
    play(ledger, {0: Reset(seed=5, split="test", task=0, prefix=["a"]), 1: Reset(seed=6)}, {0: "b"}, {0: None})
    assert ledger.resume_point(0) == Reset(5, "test", 0, ["a", "b", None])
    assert ledger.resume_point(1) == Reset(6, "", None, [])


def test_its_repr_counts_episodes() -> None:
    ledger = Ledger(4)
    play(ledger, {0: Reset(), 1: Reset(), 2: Reset()})
    ledger.note_replayed(ready(ledger.replays()[1], "elsewhere"))
    assert repr(ledger) == "<Ledger of 4 slots: 2 playing, 1 lost, 1 idle>"


def counted(ledger: Ledger) -> Counts:
    """What it counted, which balances."""
    counts = total(ledger.counts)
    assert counts.balanced
    return counts


def test_each_command_is_accounted_for() -> None:
    ledger = Ledger(3)
    ledger.server = "one:1"
    commands = ledger.number([Reset(), Reset(), Reset()])
    ledger.send(commands)
    assert counted(ledger) == Counts(sent=3, waiting=3)
    ledger.send(commands)  # the answer was lost
    ledger.note(commands[0], ready(commands[0]))
    ledger.note(commands[1], pending(commands[1]))
    ledger.note(commands[2], failed(commands[2]))
    ledger.note(commands[2], failed(commands[2]))  # it came twice
    assert counted(ledger) == Counts(sent=6, repeated=3, begun=1, failed=1, waiting=1)
    ledger.send([commands[1]])
    ledger.note(commands[1], ready(commands[1]))
    (act,) = ledger.number({1: "up"})
    ledger.send([act])
    assert counted(ledger) == Counts(sent=8, repeated=4, begun=2, failed=1, waiting=1)
    (other,) = ledger.number({1: Reset()})  # the caller gave the action up
    ledger.send([other])
    ledger.note(other, ready(other))
    assert counted(ledger) == Counts(sent=9, repeated=4, begun=3, failed=1, dropped=1)


def test_what_was_executed_again_is_counted_where_it_was() -> None:
    ledger = Ledger(2)
    ledger.server = "one:1"
    for moves in ([Reset(), Reset()], ["up", "up"], ["up", None]):
        commands = ledger.number(moves)
        ledger.send(commands)
        for command in commands:
            ledger.note(command, ready(command))
    assert [ledger.attempts(slot) for slot in (0, 1)] == [1, 1]
    ledger.server = "other:1"
    replays = ledger.replays()
    ledger.note_replayed(ready(replays[0]))
    ledger.note_replayed(ready(replays[1], "elsewhere"))
    (act, *_) = commands = ledger.number(["up", "up"])
    assert [ledger.loss(command) is None for command in commands] == [True, False]
    ledger.send([act])
    ledger.note(act, ready(act))
    assert ledger.counts == {
        "one:1": Counts(sent=6, begun=2, acted=4),
        "other:1": Counts(sent=1, acted=1, replayed=6, refused=1),
    }
    assert counted(ledger).acted == 5
    assert [ledger.attempts(slot) for slot in (0, 1)] == [2, 2]
    (again,) = ledger.number({0: Reset()})
    ledger.send([again])
    ledger.note(again, ready(again))
    assert ledger.attempts(0) == 1
