"""A server that has served many sessions is as large as one that has served a few."""

import psutil
import pytest
from overworld import Session
from overworld.host.process import ServerProcess

SLOTS = 16


def memory(pid: int) -> tuple[float, int]:
    """PSS of a process and its children, in MB, and how many files they have open."""
    server = psutil.Process(pid)
    processes = [server, *server.children(recursive=True)]
    return sum(one.memory_full_info().pss for one in processes) / 1e6, sum(one.num_fds() for one in processes)


def play(address: str, env_id: str, seed: int) -> None:
    """An episode in each slot of a session of its own."""
    with Session(address, env_id, slots=SLOTS) as session:
        results = session.reset(range(seed, seed + SLOTS))
        action = session.spec.action.vocabulary[-1] if session.spec.action.vocabulary else "="
        while not all(result.end for result in results):
            results = session.step({result.slot: action for result in results if not result.end})


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("env_id", ["gym_cards/EZPoints", "gym_cards/Blackjack"])
def test_a_thousand_sessions_leave_no_trace(env_id: str) -> None:
    with ServerProcess("gym_cards", arguments=("--workers", "2", "--slots", str(SLOTS))) as server:
        for number in range(200):
            play(server.address, env_id, number * SLOTS)
        size, files = memory(server.process.pid)
        for number in range(200, 1200):
            play(server.address, env_id, number * SLOTS)
        grown, files_now = memory(server.process.pid)
    print(f"{env_id}: {size:.1f} MB after 200 sessions, {grown:.1f} MB after 1,200")
    assert grown < size + 5
    assert files_now <= files
