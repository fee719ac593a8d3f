"""EnvPool as a peer of the transport benchmark; runs in an environment of its own (.venv-envpool).

    python envpool_peer.py play SLOTS      reads a number of steps per line, answers with the seconds they took and the
                                           longest of them

It moves frames from C++ threads into this process. Its simulators are its own: this is Atari's Pong, 4 x 84 x 84.
"""

from __future__ import annotations

import sys

import envpool
import numpy as np
from stopwatch import answer


def play(slots: int) -> None:
    """Steps all slots at once, as often as it is told on stdin."""
    pool = envpool.make("Pong-v5", env_type="gymnasium", num_envs=slots, batch_size=slots)
    actions = np.zeros(slots, np.int32)
    pool.async_reset()

    def step() -> None:
        info = pool.recv()[-1]
        pool.send(actions, info["env_id"])

    answer(step)


if __name__ == "__main__":
    play(int(sys.argv[2]))
