"""Thousands of MiniWorld episodes in a fixed pool of envs take no more and more memory."""

from __future__ import annotations

import psutil
import pytest
from overworld import make

EPISODES = 2000
POOL = 8


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_two_thousand_episodes_do_not_leak() -> None:
    tasks = ("Hallway", "FourRooms", "WallGap", "ThreeRooms", "PutNext", "Sidewalk", "MazeS3", "CollectHealth")
    runners = [make(f"miniworld/{task}", width=64, height=64, domain_rand=True) for task in tasks]
    process = psutil.Process()
    used = []
    for number in range(EPISODES):
        runner = runners[number % POOL]
        runner.reset(number)
        for action in ("turn left", "move forward", "turn right", "move forward"):
            if runner.step(action).end is not None:
                break
        if number in (EPISODES // 4, EPISODES - 1):
            used.append(process.memory_full_info().uss)
    assert used[1] - used[0] < 8 << 20, used
