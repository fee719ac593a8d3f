"""The policy server with many clients, of whom a third leave early, while checkpoints come, change and go."""

import asyncio
import base64
import contextlib
import io
import json
import random
import shutil
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import PIL.Image
import psutil
import pytest
import torch
from overworld.service.process import ServiceProcess
from overworld_vlm.batch import encode
from overworld_vlm.engine import Engine
from overworld_vlm.load import VLM
from overworld_vlm.tiny import make_tiny
from overworld_vlm.tiny_config import TinyConfig
from overworld_vlm.writer import Request

from tests.support.checkpoints import TEXTS, with_adapter, write

REQUESTS, CLIENTS, ADAPTERS, WEIGHTS = 10_000, 64, 12, 20
CUT = 1 / 3
LONGEST_BEFORE_CUT = 0.5
REQUESTS_PER_CHANGE = 40

GROWTH_MB = 300
TINY = TinyConfig(hidden_size=32, intermediate_size=64, vision_layers=1)
TOKENS = 24
Body = dict[str, Any]

SCHEMA = {"type": "object", "properties": {"action": {"enum": ["+", "-", "="]}}, "required": ["action"]}
KINDS: dict[str, Body] = {
    "plain": {},
    "stream": {"stream": True},
    "several": {"n": 3},
    "logprobs": {"logprobs": True, "top_logprobs": 3, "return_token_ids": True},
    "schema": {"response_format": {"type": "json_schema", "json_schema": {"name": "act", "schema": SCHEMA}}},
    "choice": {"structured_outputs": {"choice": ["go left", "go right"]}},
    "sampled": {"temperature": 1.0},
    "tokenize": {},
}
PICTURES = [np.random.default_rng(number).integers(0, 256, (56, 56, 3), np.uint8) for number in range(2)]
PROMPTS: list[tuple[str, int | None]] = [
    ("Say something.", None), ("The target is 3 and the current number is 5.", None), ("What now? " * 20, None),
    ("What do you see?", 0), ("Where to?", 1),
]  # fmt: skip
"""Texts, and pictures by their number."""


def url(picture: int) -> str:
    buffer = io.BytesIO()
    PIL.Image.fromarray(PICTURES[picture]).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


URLS = [url(number) for number in range(len(PICTURES))]


def base_vlm() -> VLM:
    return make_tiny(TEXTS, TINY, 0)


@dataclass
class Checkpoints:
    """A run whose adapters change: which weights each of them has had, and whether it has just changed."""

    folder: Path
    weights: dict[str, int] = field(default_factory=dict)
    """Digest -> which weights; -1: the base."""
    had: dict[int, set[str]] = field(default_factory=lambda: defaultdict(set))
    """Update -> digests."""
    present: set[int] = field(default_factory=set)
    changes: Counter[int] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)

    def begin(self) -> None:
        self.base = base_vlm()
        manifest = write(self.folder / "000000", self.base, 0)
        self.weights[manifest.digest] = -1
        self.had[0].add(manifest.digest)
        self.present.add(0)
        self.adapters = [with_adapter(base_vlm(), seed + 1) for seed in range(WEIGHTS)]
        for update in range(1, ADAPTERS // 2 + 1):
            self.put(update, update)

    def put(self, update: int, weights: int) -> None:
        """An adapter, in place of one that may be there."""
        self.done["swapped" if update in self.present else "added"] += 1
        self.changes[update] += 1
        manifest = write(
            self.folder / f"{update:06}", self.adapters[weights], update, self.folder / "000000" / "weights"
        )
        self.weights[manifest.digest] = weights
        self.had[update].add(manifest.digest)
        self.present.add(update)
        self.changes[update] += 1

    def delete(self, update: int) -> None:
        self.done["deleted"] += 1
        self.changes[update] += 1
        self.present.discard(update)
        shutil.rmtree(self.folder / f"{update:06}")

    def change(self, random: random.Random) -> None:
        """One of the three, for one of the adapters."""
        update = random.randint(1, ADAPTERS)
        if update in self.present and random.random() < 0.3:
            self.delete(update)
        else:
            self.put(update, random.randrange(WEIGHTS))


@dataclass
class Answered:
    """A greedy answer, and the weights that it says it is from."""

    prompt: int
    weights: int
    text: str


@dataclass
class Soak:
    """What has happened so far."""

    checkpoints: Checkpoints
    left: int
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    greedy: list[Answered] = field(default_factory=list)

    async def client(self, http: httpx.AsyncClient, random: random.Random) -> None:
        """Sends requests one after the other until all are sent."""
        while self.left > 0:
            self.left -= 1
            update = random.choice([0, *range(1, ADAPTERS + 1), *self.checkpoints.present])
            prompt, kind = random.randrange(len(PROMPTS)), random.choice(list(KINDS))
            before, there = self.checkpoints.changes[update], update in self.checkpoints.present
            patience = random.random() * LONGEST_BEFORE_CUT if random.random() < CUT else None
            try:
                async with asyncio.timeout(patience):
                    status, answer = await ask(http, f"adapted@{update}", prompt, kind, random.randrange(4))
            except TimeoutError:
                self.outcomes["cut"] += 1
                continue
            except httpx.HTTPError as error:
                self.failures.append(f"{kind} of {update}: {error!r}")
                continue
            self.outcomes[f"{kind} {status}"] += 1
            settled = there and before == self.checkpoints.changes[update]
            self.judge(update, prompt, kind, status, answer, settled=settled)

    def judge(self, update: int, prompt: int, kind: str, status: int, answer: Body, *, settled: bool) -> None:
        """`settled`: whether the checkpoint was there and the same all the time."""
        if status == 404 and not settled:
            return
        if status != 200:
            self.failures.append(f"{kind} of {update}: {status} {json.dumps(answer)[:300]}")
            return
        if kind == "tokenize":
            return
        fingerprint = answer["fingerprint"]
        if fingerprint not in self.checkpoints.had[update]:
            self.failures.append(f"{kind} of {update} is said to be from {fingerprint}, which it never was")
        elif kind in ("schema", "choice"):
            text = answer["texts"][0]
            valid = text in KINDS["choice"]["structured_outputs"]["choice"] or '"action"' in text
            if not valid and answer["finish"] == "stop":
                self.failures.append(f"{kind} of {update}: {text!r}")
        elif kind != "sampled":
            weights = self.checkpoints.weights[fingerprint]
            self.greedy += [Answered(prompt, weights, text) for text in answer["texts"]]


async def ask(http: httpx.AsyncClient, model: str, prompt: int, kind: str, seed: int) -> tuple[int, Body]:
    """A status, and the error or {"texts", "finish", "fingerprint"}."""
    said, picture = PROMPTS[prompt]
    content: list[Body] = [{"type": "text", "text": said}]
    if picture is not None:
        content.insert(0, {"type": "image_url", "image_url": {"url": URLS[picture]}})
    messages = [{"role": "user", "content": content}]
    body = {"model": model, "messages": messages, "temperature": 0, "max_tokens": TOKENS, "seed": seed} | KINDS[kind]
    if kind == "stream":
        return await stream(http, body)
    response = await http.post("/tokenize" if kind == "tokenize" else "/v1/chat/completions", json=body)
    answer = response.json()
    if response.status_code == 200 and kind != "tokenize":
        choices = answer["choices"]
        texts = [choice["message"]["content"] for choice in choices]
        answer = {
            "texts": texts, "finish": choices[0]["finish_reason"], "fingerprint": answer["system_fingerprint"],
        }  # fmt: skip
    return response.status_code, answer


async def stream(http: httpx.AsyncClient, body: Body) -> tuple[int, Body]:
    async with http.stream("POST", "/v1/chat/completions", json=body) as response:
        if response.status_code != 200:
            return response.status_code, json.loads(await response.aread())
        events = [line.removeprefix("data: ") async for line in response.aiter_lines() if line]
    if events[-1] != "[DONE]":
        return 500, {"broken off": events[-1]}
    chunks = [json.loads(event) for event in events[:-1]]
    deltas = [chunk["choices"][0]["delta"].get("content", "") for chunk in chunks]
    fingerprints = {chunk["system_fingerprint"] for chunk in chunks}
    assert len(fingerprints) == 1
    return 200, {"texts": ["".join(deltas)], "finish": None, "fingerprint": fingerprints.pop()}


async def soak(address: str, checkpoints: Checkpoints, requests: int) -> Soak:
    """Lets all clients loose, and changes checkpoints meanwhile."""
    seen = Soak(checkpoints, requests)
    chance = random.Random(7)

    async def change() -> None:
        while True:
            before = seen.left
            await asyncio.to_thread(checkpoints.change, chance)
            while seen.left > before - REQUESTS_PER_CHANGE:
                await asyncio.sleep(0.01)

    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=address.removesuffix("/v1"), timeout=300, limits=limits) as http:
        changing = asyncio.create_task(change())
        await asyncio.gather(*(seen.client(http, random.Random(number)) for number in range(CLIENTS)))
        changing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await changing
    return seen


def expected(checkpoints: Checkpoints, prompt: int, weights: int) -> str:
    """The greedy reply of these weights, alone."""
    vlm = checkpoints.adapters[weights] if weights >= 0 else checkpoints.base
    said, picture = PROMPTS[prompt]
    content: list[Body] = [{"type": "text", "text": said}]
    if picture is not None:
        content.insert(0, {"type": "image", "image": PICTURES[picture]})
    request = Request(encode(vlm, [{"role": "user", "content": content}]), TOKENS, temperature=0)
    Engine(vlm).run([request])
    text: str = vlm.tokenizer.decode(request.tokens, skip_special_tokens=True)
    return text


def gauges(address: str) -> dict[str, float]:
    page = httpx.get(address.removesuffix("/v1") + "/metrics").text
    lines = (line.split() for line in page.splitlines() if not line.startswith("#"))
    return {line[0]: float(line[1]) for line in lines if "{" not in line[0]}


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_no_request_fails_no_place_is_lost_and_no_answer_is_from_other_weights(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    checkpoints = Checkpoints(tmp_path / "runs" / "adapted" / "checkpoints")
    checkpoints.begin()
    log = tmp_path / "log"
    with ServiceProcess("overworld_policy", f"runs={tmp_path / 'runs'}", "port=0", "threads=1", log=log) as server:
        process = psutil.Process(server.process.pid)
        asyncio.run(soak(server.address, checkpoints, REQUESTS // 20))
        files, size = process.num_fds(), process.memory_info().rss
        began = time.monotonic()
        seen = asyncio.run(soak(server.address, checkpoints, REQUESTS))
        seconds = time.monotonic() - began
        deadline = time.monotonic() + 60
        while (state := gauges(server.address))["overworld_chats_in_flight"] or state["overworld_models_used"]:
            assert time.monotonic() < deadline, f"places are lost: {state}"
            time.sleep(0.1)
        grown, left_open = process.memory_info().rss - size, process.num_fds() - files
        assert httpx.get(server.address.removesuffix("/v1") + "/health").status_code == 200
    print(f"{REQUESTS} requests in {seconds:.0f} s; {dict(checkpoints.done)}; {dict(sorted(seen.outcomes.items()))}")
    print(f"{grown / 1e6:.0f} MB more, {left_open} files more, {len(seen.greedy)} greedy answers")
    assert seen.failures == []
    assert '"level": "error"' not in log.read_text()
    assert state["overworld_models_loaded"] <= 4
    assert grown < GROWTH_MB * 1e6
    assert left_open <= CLIENTS
    assert REQUESTS * CUT / 3 < seen.outcomes["cut"] < REQUESTS * CUT * 1.2
    assert min(checkpoints.done[change] for change in ("added", "swapped", "deleted")) >= ADAPTERS
    texts = {
        (answer.prompt, answer.weights): expected(checkpoints, answer.prompt, answer.weights) for answer in seen.greedy
    }
    assert len({weights for _, weights in texts}) > WEIGHTS / 2
    wrong = [answer for answer in seen.greedy if answer.text != texts[answer.prompt, answer.weights]]
    assert wrong == []
