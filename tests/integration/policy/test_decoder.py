"""What fails in the decoder, and who is affected."""

import asyncio
import os
import shutil
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from overworld.service.watchdog import Watchdog
from overworld_policy import app, chat
from overworld_policy.chat import ChatService
from overworld_policy.config import PolicyServerConfig
from overworld_policy.metrics import Metrics
from overworld_vlm.load import save
from overworld_vlm.tiny import make_tiny
from starlette.testclient import TestClient

from tests.integration.policy.conftest import TINY, Served, serve
from tests.integration.policy.test_api import part, picture
from tests.support.checkpoints import TEXTS, with_adapter, write
from tests.support.warm import WarmService


def serve_frail(runs: Path, log: Path) -> Served:
    process = WarmService("tests.support.frail_policy", f"runs={runs}", "port=0", "threads=1", log=log)
    return Served(process.address, runs, httpx.Client(base_url=process.address, timeout=60), process)


def test_a_dead_decoder_fails_its_requests_and_ends_the_process_with_a_status_of_its_own(
    runs: Path, tmp_path: Path
) -> None:
    served = serve_frail(runs, tmp_path / "log")
    url = f"{served.url}/chat/completions"
    body = {"model": "whole@0", "messages": [{"role": "user", "content": "x"}], "temperature": 1, "max_tokens": 1024}
    try:
        served.chat()
        with ThreadPoolExecutor(16) as pool, served.http.stream("POST", url, json=body | {"stream": True}) as stream:
            lines = stream.iter_lines()
            events = [next(lines)]
            waiting = [pool.submit(httpx.post, url, json=body | {"seed": seed}, timeout=60) for seed in range(16)]
            while chats_in_flight(served) < 8:  # not all: some may have finished
                assert not all(one.done() for one in waiting)
            served.process.send_signal(signal.SIGUSR1)
            statuses = [one.result(20).status_code for one in waiting]
            events += [line for line in lines if line]
        assert set(statuses) <= {200, 500, 503}
        assert max(statuses) >= 500
        assert '"model_failed"' in events[-1] or events[-1] == "data: [DONE]", "it had finished before"
        assert served.process.wait(20) == 70
    finally:
        served.stop()
    said = (tmp_path / "log").read_text().splitlines()
    assert sum("the thread that writes replies has died" in line for line in said) == 1
    assert len([line for line in said if '"level": "critical"' in line]) == 1


def chats_in_flight(served: Served) -> float:
    metrics = httpx.get(f"{served.url.removesuffix('/v1')}/metrics").text
    return float(
        next(line.split()[1] for line in metrics.splitlines() if line.startswith("overworld_chats_in_flight "))
    )


def test_adapters_of_one_base_answer_together_as_they_do_alone(served: Served) -> None:
    """To the last bit: log-probs are given with all their digits."""

    def answer(model: str) -> tuple[Any, ...]:
        body = served.chat(messages, model, temperature=1, seed=5, max_tokens=20, logprobs=True, top_logprobs=3)
        return body["system_fingerprint"], body["choices"]

    messages = [{"role": "user", "content": [{"type": "text", "text": "Say something."}, part(picture((60, 40))[0])]}]
    names = ["adapted@1", "adapted@2", "adapted@0", "base"]
    alone = [answer(name) for name in names]
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(answer, names * 4)) == alone * 4
    (first, *_), (second, *_), (whole, said), base = alone
    assert len({first, second, whole}) == 3
    assert said == base[1], "they are one model"


def test_adapters_of_all_kinds_and_copies_of_them_do_not_mix(tmp_path: Path) -> None:
    base = tmp_path / "base"
    save(make_tiny(TEXTS, TINY, 2), base)
    kinds: list[dict[str, Any]] = [
        {},
        {},
        {"r": 20, "target_modules": r".*language_model.*\.(q_proj|down_proj)"},
        {"use_dora": True},
        {"target_modules": r".*visual\.blocks\..*\.(qkv|fc1)"},
    ]
    for update, settings in enumerate(kinds, start=1):
        folder = tmp_path / "runs" / "run" / "checkpoints" / f"{update:06}"
        write(folder, with_adapter(make_tiny(TEXTS, TINY, 2), update, **settings), update, base)
    shutil.copytree(tmp_path / "runs" / "run", tmp_path / "runs" / "copy")
    diverged = with_adapter(make_tiny(TEXTS, TINY, 2), 9)
    with torch.no_grad():
        next(weight for name, weight in diverged.model.named_parameters() if "lora_B" in name)[0, 0] = torch.nan
    write(tmp_path / "runs" / "run" / "checkpoints" / "000009", diverged, 9, base)
    served = serve(tmp_path / "runs", "max_loaded=1")
    try:
        names = [f"{run}@{update}" for update in range(1, 6) for run in ("run", "copy")]
        alone = {name: reply(served, name) for name in names}
        assert all(alone[f"run@{update}"] == alone[f"copy@{update}"] for update in range(1, 6))
        assert len(set(alone.values())) == len(kinds)
        for _ in range(2):
            with ThreadPoolExecutor(20) as pool:
                together = list(pool.map(lambda name: (name, reply(served, name)), names * 2))
            assert all(text == alone[name] for name, text in together)
        assert "not finite" in served.error(model="run@9", status=404)["message"]
    finally:
        served.stop()


def reply(served: Served, model: str) -> str:
    messages = [{"role": "user", "content": [part(picture((60, 40))[0]), {"type": "text", "text": "Say something."}]}]
    text: str = served.chat(messages, model, max_tokens=30)["choices"][0]["message"]["content"]
    return text


def test_health_fails_while_the_decoder_stands_still_and_comes_back(runs: Path, tmp_path: Path) -> None:
    served = serve_frail(runs, tmp_path / "log")
    health = f"{served.url.removesuffix('/v1')}/health"
    try:
        served.chat()
        assert httpx.get(health).json() == {"status": "ok"}
        served.process.send_signal(signal.SIGUSR2)
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda _: httpx.get(health, timeout=12), range(4)))
        for answer in answers:
            assert answer.status_code == 503
            assert "has not answered for 10 s" in answer.json()["error"]["message"]
        began = time.monotonic()
        assert httpx.get(health).status_code == 503, "the same probe is still under way"
        assert time.monotonic() - began < 5
        served.chat()
        assert httpx.get(health).status_code == 200
    finally:
        served.stop()


def test_a_decoder_that_stands_still_for_good_ends_the_process(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended, let_go = threading.Event(), threading.Event()
    monkeypatch.setattr(app, "_STUCK_SECONDS", 1.0)
    monkeypatch.setattr(Watchdog, "_end", lambda *_: ended.set())
    services: list[ChatService] = []

    def make(*arguments: Any) -> ChatService:
        services.append(ChatService(*arguments))
        return services[0]

    monkeypatch.setattr(app, "ChatService", make)
    with TestClient(app.create_app(PolicyServerConfig(runs=runs), lambda: None)) as client:
        assert client.get("/health").status_code == 200
        monkeypatch.setattr(chat, "_PROBE_SECONDS", 0.1)
        services[0]._decoder._ask(let_go.wait)
        assert ended.wait(30)
        assert client.get("/health").status_code == 503
        let_go.set()


def test_probes_that_ask_at_once_do_not_take_each_others_for_failed(runs: Path) -> None:
    async def probe(service: ChatService) -> None:
        for _ in range(100):
            await service.check()

    async def play() -> None:
        service = ChatService(PolicyServerConfig(runs=runs), Metrics(), lambda: None)
        try:
            await asyncio.gather(*[probe(service) for _ in range(8)])
        finally:
            await service.close()

    asyncio.run(play())


def test_a_model_that_takes_long_to_load_stops_nobody(runs: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(runs / "whole" / "checkpoints" / "000000" / "weights", base)
    weights = base / "model.safetensors"
    weights.unlink()
    os.mkfifo(weights)  # a disk that does not answer
    os.link(weights, tmp_path / "other-end")
    served = serve(runs, f"base={base}")
    try:
        served.chat()
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(served.error, model="base", status=404)
            time.sleep(0.5)
            served.chat()
            assert served.http.get(f"{served.url.removesuffix('/v1')}/health").status_code == 200
            assert not waiting.done()
            weights.unlink()
            weights.write_bytes(b"no weights")
            (tmp_path / "other-end").open("wb").close()
            assert "cannot be loaded" in waiting.result()["message"]
    finally:
        served.stop()


def test_a_checkpoint_that_is_replaced_while_it_is_served_answers_with_its_new_weights(copied: Path) -> None:
    folder = copied / "whole" / "checkpoints" / "000003"
    served = serve(copied)
    try:
        before = served.chat(model="whole@3", max_tokens=30)
        weights = folder / "weights" / "model.safetensors"
        with weights.open("r+b") as file:  # as `rsync --inplace` and `cp` do
            file.write(bytes(weights.stat().st_size))
        assert served.chat(model="whole@3", max_tokens=30)["choices"] == before["choices"]
        weights.write_bytes(b"")
        assert served.chat(model="whole@3", max_tokens=30)["choices"] == before["choices"]
        shutil.rmtree(folder)
        write(folder, make_tiny(TEXTS, TINY, 7), 3)
        after = served.chat(model="whole@3", max_tokens=30)
        assert after["system_fingerprint"] != before["system_fingerprint"]
        assert after["choices"][0]["message"]["content"] != before["choices"][0]["message"]["content"]
    finally:
        served.stop()
