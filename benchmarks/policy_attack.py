"""Neighbours of a hostile client of the policy server: how long their chats take, and what the server's memory does.

The hostile client runs at nice 19 and sends two requests a second, whether or not they are answered: texts of 1 MB,
2.5 MB of large PNGs, 129 small images, bodies of 30 MB with one text or with empty messages; or as much as the bounds
let pass, which has no target, since there the neighbours wait for the model. The peer is a loop at nice 19 that sends
nothing, so that the ratio is what the server does wrong and not what a second busy process costs. They take turns,
ROUNDS times; P99s are of all rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import io
import itertools
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import PIL.Image
import psutil
from disturbance import BUSY_LOOP, Seen, disturbance
from overworld.service.process import ServiceProcess
from overworld_vlm.tiny import make_tiny
from overworld_vlm.tiny_config import TinyConfig
from report import Row, finish, parser

sys.path.append(str(Path(__file__).parents[1]))  # for the tiny models, which the tests use, too

from tests.support.checkpoints import TEXTS, write

ROUNDS, SECONDS = 3, 20
NEIGHBOURS, CHATS, TOKENS = 4, 200, 16
"""Of each neighbour in all rounds together, for every attack and for the peer."""

PER_SECOND = 2
GROWTH_MB, KEPT_MB = 300, 100
SETTLE_SECONDS = 60.0
ATTACKS = ("requests beyond the bounds", "requests within the bounds")
Body = dict[str, Any]


def main() -> None:
    """Measures and reports."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--attack", choices=ATTACKS, help=argparse.SUPPRESS)
    arguments.add_argument("--url", help=argparse.SUPPRESS)
    chosen = arguments.parse_args()
    if chosen.attack:
        asyncio.run(attack(chosen.url, chosen.attack))
        return
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        runs = Path(folder) / "runs"
        write(runs / "plain" / "checkpoints" / "000000", make_tiny(TEXTS, TinyConfig(), 0), 0)
        server = ServiceProcess("overworld_policy", f"runs={runs}", "port=0", "threads=1", environment={})
        stack.callback(server.stop)
        finish(asyncio.run(measure(server)), chosen.json)


async def measure(server: ServiceProcess) -> list[Row]:
    """All rounds."""
    process = psutil.Process(server.process.pid)
    seen = {name: Seen() for name in (BUSY_LOOP, *ATTACKS)}
    async with client(server.address) as http:
        await neighbours(http, 20, 0.0)
        at_first = process.memory_info().rss
        for _ in range(ROUNDS):
            for name, one in seen.items():
                program = [] if name == BUSY_LOOP else [__file__, "--attack", name, "--url", server.address]
                with disturbance(program) as answers, watch(process) as largest:
                    one.seconds += await neighbours(http, CHATS // ROUNDS, SECONDS * ROUNDS / CHATS)
                one.answers += Counter(answers)
                await settle(http)
                one.memory = max(one.memory, max(largest) - at_first)
        left = process.memory_info().rss - at_first
    rows = []
    calm = seen[BUSY_LOOP].p99
    setting = f"{NEIGHBOURS} neighbours, {CHATS} chats each"
    for name in ATTACKS:
        p99, growth, bounded = seen[name].p99, seen[name].memory / 1e6, name == ATTACKS[0]
        print(f"{name}: answered with {dict(seen[name].answers)}")
        rows += [
            Row(f"P99 beside {name}", setting, p99, "s", BUSY_LOOP, calm, calm / p99, 0.5 if bounded else None),
            Row(
                f"memory beside {name}",
                "growth",
                growth,
                "MB",
                "limit",
                GROWTH_MB,
                GROWTH_MB / growth,
                1 if bounded else None,
            ),
        ]
    kept = left / 1e6
    rows.append(Row("memory kept", "after all rounds", kept, "MB", "limit", KEPT_MB, KEPT_MB / max(kept, 1.0), 1))
    return rows


async def neighbours(http: httpx.AsyncClient, chats: int, pause: float) -> list[float]:
    """The seconds that each chat of all neighbours took; a neighbour begins one every `pause` seconds if it can."""
    frame = picture(56, 56, 0)

    async def talk(number: int) -> list[float]:
        taken = []
        due = time.perf_counter() + pause * number / NEIGHBOURS
        for seed in range(chats):
            await asyncio.sleep(max(due - time.perf_counter(), 0))
            began = time.perf_counter()
            body = chat("What now?", [frame]) | {"seed": seed, "max_tokens": TOKENS}
            while (response := await http.post("/chat/completions", json=body)).status_code == 429:
                await asyncio.sleep(float(response.headers["Retry-After"]))
            response.raise_for_status()
            taken.append(time.perf_counter() - began)
            due = max(due + pause, time.perf_counter())
        return taken

    return list(itertools.chain(*await asyncio.gather(*map(talk, range(NEIGHBOURS)))))


@contextlib.contextmanager
def watch(process: psutil.Process) -> Iterator[list[int]]:
    """Yields a list that has the largest resident memory of a process at the end."""
    largest = [process.memory_info().rss]

    async def look() -> None:
        while True:
            largest[0] = max(largest[0], process.memory_info().rss)
            await asyncio.sleep(0.05)

    looking = asyncio.create_task(look())
    try:
        yield largest
    finally:
        looking.cancel()


async def settle(http: httpx.AsyncClient) -> None:
    """Waits until the server has no request left."""
    page = str(http.base_url).replace("/v1/", "/metrics")
    deadline = time.monotonic() + SETTLE_SECONDS
    while "overworld_chats_in_flight 0.0" not in (await http.get(page)).text:
        if time.monotonic() > deadline:
            raise SystemExit(f"requests are still in flight after {SETTLE_SECONDS:g} s")
        await asyncio.sleep(0.1)
    await asyncio.sleep(2)


async def attack(url: str, name: str) -> None:
    """Sends what the attack consists of until the process is killed, two requests a second."""
    kinds = [json.dumps(body).encode() for body in bodies(name)]
    print(flush=True)
    async with client(url) as http, asyncio.TaskGroup() as group:

        async def send(content: bytes) -> None:
            try:
                answer: int | str = (await http.post("/chat/completions", content=content)).status_code
            except httpx.HTTPError as error:
                answer = type(error).__name__
            print(answer, flush=True)

        due = time.monotonic()
        for content in itertools.cycle(kinds):
            group.create_task(send(content))
            due += 1 / PER_SECOND
            await asyncio.sleep(due - time.monotonic())


def bodies(name: str) -> list[Body]:
    """The requests of an attack."""
    if name == ATTACKS[0]:
        return [
            chat("word " * 200_000),
            chat("", [picture(4000, 4000)] * 40),
            chat("", [picture(28, 28, number) for number in range(129)]),
            chat("a b " * 7_500_000),
            chat("") | {"messages": [{"role": "user"}] * 1_800_000},
        ]
    return [
        chat("word " * 4096),
        chat("", [picture(3990, 4000)] * 3),
        chat("", [picture(28, 28, number) for number in range(128)]),
        chat("", [picture(56, 28 * 18, number) for number in range(16)]) | {"max_tokens": 2048, "n": 8},
    ]


def client(url: str) -> httpx.AsyncClient:
    """With as many connections as there are requests."""
    return httpx.AsyncClient(base_url=url, timeout=300, limits=httpx.Limits(max_connections=None))


def chat(text: str, pictures: Sequence[str] = ()) -> Body:
    """A request."""
    content: list[Body] = [{"type": "image_url", "image_url": {"url": url}} for url in pictures]
    content.append({"type": "text", "text": text})
    return {"model": "plain@0", "messages": [{"role": "user", "content": content}], "temperature": 1, "max_tokens": 64}


def picture(height: int, width: int, noise: int | None = None) -> str:
    """A data URL of a PNG: black, or noise of a seed."""
    pixels = np.zeros((height, width, 3), np.uint8)
    if noise is not None:
        pixels = np.random.default_rng(noise).integers(0, 256, pixels.shape, np.uint8)
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


if __name__ == "__main__":
    main()
