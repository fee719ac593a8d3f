"""OpenEnv as a peer of the transport benchmark; runs in an environment of its own (.venv-openenv).

    python openenv_peer.py serve PORT HEIGHT WIDTH COST_US WAIT_MS
    python openenv_peer.py play PORT SLOTS         reads a number of steps per line, answers with the seconds they took
                                                   and the longest time that one slot's step took

OpenEnv's observations are JSON over one WebSocket per env. Frames are raw RGB in base64: the cheapest way to put them
into JSON.
"""

from __future__ import annotations

import asyncio
import base64
import sys
import time
from typing import Any

import numpy as np
from noise import PICTURES, bank, spin
from openenv.core import EnvClient
from openenv.core.client_types import StepResult
from openenv.core.env_server.http_server import create_fastapi_app
from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.types import Action, Observation, State


class Look(Action):
    """The only action."""


class Picture(Observation):
    """Raw RGB in base64."""

    height: int
    width: int
    rgb: str


class NoiseEnvironment(Environment[Look, Picture, State]):
    """The same as `noise_env.Noise`."""

    SUPPORTS_CONCURRENT_SESSIONS = True
    size = (224, 224)
    cost = 0.0
    wait = 0.0

    def __init__(self) -> None:
        super().__init__()
        self._bank = bank(*self.size)
        self._turn = 0

    @property
    def state(self) -> State:
        return State(step_count=self._turn)

    def reset(self, seed: int | None = None, episode_id: str | None = None, **_: Any) -> Picture:
        self._turn = seed or 0
        return self._look()

    def step(self, action: Look, timeout_s: float | None = None, **_: Any) -> Picture:
        self._turn += 1
        spin(self.cost)
        time.sleep(self.wait)
        return self._look()

    def _look(self) -> Picture:
        rgb = base64.b64encode(self._bank[self._turn % PICTURES]).decode()
        return Picture(height=self.size[0], width=self.size[1], rgb=rgb, reward=0.0, done=False)


class NoiseClient(EnvClient[Look, Picture, State]):
    """Decodes the frame, as every user has to."""

    def _step_payload(self, action: Look) -> dict[str, Any]:
        return {}

    def _parse_result(self, payload: dict[str, Any]) -> StepResult[Any]:
        seen = payload["observation"]
        frame = np.frombuffer(base64.b64decode(seen["rgb"]), np.uint8).reshape(seen["height"], seen["width"], 3)
        return StepResult(observation=frame, reward=payload.get("reward"), done=payload.get("done", False))

    def _parse_state(self, payload: dict[str, Any]) -> State:
        return State(**payload)


def serve(port: int, height: int, width: int, cost_us: int, wait_ms: int) -> None:
    """Runs OpenEnv's server."""
    import uvicorn

    NoiseEnvironment.size, NoiseEnvironment.cost = (height, width), cost_us * 1e-6
    NoiseEnvironment.wait = wait_ms * 1e-3
    app = create_fastapi_app(NoiseEnvironment, Look, Picture, max_concurrent_envs=1024)
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error", ws_max_size=1 << 30)


async def play(port: int, slots: int) -> None:
    """Steps all slots at once, as often as it is told on stdin."""
    clients = [NoiseClient(f"http://127.0.0.1:{port}", websocket_ping_interval_s=None) for _ in range(slots)]
    for first in range(0, slots, 32):  # its server lets those that connect at the same time wait too long
        await asyncio.gather(*(client.connect() for client in clients[first : first + 32]))
    await asyncio.gather(*(client.reset() for client in clients))
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        started = time.perf_counter()
        slowest = 0.0
        for _ in range(int(line)):
            began = time.perf_counter()
            results = await asyncio.gather(*(client.step(Look()) for client in clients))
            np.stack([result.observation for result in results])
            slowest = max(slowest, time.perf_counter() - began)
        print(time.perf_counter() - started, slowest, flush=True)
    await asyncio.gather(*(client.disconnect() for client in clients))


if __name__ == "__main__":
    what, *numbers = sys.argv[1], *map(int, sys.argv[2:])
    if what == "serve":
        serve(*numbers)
    else:
        asyncio.run(play(*numbers))
