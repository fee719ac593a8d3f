"""Bodies are judged while they arrive, and large ones do not take all of the event loop's time."""

import asyncio
import itertools
import json
import random
import time
from collections.abc import Iterator

import pytest
from overworld_policy import body as body_module
from overworld_policy.body import Bodies, Count
from overworld_policy.errors import ApiError
from starlette.types import Message

MB = 1 << 20
IMAGE = "data:image/png;base64,"


class Held:
    """What is held, and was at most."""

    def __init__(self) -> None:
        self.bytes = self.most = 0

    def __call__(self, size: int) -> None:
        self.bytes = size
        self.most = max(self.most, size)


def cut(body: bytes, most: int) -> Iterator[bytes]:
    """Pieces of random sizes."""
    noise, at = random.Random(most), 0
    while at < len(body):
        size = noise.randint(1, most)
        yield body[at : at + size]
        at += size


async def read(body: bytes, held: Held, bodies: Bodies) -> bytes:
    """What is read of a body; all of it must have been taken when it is answered."""
    coming: Iterator[Message] = itertools.chain(
        ({"type": "http.request", "body": piece, "more_body": True} for piece in cut(body, MB)),
        [{"type": "http.request", "body": b"", "more_body": False}],
    )

    async def receive() -> Message:
        return next(coming)

    try:
        return await bodies.read({"headers": []}, receive, held)
    finally:
        assert next(coming, None) is None


@pytest.mark.parametrize("seed", range(20))
def test_what_is_counted_does_not_depend_on_how_a_body_is_cut(seed: int) -> None:
    noise = random.Random(seed)
    strings = ["".join(noise.choices('"\\,[{a\n', k=noise.randint(0, 9))) for _ in range(20)]
    strings += [f"{IMAGE}{'A' * length}" for length in range(9)]
    noise.shuffle(strings)
    body = json.dumps([[string, {string: 1}] for string in strings]).encode()
    counted = []
    for most in (1, 2, 7, len(body)):
        count = Count()
        for piece in cut(body, most):
            count.add(piece)
        counted.append(repr(count))
    commas, brackets, quotes = 2 * len(strings) - 1, 1 + 2 * len(strings), 4 * len(strings)
    assert counted[-1].startswith(f"Count({commas + brackets} values, {quotes} quotes, ")
    assert len(set(counted)) == 1


@pytest.mark.parametrize("bomb", ["[", "{},", '"\\\\",', '"":'])
def test_values_are_counted_outside_of_strings(bomb: str) -> None:
    held = Held()
    with pytest.raises(ApiError, match="65,536 JSON values"):
        asyncio.run(read(bomb.encode() * (4 * MB), held, Bodies(64 * MB)))
    assert held.bytes == 0
    assert held.most < 3 * MB
    harmless = json.dumps(bomb * MB).encode()
    assert asyncio.run(read(harmless, held, Bodies(64 * MB))) == harmless


def test_texts_are_bounded_and_images_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_module, "_BYTES_PER_SECOND", 1 << 40)
    held = Held()
    with pytest.raises(ApiError, match="16,777,216 bytes"):
        asyncio.run(read(json.dumps({"messages": [{"content": "a b " * 6 * MB}]}).encode(), held, Bodies(64 * MB)))
    assert held.bytes == 0
    assert held.most < 18 * MB
    image = json.dumps({"messages": [{"content": IMAGE + "A" * 20 * MB}]}).encode()
    assert asyncio.run(read(image, held, Bodies(64 * MB))) == image


def test_large_bodies_share_a_bounded_pace_and_small_ones_do_not_wait_for_them() -> None:
    bodies = Bodies(64 * MB)
    large = json.dumps(IMAGE + "A" * 8 * MB).encode()
    ended: list[str] = []

    async def send(name: str, body: bytes) -> None:
        await read(body, Held(), bodies)
        ended.append(name)

    async def play() -> None:
        await asyncio.gather(*(send("large", large) for _ in range(3)), *(send("small", b"{}") for _ in range(9)))

    began = time.monotonic()
    asyncio.run(play())
    assert ended == ["small"] * 9 + ["large"] * 3
    assert time.monotonic() - began > 3 * 6 / 64
