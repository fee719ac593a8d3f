"""A slot of the host, without a worker: which phase and which episode each event leads to."""

import itertools
from typing import Any

import pytest
from overworld import Reason
from overworld.contract.replay import Idle, Lost, Playing
from overworld.host.slot import HostedSlot, Phase
from overworld.host.worker_process import WorkerProcess
from overworld.v1 import env_pb2 as pb

RESET = pb.Command(slot=3, episode=1, reset=pb.Reset(seed=5, prefix=[pb.Action(text="a", reply="long")]), turn=1)


def act(turn: int) -> pb.Command:
    return pb.Command(slot=3, episode=1, turn=turn, action=pb.Action(text="up", reply="I go up."))


def ready(command: pb.Command, **fields: Any) -> pb.SlotResult:
    return pb.SlotResult(
        slot=3, episode=command.episode, turn=command.turn, state=pb.SLOT_STATE_READY, reward=command.turn, **fields
    )


@pytest.fixture
def slot() -> HostedSlot:
    """Its worker has just made its env."""
    worker = WorkerProcess(
        0,
        (),
        capacity=1,
        step_timeout=1.0,
        on_message=lambda worker, header, body: None,
        on_death=lambda worker, death: None,
    )  # it is never started: a slot only keeps it, for those who send commands
    slot = HostedSlot(index=3, worker=worker, place=0, lane=0)
    slot.rebuilt()
    return slot


@pytest.fixture
def playing(slot: HostedSlot) -> HostedSlot:
    for command in (RESET, act(2)):
        slot.accept(command)
        slot.finish(ready(command))
    return slot


def phase_of(slot: HostedSlot) -> Phase:
    return slot.phase  # mypy takes the attribute for what it was compared with before


def is_idle(slot: HostedSlot) -> bool:
    return slot.episode == Idle()


def episode_of(slot: HostedSlot) -> Playing:
    assert isinstance(slot.episode, Playing)
    return slot.episode


def test_a_command_runs_and_gives_its_result(slot: HostedSlot) -> None:
    assert (slot.phase, slot.running, slot.episode) == (Phase.READY, False, Idle())
    slot.accept(RESET)
    assert (slot.phase, slot.running, slot.result) == (Phase.RUNNING, True, None)
    slot.finish(ready(RESET))
    assert (slot.phase, slot.running, slot.result) == (Phase.READY, False, ready(RESET))
    assert episode_of(slot).known == ready(RESET)


def test_the_replay_holds_all_actions_without_replies_and_leaves_the_command_as_it_was(playing: HostedSlot) -> None:
    replay = episode_of(playing).replay()
    assert (replay.slot, replay.episode, replay.turn, replay.reset.seed) == (3, 1, 2, 5)
    assert [(action.text, action.reply) for action in replay.reset.prefix] == [("a", ""), ("up", "")]
    assert RESET.reset.prefix[0].reply == "long"


def test_a_command_is_kept_without_replies_and_known_again_with_them(slot: HostedSlot) -> None:
    for command in (RESET, act(2)):
        executed = slot.accept(command)
        assert executed is slot.command
        assert [action.reply for action in (*executed.reset.prefix, executed.action)] == [""] * (
            len(executed.reset.prefix) + 1
        )
        slot.finish(ready(command))
        other = pb.Command()
        other.CopyFrom(command)
        assert slot.repeats(other)
        (other.reset.prefix[0] if other.HasField("reset") else other.action).reply = "short"
        assert not slot.repeats(other)


def test_a_death_without_a_command(playing: HostedSlot) -> None:
    playing.worker_died()
    assert (playing.phase, playing.running) == (Phase.REBUILDING, False)
    assert playing.result == ready(act(2))  # a repeated call gets it meanwhile
    playing.worker_died()
    assert phase_of(playing) is Phase.REBUILDING
    playing.rebuilt()
    assert phase_of(playing) is Phase.READY


def test_a_command_that_was_running_or_comes_while_the_slot_is_rebuilt_is_held(playing: HostedSlot) -> None:
    playing.accept(act(3))
    assert playing.result is None  # a repeated call must not get the last one's
    playing.worker_died()
    assert (playing.phase, playing.running) == (Phase.HELD, True)
    assert episode_of(playing).replay().turn == 2  # what is held is not replayed
    playing.rebuilt()
    assert phase_of(playing) is Phase.RUNNING
    playing.finish(ready(act(3)))
    playing.worker_died()
    playing.accept(act(4))
    assert phase_of(playing) is Phase.HELD
    playing.worker_died()
    assert phase_of(playing) is Phase.HELD
    playing.rebuilt()
    assert phase_of(playing) is Phase.RUNNING


def test_a_reset_that_comes_while_the_slot_is_rebuilt_makes_its_episode_unimportant(playing: HostedSlot) -> None:
    playing.worker_died()
    playing.accept(pb.Command(slot=3, episode=2, reset=pb.Reset()))
    assert (playing.phase, playing.episode) == (Phase.HELD, Idle())


def test_a_command_that_fails_while_it_is_held_leaves_nothing_to_replay(playing: HostedSlot) -> None:
    playing.accept(act(3))
    playing.worker_died()
    playing.finish(playing.failure(Reason.WORKER_DIED, "it died"))
    assert (playing.phase, playing.episode) == (Phase.REBUILDING, Idle())
    assert playing.result is not None
    assert (playing.result.turn, playing.result.error.reason) == (3, "WORKER_DIED")
    assert playing.result.error.reset_helps


def test_an_end_leaves_nothing_to_replay(playing: HostedSlot) -> None:
    playing.accept(act(3))
    playing.finish(ready(act(3), end=pb.END_TASK))
    assert (playing.phase, playing.episode) == (Phase.READY, Idle())


def test_a_lost_episode_stays_lost_until_the_next_command_fails_or_resets(playing: HostedSlot) -> None:
    playing.worker_died()
    playing.lose(Reason.REBUILD_MISMATCH, "it led elsewhere")
    playing.rebuilt()
    assert (playing.phase, playing.episode) == (Phase.READY, Lost(Reason.REBUILD_MISMATCH, "it led elsewhere"))
    playing.accept(act(3))
    assert isinstance(playing.episode, Lost)
    playing.finish(playing.failure(playing.episode.reason, playing.episode.message))
    assert is_idle(playing)
    playing.lose(Reason.REBUILD_MISMATCH, "once more")
    playing.accept(pb.Command(slot=3, episode=2, reset=pb.Reset()))
    assert is_idle(playing)


ALLOWED = {
    ("accept", Phase.READY),
    ("accept", Phase.REBUILDING),
    ("finish", Phase.RUNNING),
    ("finish", Phase.HELD),
    ("rebuilt", Phase.REBUILDING),
    ("rebuilt", Phase.HELD),
    ("lose", Phase.READY),
    ("lose", Phase.REBUILDING),
    *(("worker_died", phase) for phase in Phase),
}


@pytest.mark.parametrize(
    ("event", "phase"), list(itertools.product(("accept", "finish", "rebuilt", "lose", "worker_died"), Phase))
)
def test_events_that_a_phase_does_not_allow_are_errors(playing: HostedSlot, event: str, phase: Phase) -> None:
    playing.phase = phase
    call = {
        "accept": lambda: playing.accept(act(3)),
        "finish": lambda: playing.finish(ready(act(2))),
        "rebuilt": playing.rebuilt,
        "lose": lambda: playing.lose(Reason.REBUILD_MISMATCH, ""),
        "worker_died": playing.worker_died,
    }[event]
    if (event, phase) in ALLOWED:
        call()
    else:
        with pytest.raises((KeyError, AssertionError)):
            call()


def test_its_repr_names_worker_phase_and_episode(playing: HostedSlot) -> None:
    assert repr(playing) == "<HostedSlot 3 on worker 0: READY, Playing(seed=5, turn=2)>"
    assert repr(playing.worker) == "<WorkerProcess 0: not ready, 0 of 1 slots used, 0 starts>"
