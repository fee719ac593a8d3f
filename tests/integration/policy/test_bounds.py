"""What is refused before any work is done for it, and who has to wait for what is not."""

import asyncio
import base64
import contextlib
import functools
import io
import itertools
import json
import math
import os
import resource
import socket
import statistics
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import PIL.Image
import psutil
import pytest
from overworld_policy.chat import ChatService
from overworld_policy.config import PolicyServerConfig
from overworld_policy.decoder import Decoder
from overworld_policy.errors import ApiError
from overworld_policy.messages import ChatRequest
from overworld_policy.metrics import Metrics
from overworld_policy.models import Models
from overworld_vlm.batch import encode
from overworld_vlm.writer import Request

from tests.fuzz.budget import reproducible, seeds
from tests.fuzz.mutation import mutated_json
from tests.integration.policy.conftest import Served, serve
from tests.integration.policy.test_api import metric, part, text


@pytest.fixture(scope="module")
def bounded(runs: Path) -> Iterator[Served]:
    served = serve(runs, "max_waiting=12", "max_images=20")
    served.chat()
    yield served
    served.stop()


def unreadable(width: int, height: int) -> str:
    """A PNG whose header is right and whose pixels are not there: whoever reads them notices."""
    ihdr = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n"
    for kind, content in ((b"IHDR", ihdr), (b"IDAT", zlib.compress(b""))):
        data += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def user(*parts: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}]


def test_images_are_counted_and_measured_before_they_are_read(bounded: Served) -> None:
    for images, code in (
        ([unreadable(100, 100)] * 21, "too_many_images"),
        ([unreadable(5000, 5000)], "image_too_large"),
        ([unreadable(4000, 3900)] * 5, "images_too_large"),
        ([unreadable(1000, 1000)] * 6, "context_length_exceeded"),
        ([unreadable(100, 100)], "invalid_image"),
    ):
        assert bounded.error(user(*map(part, images)))["code"] == code


def test_texts_are_measured_before_they_are_tokenised(bounded: Served) -> None:
    began = time.monotonic()
    error = bounded.error("a b " * 2_000_000)
    assert error["code"] == "context_length_exceeded"
    assert "8000000 characters" in error["message"]
    assert time.monotonic() - began < 20
    assert bounded.error("ab " * 16_000)["code"] == "context_length_exceeded"
    assert bounded.error(user(*[{"type": "text", "text": ""}] * 2000))["code"] == "too_many_parts"


@pytest.mark.parametrize(
    "body",
    [
        b'{"model": "whole@0", "messages": [' + b",".join([b'{"role": "user"}'] * 500_000) + b"]}",
        b'{"model": "whole@0", "messages": [], "x": ' + b"[" * 3_000_000,
        b'{"model": "whole@0", "messages": [], "x": [' + b",".join([b'"a\\\\"'] * 500_000) + b"]}",
    ],
    ids=["messages", "nested", "strings"],
)
def test_objects_are_counted_before_they_are_made(bounded: Served, body: bytes) -> None:
    process = psutil.Process(bounded.process.pid)
    before = process.memory_info().rss
    response = bounded.http.post("/chat/completions", content=body)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "request_too_large"
    assert "JSON values" in response.json()["error"]["message"]
    assert process.memory_info().rss < before + 50e6


def test_texts_full_of_quotes_and_commas_are_not_taken_for_objects(bounded: Served) -> None:
    prose = '{"a": [1, 2], \\"b\\\\": "c"},' * 20_000
    assert bounded.error(prose)["code"] == "context_length_exceeded"


def test_nobody_waits_for_somebody_elses_large_request(bounded: Served) -> None:
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (3900, 4000), "red").save(buffer, "PNG")
    whole, broken = (
        part(f"data:image/png;base64,{base64.b64encode(data).decode()}")
        for data in (buffer.getvalue(), buffer.getvalue()[:-200])
    )
    process = psutil.Process(bounded.process.pid)
    before = process.memory_info().rss
    done = threading.Event()
    large: list[float] = []
    small: list[float] = []

    def press() -> None:
        while not done.is_set():
            began = time.monotonic()
            assert bounded.error(user(whole, whole, broken))["code"] == "invalid_image", "all three were read"
            large.append(time.monotonic() - began)

    with ThreadPoolExecutor(3) as pool:
        pressing = [pool.submit(press) for _ in range(3)]
        while len(large) < 6 and not any(one.done() for one in pressing):
            began = time.monotonic()
            bounded.chat(max_tokens=1)
            small.append(time.monotonic() - began)
        done.set()
        for one in pressing:
            one.result()
    assert statistics.median(small) < statistics.median(large) / 3
    deadline = time.monotonic() + 30
    while process.memory_info().rss > before + 50e6:
        assert time.monotonic() < deadline, "memory does not come back"
        time.sleep(0.1)


def test_pixels_of_large_requests_are_bounded_for_all_together(runs: Path) -> None:
    def asked(side: int) -> ChatRequest:
        buffer = io.BytesIO()
        PIL.Image.new("1", (side, side)).save(buffer, "PNG")
        url = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
        return ChatRequest.model_validate({"model": "whole@0", "messages": user(part(url)), "max_tokens": 1})

    async def play() -> None:
        config = PolicyServerConfig(runs=runs, max_total_pixels=16_000_000, max_pixels=3136)
        service = ChatService(config, Metrics(), lambda: None)
        held, leave = [0], asyncio.Event()

        async def hold(request: ChatRequest) -> None:
            async with service.chat(request):
                held[0] += 1
                await leave.wait()

        large = [asyncio.create_task(hold(asked(3990))) for _ in range(3)]
        while held[0] < 2:
            await asyncio.sleep(0.01)
        async with service.chat(asked(56)) as small:
            await small.finished()
        long = {"model": "whole@0", "messages": [{"role": "user", "content": "ab " * 16_000}]}
        with pytest.raises(ApiError, match="tokens"):  # it waits where the third would, and comes after it
            async with service.chat(ChatRequest.model_validate(long)):
                pass
        await asyncio.sleep(0.1)
        assert held == [2], "the third takes more than the first two have left"
        leave.set()
        await asyncio.gather(*large)
        assert held == [3]
        await service.close()

    asyncio.run(asyncio.wait_for(play(), 120))


def test_requests_are_counted_before_their_bodies_are_read_and_told_when_to_come_back(bounded: Served) -> None:
    host, port = bounded.url.removeprefix("http://").removesuffix("/v1").split(":")
    connections = []
    for _ in range(12):
        connection = socket.create_connection((host, int(port)))
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
        connections.append(connection)
    deadline = time.monotonic() + 60
    while metric(bounded, "overworld_chats_in_flight") < 12:
        assert time.monotonic() < deadline
    refused = bounded.http.post("/chat/completions", json={"model": "whole@0", "messages": []})
    assert refused.status_code == 429
    assert refused.headers["Retry-After"] == "1"
    assert refused.json()["error"]["type"] == "rate_limit_error"
    for connection in connections:
        connection.close()
    while metric(bounded, "overworld_chats_in_flight") > 0:
        assert time.monotonic() < deadline
    bounded.chat()


def test_bodies_that_are_announced_too_large_are_refused_at_once(bounded: Served) -> None:
    host, port = bounded.url.removeprefix("http://").removesuffix("/v1").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 70000000\r\n\r\n")
        assert b" 413 " in connection.recv(1000)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/nothing", 404), ("POST", "/v1/responses", 404), ("GET", "/v1/chat/completions", 405),
     ("GET", "/v1/models/", 404), ("DELETE", "/v1/models/whole@0", 405)],
)  # fmt: skip
def test_every_error_is_in_openais_form(bounded: Served, method: str, path: str, status: int) -> None:
    response = httpx.request(method, bounded.url.removesuffix("/v1") + path)
    assert response.status_code == status
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert "/v1/chat/completions" in response.json()["error"]["message"]


def test_names_that_clients_make_up_do_not_become_labels(bounded: Served) -> None:
    page = f"{bounded.url.removesuffix('/v1')}/metrics"

    def labels() -> int:
        return len(httpx.get(page).text.splitlines())

    def make_up(number: int) -> None:
        httpx.get(f"{bounded.url}/made-up-{number}")
        httpx.delete(f"{bounded.url}/models/made-up-{number}")
        bounded.error(model=f"made-up@{number}", status=404)
        bounded.error(model=f"whole@{'0' * number}9", status=404)
        bounded.chat(model=f"whole@{'0' * number}0", max_tokens=1)

    make_up(1)
    before = labels()
    for number in range(2, 10):
        make_up(number)
    assert labels() == before


def test_a_kept_connection_answers_at_once(bounded: Served) -> None:
    seconds = []
    for _ in range(30):
        began = time.monotonic()
        bounded.http.get("/nothing")
        seconds.append(time.monotonic() - began)
    assert min(seconds[10:]) < 0.03, "an answer waits for a delayed acknowledgement: 40 ms"


def test_heads_that_never_end_are_cut_off_and_idle_connections_are_kept(bounded: Served) -> None:
    host, port = bounded.url.removeprefix("http://").removesuffix("/v1").split(":")

    def ask(connection: socket.socket) -> bytes:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: here\r\n\r\n")
        answer = b""
        while not answer.endswith(b"}"):
            answer += connection.recv(1000) or pytest.fail("the connection was closed")
        return answer

    def drip(first: bool) -> float:
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            assert first or ask(connection).startswith(b"HTTP/1.1 200")
            began = time.monotonic()
            connection.sendall(b"GET /health HTTP/1.1\r\n")
            while time.monotonic() - began < 25:
                try:
                    connection.sendall(b"X-Drip: 1\r\n")
                except OSError:
                    break
                time.sleep(0.5)
            return time.monotonic() - began

    with ThreadPoolExecutor(2) as pool, socket.create_connection((host, int(port)), timeout=30) as kept:
        dripping = [pool.submit(drip, first) for first in (True, False)]
        assert ask(kept).startswith(b"HTTP/1.1 200")
        assert all(5 < one.result() < 20 for one in dripping)
        assert ask(kept).startswith(b"HTTP/1.1 200")  # clients close after 5 s, as httpx does, or later


def test_without_descriptors_requests_fail_alone_and_the_server_recovers(bounded: Served) -> None:
    bounded.chat()
    pid = bounded.process.pid
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    in_use = len(os.listdir(f"/proc/{pid}/fd"))
    host, port = bounded.url.removeprefix("http://").removesuffix("/v1").split(":")
    body = {"model": "whole@0", "messages": [{"role": "user", "content": "Go."}], "max_tokens": 3}
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (in_use + 2, hard))
    try:
        with contextlib.ExitStack() as stack:
            for _ in range(10):
                stack.enter_context(socket.create_connection((host, int(port))))
            for _ in range(3):
                with contextlib.suppress(httpx.TransportError):  # its connection was a new one
                    response = bounded.http.post("/chat/completions", json=body, timeout=3)  # it may not be accepted
                    assert response.status_code == 200 or response.json()["error"]["message"]
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
    bounded.chat()
    with httpx.Client(base_url=bounded.url, timeout=60) as client:
        assert client.get("/models").status_code == 200


@pytest.mark.timeout(0)
def test_mutated_bodies_get_a_reply_or_a_reason(bounded: Served) -> None:
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (30, 30), "red").save(buffer, "PNG")
    picture = part(f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}")
    said = user({"type": "text", "text": "Go."}, picture)
    plain = {"model": "whole@0", "messages": said, "max_tokens": 3, "temperature": 0.5}
    more = {"n": 2, "stop": ["."], "logit_bias": {"3": 1}, "seed": 1, "logprobs": True, "user": "me"}
    bodies = [plain, plain | more, plain | {"stream": True}, plain | {"structured_outputs": {"choice": ["a", "b"]}}]
    statuses: Counter[int] = Counter()
    for seed in seeds():
        with reproducible(seed) as rng:
            for _ in range(20):
                body = mutated_json(json.dumps(rng.choice(bodies)).encode(), rng)
                try:
                    response = bounded.http.post("/chat/completions", content=body, timeout=5)
                except httpx.ReadTimeout:  # a long reply
                    continue
                statuses[response.status_code] += 1
                assert response.status_code < 500, (body, response.text)
                if response.status_code >= 400:
                    assert response.json()["error"]["message"]
        assert bounded.http.get(bounded.url.removesuffix("/v1") + "/health").status_code == 200
    assert statuses[400]


def test_extreme_numbers_fail_nobody_else(bounded: Served) -> None:
    alone = text(bounded.chat(temperature=1, seed=1, max_tokens=60))
    extremes: list[dict[str, Any]] = [
        {"temperature": 1e-50}, {"temperature": 1e-320}, {"temperature": 1e-4}, {"top_p": 1e-300, "temperature": 1},
        {"seed": 10**300}, {"max_tokens": 10**300}, {"seed": "huge"},
    ]  # fmt: skip

    def ask(fields: dict[str, Any]) -> int:
        body = {"model": "whole@0", "messages": [{"role": "user", "content": "x"}], "max_tokens": 20} | fields
        content = json.dumps(body).replace('"huge"', "-1" + "0" * 5000)  # Python does not print such numbers
        return httpx.post(f"{bounded.url}/chat/completions", content=content, timeout=60).status_code

    with ThreadPoolExecutor(10) as pool:
        neighbours = [pool.submit(bounded.chat, temperature=1, seed=1, max_tokens=60) for _ in range(3)]
        statuses = list(pool.map(ask, extremes))
    assert [text(neighbour.result()) for neighbour in neighbours] == [alone] * 3
    assert statuses[:4] == [200] * 4
    assert set(statuses) <= {200, 400}
    greedy = text(bounded.chat(temperature=0))
    assert text(bounded.chat(temperature=1e-30, seed=2)) == greedy


def test_a_request_at_which_the_engine_fails_fails_alone(runs: Path) -> None:
    config = PolicyServerConfig(runs=runs)
    decoder = Decoder(config, lambda: None)
    try:
        loaded = decoder.use(Models(config).find("whole@0")).result()
        prompt = encode(loaded.vlm, [{"role": "user", "content": "Say something."}])

        def written(**fields: Any) -> tuple[Request, threading.Event]:
            request, done = Request(prompt, 40, key=(1,), **fields), threading.Event()
            decoder.write(loaded, [request], lambda: done.set() if request.finish is not None else None)
            return request, done

        alone, done = written()
        assert done.wait(30)
        # 1e-50 is 0 in fp32; the API lets nobody ask for it.
        requests = [written(**({"temperature": 1e-50} if number == 3 else {})) for number in range(8)]
        for _, done in requests:
            assert done.wait(30)
        finished = [request.finish for request, _ in requests]
        assert finished[3] == "cancelled"
        for number, (request, _) in enumerate(requests):
            assert number == 3 or (request.tokens == alone.tokens and request.finish == alone.finish)
            assert number == 3 or all(math.isfinite(logp) for logp in request.logps)
    finally:
        decoder.close()


def test_short_requests_go_on_while_long_prompts_queue(runs: Path) -> None:
    decoder = Decoder(PolicyServerConfig(runs=runs), lambda: None)
    try:
        loaded = decoder.use(Models(PolicyServerConfig(runs=runs)).find("whole@0")).result()
        prompts = [encode(loaded.vlm, [{"role": "user", "content": content}]) for content in ("x", "word " * 700)]
        assert len(prompts[1]) > 512
        short = [Request(prompts[0], 400, key=(number,)) for number in range(6)]
        long = [Request(prompts[1], 1, key=(number,)) for number in range(12)]
        written: list[int] = []  # tokens of short replies when a long one was finished
        done = threading.Event()

        def on_token(request: Request) -> None:
            if request.finish is not None:
                written.append(sum(len(other.tokens) for other in short))
                if len(written) == len(long) or all(other.finish is not None for other in short):
                    done.set()

        for request in short:
            decoder.write(loaded, [request], lambda: None)
        for request in long:
            decoder.write(loaded, [request], functools.partial(on_token, request))
        assert done.wait(60)
        assert len(written) > 3
        assert all(later > earlier for earlier, later in itertools.pairwise(written[:-1]))
    finally:
        decoder.close()
