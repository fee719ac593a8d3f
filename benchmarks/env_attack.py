"""Neighbours of hostile clients of an env server: how long their steps take, and what the server's memory does.

Two hostile clients run at nice 19, one without a token and one with its own, and begin RATE attacks a second,
whether or not the last ones have been answered. The peer is a loop at nice 19 that sends nothing, so that the ratio is
what the server does wrong and not what a second busy process costs. They take turns, ROUNDS times; P99s are of all
rounds. Memory is the PSS of the server and its workers.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import itertools
import json
import random
import tempfile
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import psutil
from disturbance import BUSY_LOOP, Seen, disturbance
from grpc_health.v1 import health_pb2
from overworld import Reset, Session
from overworld.host.process import ServerProcess
from overworld.service import bounds
from overworld.v1 import env_pb2 as pb
from report import Row, finish, parser

ROUNDS = 3
RATE = 2
NEIGHBOURS, SLOTS, PAUSE = 4, 2, 0.05
"""Sessions, slots of each, and seconds from one of its steps to the next."""
PEAK_MB, KEPT_MB = 1024, 200
SETTLE_SECONDS = 20.0

ATTACK = "all attacks"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
LARGE = bounds.STEP_REQUEST - (1 << 20)
"""Bytes of the largest requests; gRPC refuses those above the bound without reading them."""
LARGE_OPTIONS = {"width": 1024, "height": 1024}
LARGE_SESSION = str(uuid.UUID(int=1))
FRAMES = pb.StepRequest(
    session=LARGE_SESSION, commands=[pb.Command(slot=slot, reset=pb.Reset()) for slot in range(4)]
).SerializeToString()
"""Asks for 12 MB of frames, drawn once."""
SERVICE = "/overworld.v1.EnvService/"
Send = Callable[[], Awaitable[Any]]


def main() -> None:
    """Measures and reports."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--seconds", type=float, default=60.0, help="in all, half of them under attack")
    arguments.add_argument("--attack", help=argparse.SUPPRESS)
    chosen = arguments.parse_args()
    if chosen.attack:
        asyncio.run(attack(chosen.attack))
        return
    with tempfile.TemporaryDirectory() as folder:
        tokens = Path(folder) / "tokens"
        tokens.write_text("neighbour: n\nattacker: a\n")
        quota = ("--quotas.attacker.slots", "32")
        with ServerProcess("gym_cards", "miniworld", arguments=("--tokens", str(tokens), *quota)) as server:
            finish(measure(server, chosen.seconds / ROUNDS / 2), chosen.json)


def measure(server: ServerProcess, seconds: float) -> list[Row]:
    """All rounds, in each of which both disturbances last so many seconds."""
    seen = {name: Seen() for name in (BUSY_LOOP, ATTACK)}
    with contextlib.ExitStack() as stack:
        options = {"max_turns": 1000}
        neighbours = [
            stack.enter_context(
                Session(server.address, "gym_cards/NumberLine", SLOTS, options=options, token="n", retry_budget=60)
            )
            for _ in range(NEIGHBOURS)
        ]
        for session in neighbours:
            session.reset([0] * SLOTS)
        # The worker keeps a renderer of the size that the attacker is going to use: that is the simulator's memory.
        with Session(
            server.address, "miniworld/Hallway", 4, options=LARGE_OPTIONS, token="n", retry_budget=60
        ) as first:
            first.reset([0] * 4)
        at_first = memory(server)
        for _ in range(ROUNDS):
            for name, one in seen.items():
                with (
                    disturbance([__file__, "--attack", server.address] if name == ATTACK else []) as answers,
                    watch(server) as largest,
                ):
                    one.seconds += play(neighbours, seconds)
                one.answers += Counter(answers)
                one.memory = max(one.memory, max(largest))
        time.sleep(SETTLE_SECONDS)
        left = memory(server) - at_first
    for answer, count in sorted(seen[ATTACK].answers.items()):
        print(f"{count:6} x {answer.replace('_', ' ')}")
    calm, hostile = seen[BUSY_LOOP], seen[ATTACK]
    setting = f"{NEIGHBOURS} sessions of {SLOTS}, {len(hostile.seconds)} steps, {RATE} attacks/s"
    peak, kept = hostile.memory / 1e6, max(left / 1e6, 1.0)
    return [
        Row("P99 beside all attacks", setting, hostile.p99, "s", BUSY_LOOP, calm.p99, calm.p99 / hostile.p99, 1 / 3),
        Row("slowest step", setting, max(hostile.seconds), "s", BUSY_LOOP, max(calm.seconds),
            max(calm.seconds) / max(hostile.seconds)),
        Row("memory beside all attacks", "PSS at most", peak, "MB", "limit", PEAK_MB, PEAK_MB / peak, 1),
        Row("memory kept", "PSS more than at first", kept, "MB", "limit", KEPT_MB, KEPT_MB / kept, 1),
    ]  # fmt: skip


def play(neighbours: list[Session], seconds: float) -> list[float]:
    """The seconds that each step of all neighbours took."""
    end = time.perf_counter() + seconds

    def steps(session: Session) -> list[float]:
        taken = []
        while (began := time.perf_counter()) < end:
            results = session.step(["+"] * SLOTS)
            taken.append(time.perf_counter() - began)
            assert all(result.error is None for result in results), results
            if ended := {result.slot: Reset(seed=0) for result in results if result.end}:
                session.step(ended)
            time.sleep(PAUSE)
        return taken

    with ThreadPoolExecutor(len(neighbours)) as pool:
        return list(itertools.chain(*pool.map(steps, neighbours)))


def memory(server: ServerProcess) -> int:
    """Bytes of the server and its workers."""
    process = psutil.Process(server.process.pid)
    return sum(one.memory_full_info().pss for one in (process, *process.children()))


@contextlib.contextmanager
def watch(server: ServerProcess) -> Iterator[list[int]]:
    """Yields a list that has the largest memory at the end."""
    largest, stop = [memory(server)], threading.Event()

    def look() -> None:
        while not stop.wait(0.25):
            largest[0] = max(largest[0], memory(server))

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield largest
    finally:
        stop.set()
        looking.join()


async def attack(address: str) -> None:
    """Attacks until the process is killed, RATE times a second, in turn."""
    attacks = Attacks(address)
    kinds = await attacks.prepare()
    print(flush=True)
    async with asyncio.TaskGroup() as group:

        async def begin(name: str, send: Send) -> None:
            try:
                answer = await send() or "OK"
            except grpc.aio.AioRpcError as error:
                answer = error.code().name
            except OSError as error:
                answer = type(error).__name__
            print(f"{name}:_{answer}".replace(" ", "_"), flush=True)

        due = time.monotonic()
        for name, send in itertools.cycle(kinds.items()):
            group.create_task(begin(name, send))
            due += 1 / RATE
            await asyncio.sleep(max(due - time.monotonic(), 0))


class Attacks:
    """What hostile clients of the server at `address` do."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._owner = channel(address)
        self._chance = random.Random(0)
        self._idle: deque[asyncio.StreamWriter] = deque()

    async def prepare(self) -> dict[str, Send]:
        """Each kind of attack, ready to begin."""
        name = str(uuid.uuid4())
        opening = pb.OpenRequest(session=name, env_id="gym_cards/NumberLine", slots=1)
        empty, keys = b"\x12\x00" * (LARGE // 2), ", ".join(f'"{number:x}": 0' for number in range(LARGE // 13))
        features = [f"{number:x}" for number in range(LARGE // 8)]
        replies = pb.Reset(prefix=[pb.Action(text="+", reply="r" * 60_000)] * (LARGE // 60_010))
        texts = pb.Reset(prefix=[pb.Action(text="x" * 4096)] * (LARGE // 4104))
        empty_actions = field_of(2, field_of(4, b"\x22\x00" * (LARGE // 2)))
        empty_replies = field_of(2, field_of(4, field_of(4, b"\x22\x00" * (LARGE // 2))))
        step = pb.StepRequest(session=name).SerializeToString()
        bodies = {
            "a session's name of megabytes": ("Open", pb.OpenRequest(session="5" * LARGE).SerializeToString()),
            "a million features": ("Open", changed(opening, required_features=features)),
            "megabytes of options": ("Open", changed(opening, options_json=f"{{{keys}}}")),
            "megabytes of empty commands": ("Step", step + empty),
            "a prefix of megabytes of empty actions": ("Step", step + empty_actions),
            "an action of megabytes of empty replies": ("Step", step + empty_replies),
            "a prefix with megabytes of replies": ("Step", reset(name, replies)),
            "a prefix with megabytes of texts": ("Step", reset(name, texts)),
            "megabytes of nothing": ("GetServerInfo", b"\x7a" + varint(LARGE) + bytes(LARGE)),
        }
        kinds: dict[str, Send] = {}
        for kind, (method, body) in bodies.items():
            kinds[kind] = functools.partial(self._call, self._owner, method, body)
        await self._call(self._owner, "Open", changed(opening, options_json='{"max_turns": 5000}'))
        options = json.dumps(LARGE_OPTIONS)
        large = pb.OpenRequest(session=LARGE_SESSION, env_id="miniworld/Hallway", slots=4, options_json=options)
        await self._call(self._owner, "Open", large.SerializeToString())
        await self._call(self._owner, "Step", FRAMES)  # what is asked for later is there
        self._small = [reset(name, pb.Reset(seed=7)), opening.SerializeToString(), step]
        return kinds | {
            "megabytes without a token": self._without_token,
            "a health check with megabytes": self._health,
            "50 idle connections": self._connect,
            "repeats that nobody reads": self._unread,
            "a session that is left": self._leave,
            "50 mutated requests": self._mutated,
        }

    async def _call(self, made: grpc.aio.Channel, method: str, data: bytes, token: str = "a") -> None:
        call: Any = made.unary_unary(SERVICE + method)
        await call(data, timeout=60, metadata=(("authorization", f"Bearer {token}"),))

    async def _without_token(self) -> None:
        async with channel(self._address) as made:
            await self._call(made, "Open", bytes(LARGE), "wrong")

    async def _health(self) -> None:
        async with channel(self._address) as made:
            call: Any = made.unary_unary("/grpc.health.v1.Health/Check")
            await call(health_pb2.HealthCheckRequest(service="s" * LARGE).SerializeToString(), timeout=60)

    async def _connect(self) -> None:
        """Connections that say HTTP/2 and then nothing; the oldest beyond 500 are closed."""
        host, _, port = self._address.rpartition(":")
        for _ in range(50):
            _, writer = await asyncio.open_connection(host, int(port))
            writer.write(PREFACE)
            self._idle.append(writer)
        while len(self._idle) > 500:
            self._idle.popleft().close()

    async def _unread(self) -> None:
        """Large answers, asked for 40 times over a connection from which nothing is read any more."""
        async with Deaf(self._address) as way, channel(way.address) as made:
            await self._call(made, "Step", FRAMES)
            way.deaf.set()
            calls = [asyncio.create_task(self._call(made, "Step", FRAMES)) for _ in range(40)]
            await asyncio.sleep(5)
            for call in calls:
                call.cancel()

    async def _leave(self) -> None:
        """Eight slots for an hour, if the server lets a client have them for so long, and nobody who plays there."""
        request = pb.OpenRequest(session=str(uuid.uuid4()), env_id="gym_cards/NumberLine", slots=8)
        request.lease.FromSeconds(3600)
        await self._call(self._owner, "Open", request.SerializeToString())

    async def _mutated(self) -> None:
        for _ in range(50):
            data = bytearray(self._chance.choice(self._small))
            for _ in range(self._chance.randint(1, 8)):
                data[self._chance.randrange(len(data))] = self._chance.randrange(256)
            with contextlib.suppress(grpc.aio.AioRpcError):
                await self._call(self._owner, self._chance.choice(("Open", "Step", "Close")), bytes(data))


class Deaf:
    """A way to a server over which, once `deaf` is set, requests go and no answers come."""

    def __init__(self, address: str) -> None:
        self.deaf = asyncio.Event()
        self._host, _, self._port = address.rpartition(":")
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Deaf:
        self._server = await asyncio.start_server(self._join, "127.0.0.1")
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(self._host, int(self._port))
        self._tasks = {
            asyncio.create_task(self._pump(reader, back)),
            asyncio.create_task(self._pump(there, writer, self.deaf)),
        }
        with contextlib.suppress(OSError):
            await asyncio.wait(self._tasks)
        for end in (writer, back):
            end.close()

    async def _pump(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, deaf: asyncio.Event | None = None
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(1 << 16):
                if deaf is not None and deaf.is_set():
                    await asyncio.sleep(60)
                target.write(data)
                await target.drain()


def channel(address: str) -> grpc.aio.Channel:
    """A connection of its own."""
    return grpc.aio.insecure_channel(
        address, [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
    )


def changed(request: pb.OpenRequest, **fields: Any) -> bytes:
    """The request with further fields."""
    return request.SerializeToString() + pb.OpenRequest(**fields).SerializeToString()


def reset(name: str, started: pb.Reset) -> bytes:
    """A request that resets slot 0."""
    command = pb.Command(episode=1, turn=len(started.prefix), reset=started)
    return pb.StepRequest(session=name, commands=[command]).SerializeToString()


def field_of(number: int, value: bytes) -> bytes:
    """A field of bytes on the wire."""
    return varint(number << 3 | 2) + varint(len(value)) + value


def varint(number: int) -> bytes:
    """A number on the wire."""
    data = b""
    while number > 0x7F:
        data += bytes((number & 0x7F | 0x80,))
        number >>= 7
    return data + bytes((number,))


if __name__ == "__main__":
    main()
