"""Servers that are killed and started again, answers that get lost, servers that come back changed."""

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
import pytest
from numpy.typing import NDArray
from overworld import Fleet, Reset, Results, ServerChangedError, ServerLostError, Session
from overworld.client.moves import Move
from overworld.host.process import ServerProcess

from tests.support.proxy import Proxy
from tests.support.toy_env import TOY


def start(port: int = 0, *arguments: str) -> ServerProcess:
    return ServerProcess(TOY, arguments=("--workers", "2", "--slots", "8", *arguments), port=port)


def port_of(server: ServerProcess) -> int:
    return int(server.address.rpartition(":")[2])


class Player(Protocol):
    """What a `Session` and a `Fleet` have in common, as far as `play` is concerned."""

    def reset(self, seeds: Sequence[int], /) -> Results: ...

    def step(self, moves: Sequence[Move], /) -> Results: ...


def play(session: Player, crash: Callable[[int], None] = lambda turn: None) -> list[NDArray[np.uint8]]:
    """Two slots for some turns, a third that is reset on the way; all that was seen."""
    seen = [session.reset([1, 2, 3]).frames().copy()]
    turns: list[list[Move]] = [["up", "down", "up"], ["down", None, "down"], ["up", "up", Reset(seed=9)], ["up"] * 3]
    for turn, moves in enumerate(turns):
        crash(turn)
        results = session.step(moves)
        assert [result.error for result in results] == [None] * 3
        seen.append(results.frames().copy())
    return seen


@pytest.mark.parametrize("shared_memory", [True, False])
def test_a_session_survives_restarts_of_its_server(shared_memory: bool) -> None:
    server = start()
    port = port_of(server)
    with Session(server.address, "toy/Count", 3) as session:
        expected = play(session)

    def crash(turn: int) -> None:
        nonlocal server
        if turn in (1, 3):
            server.kill()
            server = start(port)

    with Session(server.address, "toy/Count", 3, shared_memory=shared_memory, retry_budget=30) as session:
        seen = play(session, crash)
    server.stop()
    for ours, theirs in zip(seen, expected, strict=True):
        assert np.array_equal(ours, theirs)


def test_a_server_that_is_killed_in_mid_step() -> None:
    server = start()
    port = port_of(server)
    with Session(server.address, "toy/Count", 2, retry_budget=30) as session:
        session.reset([1, 2])
        running = session.submit(["slow", "up"])
        time.sleep(0.1)
        server.kill()
        server = start(port)
        assert [result.turn for result in running.result()] == [1, 1]
        assert session.step(["up", "up"])[1].metrics == {"count": 2.0}
    server.stop()


def test_a_server_that_comes_back_with_other_rules_is_not_used() -> None:
    server = start()
    port = port_of(server)
    session = Session(server.address, "toy/Count", 1, retry_budget=30)
    session.reset([1])
    server.kill()
    os.environ["TOY_RULES"] = "toy 2"
    try:
        server = start(port)
    finally:
        del os.environ["TOY_RULES"]
    with pytest.raises(ServerChangedError, match="toy 2"):
        session.step(["up"])
    session.close()
    server.stop()


@pytest.mark.parametrize("cut_after", [0, 1, 30, 500])
def test_lost_answers_do_not_make_steps_happen_twice(toy_server: ServerProcess, cut_after: int) -> None:
    proxy = Proxy(toy_server.address)
    with Session(toy_server.address, "toy/Count", 3) as session:
        expected = play(session)

    def cut(turn: int) -> None:
        proxy.cut_after = cut_after

    with Session(proxy.address, "toy/Count", 3, retry_budget=20) as session:
        seen = play(session, cut)
        proxy.cut_after = None
    assert proxy.cuts >= 3
    for ours, theirs in zip(seen, expected, strict=True):
        assert np.array_equal(ours, theirs)


def test_flipped_bits_change_nothing(toy_server: ServerProcess) -> None:
    """In headers, texts, rewards, pixels, and in what HTTP/2 puts around them, of requests as of responses.

    Three sessions at the same time, since each waits 5 s for every answer that got lost.
    """
    with Session(toy_server.address, "toy/Count", 3) as session:
        expected = play(session)

    def disturbed(seed: int) -> int:
        proxy = Proxy(toy_server.address, seed=seed)

        def flip(turn: int) -> None:
            proxy.flips = 2

        with Session(proxy.address, "toy/Count", 3, shared_memory=False, retry_budget=20) as session:
            for _ in range(5):
                for ours, theirs in zip(play(session, flip), expected, strict=True):
                    assert np.array_equal(ours, theirs)
        return proxy.flipped

    with ThreadPoolExecutor(3) as pool:
        assert min(pool.map(disturbed, range(3))) >= 20


def test_a_fleet_spreads_over_servers_and_gives_results_in_order() -> None:
    with start() as one, start() as other, Fleet([one.address, other.address], "toy/Count", 12) as fleet:
        assert sorted(fleet.addresses) == sorted([one.address, other.address])
        results = fleet.step([Reset(seed=slot) for slot in range(12)])
        assert [result.slot for result in results] == list(range(12))
        assert results.frames().shape == (12, 32, 32, 3)
        assert [result.slot for result in fleet.submit({11: "up", 0: "up", 6: "down"}).result()] == [11, 0, 6]
        assert fleet.step({11: "up"})[0].metrics == {"count": 2.0}
        assert fleet.spec.id == "toy/Count"
        with pytest.raises(IndexError):
            fleet.step({12: "up"})


def test_a_fleet_leaves_a_lost_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("overworld.client.fleet._FAILOVER_SECONDS", 1.0)
    one, other = start(), start()
    with Session(one.address, "toy/Count", 3) as session:
        expected = play(session)
    fleet = Fleet([one.address, other.address], "toy/Count", 3, retry_budget=30)

    class AsSession:
        def reset(self, seeds: Sequence[int]) -> Results:
            return fleet.step([Reset(seed=seed) for seed in seeds])

        step = fleet.step

    def crash(turn: int) -> None:
        if turn == 2:
            one.kill()

    seen = play(AsSession(), crash)
    assert set(fleet.addresses) == {other.address}
    for ours, theirs in zip(seen, expected, strict=True):
        assert np.array_equal(ours, theirs)
    fleet.close()
    other.stop()


def test_a_fleet_without_servers_says_what_to_do() -> None:
    with pytest.raises(ServerLostError, match="overworld serve toy/Count"):
        Fleet(["127.0.0.1:1"], "toy/Count", 1, retry_budget=0.1)
