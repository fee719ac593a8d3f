"""What a notebook shows: short, and never pixels."""

import asyncio
from typing import Any

import numpy as np
import pytest
from overworld import (
    ActionSpec,
    End,
    EnvSpec,
    Image,
    Observation,
    Result,
    Results,
    ServerInfo,
    SlotError,
)
from overworld.authoring.concurrency import Concurrency
from overworld.client.channel import Channel
from overworld.contract.frames import FrameFile
from overworld.host.callers import Caller, Quota
from overworld.host.front import Front
from overworld.host.metrics import ServerMetrics
from overworld.host.pool import Pool
from overworld.host.session import HostedSession
from overworld.service.credentials import Credentials
from overworld.v1 import env_pb2 as pb

OBSERVATION = Observation(
    ("You see a door.", Image("view", np.zeros((224, 300, 3), np.uint8), 5)),
    ("open", "leave"),
    {"pose": np.zeros((2, 3), np.float32)},
)
READY = Result(slot=1, episode=2, turn=3, observation=OBSERVATION, reward=0.5, executed="open")
PENDING = Result(slot=0, episode=0, turn=4, pending=True)
FAILED = Result(slot=0, episode=0, turn=4, error=SlotError("ENV_ERROR", "x" * 1000))
ENDED = Result(slot=0, episode=0, turn=4, end=End.RULE, success=False)
SPEC = EnvSpec(
    "games/Coin", "Guess.", "guessed", ActionSpec(("heads", "tails")), splits={"test": 5}, default_split="test"
)


@pytest.mark.parametrize(
    ("thing", "shown"),
    [
        (OBSERVATION.images[0], "Image('view', [224, 300, 3])"),
        (
            OBSERVATION,
            "Observation('You see a door.', Image('view', [224, 300, 3]), 2 admissible, pose: float32[2, 3])",
        ),
        (Observation(("x" * 1000,)), f"Observation('{'x' * 57}...')"),
        (READY, f"Result(slot=1, episode=2, turn=3, reward=0.5, observation={OBSERVATION!r}, executed='open')"),
        (PENDING, "Result(slot=0, episode=0, turn=4, pending)"),
        (FAILED, "Result(slot=0, episode=0, turn=4, error=ENV_ERROR)"),
        (ENDED, "Result(slot=0, episode=0, turn=4, reward=0, observation=Observation(), end=RULE, success=False)"),
        (Results([READY] * 3), "<Results of 3 slots>"),
        (Results([READY, PENDING, FAILED, ENDED, PENDING]), "<Results of 5 slots, 2 pending, 1 failed, 1 ended>"),
        (SPEC, "EnvSpec('games/Coin', 2 actions, splits={'test': 5}, max_turns=0)"),
        (
            EnvSpec("a/B", "", "", ActionSpec(max_text_bytes=9)),
            "EnvSpec('a/B', actions in free text, splits={'endless': 0}, max_turns=0)",
        ),
        (
            EnvSpec("a/B", "", "", ActionSpec(low=np.zeros(2), high=np.ones(2))),
            "EnvSpec('a/B', actions float64[2], splits={'endless': 0}, max_turns=0)",
        ),
    ],
    ids=range(12),
)
def test_records(thing: object, shown: str) -> None:
    assert repr(thing) == shown


def test_a_servers_description() -> None:
    info = ServerInfo(
        instance="x",
        revision=1,
        features=(),
        versions={},
        slots_total=64,
        slots_free=12,
        draining=True,
        envs={SPEC.id: SPEC},
    )
    assert repr(info) == "<ServerInfo: games/Coin; 12 of 64 slots free, draining>"


def test_a_channel() -> None:
    channel = Channel("127.0.0.1:1", Credentials(token="secret"), 1.0)
    assert repr(channel) == "<Channel to 127.0.0.1:1>"
    channel.close()
    assert repr(channel) == "<Channel to 127.0.0.1:1, closed>"


def test_the_hosts_objects() -> None:
    async def run() -> None:
        async def never(session: HostedSession) -> pb.OpenResponse:
            opened: asyncio.Future[pb.OpenResponse] = asyncio.get_running_loop().create_future()
            return await opened

        metrics = ServerMetrics()
        settings: dict[str, Any] = {"slots": 8, "workers": 2, "step_timeout": 1.0, "metrics": metrics}
        pool = Pool(["games"], **settings, on_lost=lambda session: None)
        for worker in pool._workers:
            worker.concurrency["games/Coin"] = Concurrency.SERIAL
        slots = pool.take(3, "games/Coin")
        assert repr(pool) == "<Pool: 2 workers, 5 of 8 slots free>"
        assert repr(slots[1].worker) == "<WorkerProcess 1: not ready, 1 of 4 slots used, 0 starts>"
        assert repr(slots[1]) == "<HostedSlot 1 on worker 1: REBUILDING, Idle()>"
        front = Front(["games"], **settings, slot_bytes=1, allow_expert=False)
        assert repr(front) == "<Front: 0 sessions, <Pool: 2 workers, 8 of 8 slots free>>"
        assert front.envs == []  # whole before it is started, too
        await front.stop()
        request = pb.OpenRequest(session="some-name", env_id="games/Coin")
        frames = FrameFile(3, 100)
        owner = Caller("ada", Quota(), metrics)
        assert repr(owner) == "<Caller ada: 0 slots, 0 calls, 0 bytes>"
        session = HostedSession(key=0, owner=owner, request=request, slots=slots, frames=frames, lease=1.0, open=never)
        assert repr(session) == "<HostedSession some-name: 3 slots of games/Coin, opening>"
        session.spec = SPEC
        assert repr(session) == "<HostedSession some-name: 3 slots of games/Coin, open>"
        session.close()
        assert repr(session) == "<HostedSession some-name: 3 slots of games/Coin, closed>"
        session.opened.cancel()

    asyncio.run(run())


def test_results_are_made_with_keywords_only() -> None:
    with pytest.raises(TypeError):
        Result(0, 0, 0)  # type: ignore[call-arg]
