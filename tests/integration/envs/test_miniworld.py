"""MiniWorld behind gRPC: the frames are those that an env draws in process, whatever else its worker draws."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from overworld import ContractError, End, Outcome, Reason, Reset, Session, make
from overworld.host.process import ServerProcess

from tests.support.optional import present

TASKS = ("Hallway", "FourRooms", "WallGap", "OneRoom")
SLOTS = 3
OPTIONS: dict[str, Any] = {"width": 64, "height": 48, "render": "exact"}


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    arguments = ("--workers", "1", "--slots", "16", "--allow-expert")
    with ServerProcess("miniworld", "gym_cards", arguments=arguments) as process:
        yield process


def test_tasks_side_by_side_in_one_worker_draw_what_each_draws_alone(server: ServerProcess) -> None:
    sessions = [Session(server.address, f"miniworld/{task}", SLOTS, options=OPTIONS) for task in TASKS]
    alone = [[make(f"miniworld/{task}", **OPTIONS) for _ in range(SLOTS)] for task in TASKS]
    choices = np.random.default_rng(0)
    moves: list[Sequence[int | Reset]] = [[Reset(seed=slot) for slot in range(SLOTS)]] * len(TASKS)
    for turn in range(12):
        for number, (session, runners) in enumerate(zip(sessions, alone, strict=True)):
            results = session.step(moves[number])
            expected = [
                runner.reset(move.seed) if isinstance(move, Reset) else runner.step(move)
                for runner, move in zip(runners, moves[number], strict=True)
            ]
            for served, own in zip(results, expected, strict=True):
                np.testing.assert_array_equal(served.observation.images[0].pixels, own.observation.images[0].pixels)
                assert (served.reward, served.end, served.success) == (own.reward, own.end, own.success)
            moves[number] = [
                int(choices.integers(4)) if result.end is None else Reset(seed=100 + turn) for result in results
            ]
    for session in sessions:
        session.close()
    for runners in alone:
        for runner in runners:
            runner.close()


@pytest.mark.parametrize("options", [{"width": 0}, {"width": 10_000, "height": 10_000}, {"speed": 2}])
def test_wrong_options_are_refused_and_named(server: ServerProcess, options: dict[str, int]) -> None:
    with pytest.raises(ContractError, match=next(iter(options))) as caught:
        Session(server.address, "miniworld/Hallway", 1, options=options)
    assert caught.value.reason is Reason.OPTIONS_INVALID


def test_actions_outside_the_vocabulary_are_told_apart_from_steps(server: ServerProcess) -> None:
    with Session(server.address, "miniworld/Hallway", 2, options=OPTIONS) as session:
        session.reset([1, 1])
        results = session.step([7, "move back"])
        assert [result.outcome for result in results] == [Outcome.NOT_ADMISSIBLE, Outcome.EXECUTED]


def test_the_expert_wins_over_grpc(server: ServerProcess) -> None:
    with Session(server.address, "miniworld/OneRoomS6", 2, options=OPTIONS, expert=True) as session:
        results = list(session.reset([1, 2]))
        while any(result.end is None for result in results):
            moves = {
                result.slot: present(result.expert).action for result in results if result.end is None and result.expert
            }
            for result in session.step(moves):
                results[result.slot] = result
        assert [(result.end, result.success) for result in results] == [(End.TASK, True)] * 2
