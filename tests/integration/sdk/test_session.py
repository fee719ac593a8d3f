"""The SDK's client against a real server."""

import threading
import time
from typing import Any

import numpy as np
import pytest
from overworld import (
    Act,
    ActionSpec,
    ContractError,
    End,
    EnvSpec,
    Fallback,
    Fleet,
    Outcome,
    Reason,
    Reset,
    ServerLostError,
    Session,
    server_info,
)
from overworld.contract.frames import pixels_hash
from overworld.host.process import ServerProcess

from tests.support.optional import present


@pytest.fixture(params=["shared memory", "inline", "LZ4"])
def transport(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {"shared_memory": request.param == "shared memory", "compress": request.param == "LZ4"}


def test_frames_are_those_that_the_env_drew(toy_server: ServerProcess, transport: dict[str, Any]) -> None:
    with Session(toy_server.address, "toy/Count", 4, options={"second_image": True}, **transport) as session:
        assert session.shares_memory == transport["shared_memory"]
        results = session.reset([1, 2, 3, 4])
        for _ in range(2):
            for result in results:
                for image in result.observation.images:
                    assert pixels_hash(image.pixels) == image.xxh64
            assert results.frames().shape == (4, 32, 32, 3)
            assert results.frames(1).shape == (4, 17, 32, 3)
            assert np.array_equal(results.frames()[2], results[2].observation.images[0].pixels)
            results = session.step(["up", "down", None, "up"])


def test_pixels_are_the_callers_to_keep(toy_server: ServerProcess, transport: dict[str, Any]) -> None:
    with Session(toy_server.address, "toy/Count", 2, **transport) as session:
        kept = session.reset([1, 2]).frames()
        before = kept.copy()
        session.step(["up", "up"])
        session.step(["up", "up"])
        assert np.array_equal(kept, before)


def test_without_a_copy_pixels_are_views_of_shared_memory(toy_server: ServerProcess) -> None:
    with Session(toy_server.address, "toy/Count", 2, copy=False) as session:
        frames = session.reset([1, 2]).frames()
        assert not frames.flags.writeable
        before = frames.copy()
        session.step(["up", "up"])
        assert not np.array_equal(frames, before)


def test_frames_of_a_part_of_the_slots(toy_server: ServerProcess, transport: dict[str, Any]) -> None:
    with Session(toy_server.address, "toy/Count", 5, **transport) as session:
        whole = session.reset(range(5)).frames()
        again = session.step({slot: Reset(seed=slot) for slot in (4, 1)})
        assert [result.slot for result in again] == [4, 1]
        assert np.array_equal(again.frames(), whole[[4, 1]])


def test_an_episode(toy_server: ServerProcess) -> None:
    with Session(toy_server.address, "toy/Count", 1, expert=True) as session:
        (result,) = session.reset([1])
        assert (result.episode, result.turn, result.outcome, present(result.expert).action) == (0, 0, None, "up")
        results = [session.step([present(result.expert).action])[0] for _ in range(3)]
        assert [result.end for result in results] == [None, None, End.TASK]
        assert results[-1].success is True
        assert results[-1].metrics == {"count": 3.0}
        assert results[-1].observation.text == "count 3"
        assert results[-1].observation.tensors["count"] == 3
        assert results[0].executed == "up"
        (result,) = session.reset([1])
        assert result.episode == 1


def test_the_spec_is_that_of_the_sessions_options(toy_server: ServerProcess) -> None:
    with Session(toy_server.address, "toy/Count", 1, options={"max_turns": 7}) as session:
        assert session.spec.max_turns == 7
        assert session.options == {"max_turns": 7, "size": 32, "second_image": False, "broken": False}


def test_replies_travel_for_the_record_only(toy_server: ServerProcess) -> None:
    with Session(toy_server.address, "toy/Count", 1, fallback=Fallback.SKIP, fallback_reward=-1.0) as session:
        session.reset([0])
        (result,) = session.step([Act(None, reply="down " * 50_000)])
        assert (result.outcome, result.reward) == (Outcome.NO_ACTION, -1.0)
        (result,) = session.step([Act("up", reply="down")])
        assert result.executed == "up"


def test_tensor_actions(toy_server: ServerProcess) -> None:
    with Session(toy_server.address, "toy/Reach", 1) as session:
        session.reset([0])
        assert session.step([np.array([0.5, 0.25], np.float32)])[0].reward == 0.75


def test_refused_moves_change_nothing(toy_server: ServerProcess) -> None:
    with Session(toy_server.address, "toy/Count", 2) as session:
        session.reset([0, 0])
        with pytest.raises(ContractError, match="ACTION_TOO_LARGE"):
            session.step(["up", "x" * 5000])
        assert [result.turn for result in session.step(["up", "up"])] == [1, 1]
        with pytest.raises(IndexError, match="0 to 1"):
            session.step({2: "up"})
    with Session(toy_server.address, "toy/Count", 1) as session:
        with pytest.raises(ContractError, match="NOT_RESET"):
            session.step(["up"])
        assert session.reset([0])[0].turn == 0


def test_submitted_calls_overlap(toy_server: ServerProcess) -> None:
    with Session(toy_server.address, "toy/Count", 4) as session:
        session.reset(range(4))
        slow = session.submit({0: "slow", 2: "slow"})
        quick = session.submit({1: "up", 3: "up"})
        assert [result.slot for result in quick.result()] == [1, 3]
        assert not slow.done()
        assert [result.turn for result in slow.result()] == [1, 1]


def test_stragglers_are_collected(toy_server: ServerProcess) -> None:
    with Session(toy_server.address, "toy/Count", 3) as session:
        session.reset(range(3))
        results = session.step_some(["up", "slow", "up"], min_ready=1)
        pending = [result for result in results if result.pending]
        assert pending
        assert session.collect(pending)[-1].turn == 1
        assert [result.turn for result in session.step(["up"] * 3)] == [2, 2, 2]


def test_a_resume_point_leads_to_the_same_place(toy_server: ServerProcess) -> None:
    with Session(toy_server.address, "toy/Count", 2) as session:
        with pytest.raises(LookupError):
            session.resume_point(0)
        session.reset([5, 6])
        session.step({0: "up"})
        session.step({0: "nonsense"})
        (there,) = session.step({0: "down"})
        (here,) = session.step({1: session.resume_point(0)})
        assert (here.turn, here.reward) == (there.turn, there.reward)
        assert np.array_equal(here.observation.images[0].pixels, there.observation.images[0].pixels)
        (again,) = session.step({0: session.resume_point(1)})
        assert again.turn == 3


def test_a_lease_outlives_a_busy_client_but_not_a_vanished_one(toy_server: ServerProcess) -> None:
    session = Session(toy_server.address, "toy/Count", 3, lease=0.6)
    session.reset([0, 0, 0])
    time.sleep(1.5)
    assert session.step(["up"] * 3)[0].turn == 1
    free = server_info(toy_server.address).slots_free
    session._connection._closed.set()  # what happens when the process is killed: nobody renews the lease, nobody closes
    deadline = time.monotonic() + 60
    while server_info(toy_server.address).slots_free < free + 3:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_server_that_is_not_there() -> None:
    started = time.monotonic()
    with pytest.raises(ServerLostError, match=r"127\.0\.0\.1:1 .* is it running"):
        Session("127.0.0.1:1", "toy/Count", 1, retry_budget=1.0)
    assert time.monotonic() - started < 30


def test_refused_sessions_leave_no_threads(toy_server: ServerProcess) -> None:
    before = threading.active_count()
    with pytest.raises(ContractError, match="OPTIONS_INVALID"):
        Session(toy_server.address, "toy/Count", 1, options={"colour": 1})
    with pytest.raises(ContractError) as caught:
        Session(toy_server.address, "toy/Count", 1000, retry_budget=0.3)
    assert caught.value.reason is Reason.NO_FREE_SLOTS
    assert threading.active_count() <= before


def test_threads_for_submitted_calls_are_started_when_one_is_submitted(toy_server: ServerProcess) -> None:
    def started() -> set[str]:
        return {thread.name.rpartition("_")[0] for thread in threading.enumerate()} & {"fleet", name}

    with Session(toy_server.address, "toy/Count", 1) as session, Fleet([toy_server.address], "toy/Count", 1) as fleet:
        name = f"session-{session.name[:8]}"
        session.reset([0])
        fleet.step([Reset(seed=0)])
        assert started() == set()
        session.submit(["up"]).result()
        fleet.submit(["up"]).result()
        assert started() == {"fleet", name}


def test_its_repr_says_what_is_played_where(toy_server: ServerProcess) -> None:
    with Session(toy_server.address, "toy/Count", 3, shared_memory=False) as session:
        assert repr(session) == f"<Session: 3 slots of toy/Count on {toy_server.address}, inline frames>"
        assert repr(session.spec) in repr(server_info(toy_server.address).envs)
        assert repr(session.step([Reset(seed=0)] * 3)) == "<Results of 3 slots>"
    assert repr(session) == f"<Session: 3 slots of toy/Count on {toy_server.address}, closed>"
    with Session(toy_server.address, "toy/Count", 1) as session:
        assert repr(session).endswith(", shared memory>")
    with Fleet([toy_server.address], "toy/Count", 3) as fleet:
        assert repr(fleet) == f"<Fleet: 3 slots of toy/Count on {toy_server.address}>"
    assert repr(toy_server) == (f"<ServerProcess at {toy_server.address}, process {toy_server.process.pid}, running>")


def test_silence_does_not_pay_in_a_fleet_that_is_asked_for_it(toy_server: ServerProcess) -> None:
    """The toy's actions earn -1 to 1."""
    with Fleet([toy_server.address], "toy/Count", 32, fallback_reward=None) as fleet:
        fleet.step([Reset(seed=0)] * 32)
        results = fleet.step({0: None, 1: "fly"})
    assert [result.reward for result in results] == [-1.1, -1.1]
    assert fleet.fallback_reward == -1.1


@pytest.mark.parametrize(
    ("least", "most", "earned"), [(0, 0, -0.1), (0, 1, -0.1), (0, 20, -2), (-1, 10, -2), (-10, 1, -11), (0.5, 2, -0.2)]
)
def test_what_silence_earns_is_less_than_any_action_does(least: float, most: float, earned: float) -> None:
    spec = EnvSpec("toy/Any", "task", "success", ActionSpec(vocabulary=("up",)), reward_min=least, reward_max=most)
    assert spec.silence_reward == pytest.approx(earned)
    assert spec.silence_reward < min(least, 0)


def test_many_sessions_one_after_another_take_nothing_with_them(toy_server: ServerProcess) -> None:
    for _ in range(30):
        with Session(toy_server.address, "toy/Count", 32) as session:
            session.reset(range(32))
    assert server_info(toy_server.address).slots_free == 32
