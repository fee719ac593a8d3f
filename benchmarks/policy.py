"""The policy server with a tiny model: many clients, several replies, several adapters, and a short chat.

The peers are the server itself without what is measured (one client, eight requests instead of `n`, one adapter instead
of three), and `transformers serve --continuous-batching` with a text model of the same sizes, since its images need
torchvision. Each pair runs in turn, ROUNDS times; the figures are medians. Client and servers share the machine.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import PIL.Image
from overworld.service.process import ServiceProcess
from overworld_vlm.load import VLM, load
from overworld_vlm.tiny import make_tiny
from overworld_vlm.tiny_config import TinyConfig
from report import Row, finish, parser
from transformers import Qwen2Config, Qwen2ForCausalLM

sys.path.append(str(Path(__file__).parents[1]))  # for the tiny models, which the tests use, too

from tests.support.checkpoints import TEXTS, with_adapter, write

ROUNDS = 3
CLIENTS, REQUESTS, TOKENS = 32, 64, 64
REPLIES, FRAMES, SIZE, SHORT = 8, 8, 224, 16
ADAPTERS = 3
CHATS, CHAT_SECONDS = 50, 0.010
THREADS = ("OMP_NUM_THREADS", "1")
Body = dict[str, Any]


def main() -> None:
    """Measures and reports."""
    arguments = parser(__doc__ or "").parse_args()
    os.environ.update([THREADS])
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        runs = Path(folder) / "runs"
        make_runs(runs)
        ours = ServiceProcess("overworld_policy", f"runs={runs}", "port=0", "threads=1", environment={})
        stack.callback(ours.stop)
        rows = asyncio.run(measure_own(ours.address))
        text = Path(folder) / "text"
        make_text_model(load(runs / "plain" / "checkpoints" / "000000" / "weights"), text)
        with transformers_serve(text) as peer:
            rows.append(asyncio.run(measure_peer(ours.address, peer, str(text))))
    finish(rows, arguments.json)


async def measure_own(url: str) -> list[Row]:
    """What the server gains over itself."""
    rows = []
    body = chat("plain@0")
    together, alone = await interleaved(
        lambda: tokens_per_second(url, [body] * REQUESTS, CLIENTS),
        lambda: tokens_per_second(url, [body] * (REQUESTS // 4), 1),
    )
    rows.append(
        Row("tokens of replies", f"{CLIENTS} clients", together, "1/s", "one client", alone, together / alone, 4)
    )

    names = [f"adapted@{number + 1}" for number in range(ADAPTERS)]
    mixed, single = await interleaved(
        lambda: tokens_per_second(url, [chat(names[number % ADAPTERS]) for number in range(REQUESTS)], CLIENTS),
        lambda: tokens_per_second(url, [chat(names[0])] * REQUESTS, CLIENTS),
    )
    setting = f"{ADAPTERS} adapters of one base, {CLIENTS} clients"
    rows.append(Row("tokens of replies", setting, mixed, "1/s", "one adapter", single, mixed / single, 1 / 1.3))

    frames = chat("plain@0", frames=FRAMES) | {"max_tokens": SHORT}
    at_once, separate = await interleaved(
        lambda: seconds(url, [frames | {"n": REPLIES}]),
        lambda: seconds(url, [frames | {"seed": seed} for seed in range(REPLIES)]),
    )
    setting = f"n = {REPLIES}, {FRAMES} frames of {SIZE} x {SIZE}, {SHORT} tokens"
    rows.append(Row("replies", setting, at_once, "s", f"{REPLIES} requests", separate, separate / at_once, 1 / 0.4))

    short = await one_token(url)
    rows.append(
        Row(
            "a chat of one token", "kept connection, median", short, "s", "limit", CHAT_SECONDS, CHAT_SECONDS / short, 1
        )
    )
    return rows


async def measure_peer(url: str, peer: str, model: str) -> Row:
    """Against `transformers serve`."""
    ours, theirs = await interleaved(
        lambda: tokens_per_second(url, [chat("plain@0")] * REQUESTS, CLIENTS),
        lambda: tokens_per_second(peer, [chat(model)] * REQUESTS, CLIENTS),
    )
    return Row("tokens of replies", f"{CLIENTS} clients", ours, "1/s", "transformers serve", theirs, ours / theirs, 1.5)


async def interleaved(
    one: Callable[[], Awaitable[float]], other: Callable[[], Awaitable[float]]
) -> tuple[float, float]:
    """Medians of both, which are measured in turn after a run of each to warm up."""
    await one()
    await other()
    measured = [(await one(), await other()) for _ in range(ROUNDS)]
    ours, theirs = zip(*measured, strict=True)
    return statistics.median(ours), statistics.median(theirs)


async def tokens_per_second(url: str, bodies: Sequence[Body], clients: int) -> float:
    """Reply tokens per second with so many requests under way."""
    limit = asyncio.Semaphore(clients)

    async def ask(body: Body) -> int:
        async with limit:
            return await tokens(http, body)

    async with client(url) as http:
        began = time.perf_counter()
        written = sum(await asyncio.gather(*map(ask, bodies)))
        return written / (time.perf_counter() - began)


async def seconds(url: str, bodies: Sequence[Body]) -> float:
    """Until all requests, sent at once, are answered."""
    async with client(url) as http:
        began = time.perf_counter()
        await asyncio.gather(*(tokens(http, body) for body in bodies))
        return time.perf_counter() - began


async def one_token(url: str) -> float:
    """Median of the seconds that a chat takes."""
    async with client(url) as http:
        times = []
        for _ in range(CHATS):
            began = time.perf_counter()
            await tokens(http, chat("plain@0") | {"max_tokens": 1})
            times.append(time.perf_counter() - began)
    return statistics.median(times)


async def tokens(http: httpx.AsyncClient, body: Body) -> int:
    """Tokens of the replies to a request."""
    response = await http.post("/chat/completions", json=body)
    response.raise_for_status()
    written: int = response.json()["usage"]["completion_tokens"]
    return written


def client(url: str) -> httpx.AsyncClient:
    """With as many connections as there are requests."""
    return httpx.AsyncClient(base_url=url, timeout=300, limits=httpx.Limits(max_connections=None))


def chat(model: str, frames: int = 0) -> Body:
    """A request for a reply of TOKENS tokens, with that many pictures."""
    content: list[Body] = [{"type": "image_url", "image_url": {"url": picture(number)}} for number in range(frames)]
    content.append({"type": "text", "text": "Say something."})
    messages = [{"role": "user", "content": content if frames else "Say something."}]
    return {"model": model, "messages": messages, "max_tokens": TOKENS, "temperature": 1.0, "seed": 1}


def picture(seed: int) -> str:
    """A data URL."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    PIL.Image.fromarray(pixels).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def make_runs(runs: Path) -> None:
    """A whole model, and adapters of one base."""
    write(runs / "plain" / "checkpoints" / "000000", make_tiny(TEXTS, TinyConfig(), 0), 0)
    adapted = runs / "adapted" / "checkpoints"
    write(adapted / "000000", make_tiny(TEXTS, TinyConfig(), 1), 0)
    for update in range(1, ADAPTERS + 1):
        vlm = with_adapter(make_tiny(TEXTS, TinyConfig(), 1), update)
        write(adapted / f"{update:06}", vlm, update, adapted / "000000" / "weights")


def make_text_model(vlm: VLM, folder: Path) -> None:
    """A text model of the sizes of this one's language model, with its tokenizer."""
    sizes = vlm.core.config.text_config
    names = (
        "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size",
        "vocab_size", "max_position_embeddings",
    )  # fmt: skip
    model = Qwen2ForCausalLM(Qwen2Config(**{name: getattr(sizes, name) for name in names}, tie_word_embeddings=True))
    generation: Any = model.generation_config
    generation.eos_token_id, generation.pad_token_id = vlm.end_id, vlm.tokenizer.pad_token_id
    generation.bos_token_id = None
    model.save_pretrained(folder)
    vlm.tokenizer.save_pretrained(folder)


@contextlib.contextmanager
def transformers_serve(folder: Path) -> Iterator[str]:
    """Yields the URL of a `transformers serve` of a model."""
    port = 18_077
    program = [str(Path(sys.executable).with_name("transformers")), "serve", str(folder), "--port", str(port)]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [*program, "--device", "cpu", "--continuous-batching"],
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
            stdout=log,
            stderr=log,
        )
        try:
            for _ in range(1200):
                with contextlib.suppress(httpx.TransportError):
                    httpx.get(f"http://127.0.0.1:{port}/health").raise_for_status()
                    break
                if process.poll() is not None:
                    log.seek(0)
                    raise SystemExit(f"transformers serve has ended: {log.read().decode()[-500:]}")
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            process.wait()


if __name__ == "__main__":
    main()
