"""The OpenAI-compatible API, as harnesses use it."""

import base64
import io
import json
import signal
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import PIL.Image
import pytest
from overworld.authoring.env import Pixels
from overworld.evaluation.openai_client import OpenAIModel
from overworld_vlm import checkpoint
from overworld_vlm.batch import encode
from overworld_vlm.checkpoint import load_checkpoint
from overworld_vlm.engine import Engine
from overworld_vlm.writer import Request

from tests.integration.policy.conftest import Served, serve, start_and_fail


def picture(
    size: tuple[int, int] = (56, 56), kind: str = "PNG", seed: int = 0, label: str | None = None
) -> tuple[str, Pixels]:
    """A data URL. JPEGs may be mislabelled, as harnesses do."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, kind)
    return f"data:image/{label or kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}", pixels


def part(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def text(reply: dict[str, Any]) -> str:
    return reply["choices"][0]["message"]["content"]


def test_models_are_listed_with_what_made_them(served: Served) -> None:
    models = {entry["id"]: entry for entry in served.http.get("/models").json()["data"]}
    assert set(models) == {
        "base", "whole@0", "whole@3", "whole@latest", "adapted@0", "adapted@1", "adapted@2", "adapted@latest",
    }  # fmt: skip
    card = models["whole@3"]["overworld"]
    assert card["recipe"]["history"] == 2
    assert (card["run"], card["update"], card["env_steps"]) == ("whole", 3, 300)
    assert card["provenance"] == {"gym_cards/NumberLine": {"rules": "test"}}
    assert card["envs"] == [{"id": "gym_cards/NumberLine", "options": {"size": 56}}]
    assert models["whole@latest"]["overworld"]["weights"] == card["weights"]
    assert served.http.get("/models/whole@3").json() == models["whole@3"]


def test_models_tell_which_settings_of_their_folders_are_not_applied(copied: Path) -> None:
    def set_sampling(weights: Path, **settings: Any) -> None:
        path = weights / "generation_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | settings))

    base = copied / "adapted" / "checkpoints" / "000000" / "weights"
    set_sampling(base, do_sample=True, temperature=0.01, top_k=1, top_p=1.0, repetition_penalty=None)
    served = serve(copied, f"base={base}")
    try:
        models = {entry["id"]: entry for entry in served.http.get("/models").json()["data"]}
        for name in ("base", "adapted@0", "adapted@1", "adapted@latest"):
            assert models[name]["ignored_generation_config"] == {"temperature": 0.01, "top_k": 1}
        assert "ignored_generation_config" not in models["whole@0"]
        sampled = [text(served.chat(model="base", seed=seed, temperature=None)) for seed in (1, 2)]
        assert sampled[0] != sampled[1], "top_k = 1 was applied"
    finally:
        served.stop()


def test_an_answer_has_all_that_clients_read_and_names_its_weights(served: Served) -> None:
    reply = served.chat()
    assert reply["object"] == "chat.completion"
    assert reply["model"] == "whole@0"
    assert reply["choices"][0]["message"]["role"] == "assistant"
    assert isinstance(text(reply), str)
    assert reply["choices"][0]["finish_reason"] in ("stop", "length")
    usage = reply["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    weights = served.http.get("/models/whole@0").json()["overworld"]["weights"]
    assert reply["system_fingerprint"] == weights


@pytest.mark.parametrize("name", ["whole@0", "whole@3", "adapted@0", "adapted@1", "adapted@2", "base"])
def test_every_model_gives_the_replies_of_its_own_weights(served: Served, name: str) -> None:
    url, pixels = picture()
    content = [{"type": "text", "text": "What is it? "}, part(url)]
    replies = [text(served.chat([{"role": "user", "content": content}], model=name)) for _ in range(2)]
    run, _, update = ("adapted", "", "0") if name == "base" else name.partition("@")
    vlm, _ = load_checkpoint(served.runs / run / "checkpoints" / f"{int(update):06}")
    messages = [{"role": "user", "content": [content[0], {"type": "image", "image": pixels}]}]
    request = Request(encode(vlm, messages), 12, temperature=0)
    Engine(vlm).run([request])
    assert replies == [vlm.tokenizer.decode(request.tokens, skip_special_tokens=True)] * 2


def test_base_and_adapters_of_it_answer_at_the_same_time(served: Served) -> None:
    names = ["base", "adapted@1", "adapted@2", "adapted@0", "whole@0"] * 3
    alone = {name: text(served.chat(model=name, max_tokens=40)) for name in dict.fromkeys(names)}
    assert len({alone["base"], alone["adapted@1"], alone["adapted@2"], alone["whole@0"]}) == 4
    assert alone["base"] == alone["adapted@0"]
    together = {}

    def ask(number: int) -> None:
        together[number] = text(served.chat(model=names[number], max_tokens=40))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(names))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[number] for number in range(len(names))] == [alone[name] for name in names]


def test_more_models_in_use_than_are_to_be_kept_do_not_let_go_of_each_other(runs: Path) -> None:
    served = serve(runs, f"base={runs}/adapted/checkpoints/000000/weights", "max_loaded=1")
    try:
        test_base_and_adapters_of_it_answer_at_the_same_time(served)
    finally:
        served.stop()


def test_shapes_of_messages_that_harnesses_send(served: Served) -> None:
    url, _ = picture(kind="PNG", label="jpeg")
    jpeg, _ = picture(kind="JPEG")
    shapes: list[list[dict[str, Any]]] = [
        [{"role": "user", "content": "text"}],
        [{"role": "system", "content": "You play."}, {"role": "user", "content": [{"type": "text", "text": "now"}]}],
        [{"role": "developer", "content": "You play."}, {"role": "user", "content": "now"}],
        [{"role": "user", "content": "one"}, {"role": "user", "content": "two"}],
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}],
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": None}, {"role": "user", "content": "c"}],
        [{"role": "user", "content": [part(url), {"type": "text", "text": "x"}, part(jpeg)]}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": url}]}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url, "detail": "low"}}]}],
        [{"role": "user", "content": "x", "name": "somebody"}],
    ]
    for messages in shapes:
        assert text(served.chat(messages)) is not None


def test_parameters_that_harnesses_send(served: Served) -> None:
    served.chat(temperature=None, top_p=None, seed=None, n=1, stop=None, stream=False, user="me", unknown={"a": 1})
    assert served.chat(max_tokens=10**9, max_completion_tokens=3)["usage"]["completion_tokens"] <= 3
    assert served.chat(max_tokens=10**9, logit_bias={"2": 100})["choices"][0]["finish_reason"] == "stop"


def test_long_replies_are_cut_and_say_so(served: Served) -> None:
    reply = served.chat(max_tokens=2, temperature=1, seed=1)
    assert reply["choices"][0]["finish_reason"] == "length"
    assert reply["usage"]["completion_tokens"] == 2


def test_sampling_is_keyed_by_the_seed(served: Served) -> None:
    replies = [text(served.chat(temperature=1, seed=seed, max_tokens=30)) for seed in (1, 1, 2, -5, 2**63)]
    assert replies[0] == replies[1]
    assert len(set(replies)) == 4
    unseeded = {text(served.chat(temperature=1, max_tokens=30)) for _ in range(3)}
    assert len(unseeded) == 3


def test_replies_end_before_a_stop_text(served: Served) -> None:
    whole = text(served.chat(temperature=1, seed=3, max_tokens=60))
    stop = whole[len(whole) // 2 : len(whole) // 2 + 2]
    reply = served.chat(temperature=1, seed=3, max_tokens=60, stop=["not in there", stop])
    assert text(reply) == whole[: whole.index(stop)]
    assert reply["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("stop", [None, "mid"])
def test_streams_add_up_to_the_plain_answer(served: Served, stop: str | None) -> None:
    whole = text(served.chat(temperature=1, seed=4, max_tokens=60))
    if stop:
        stop = whole[len(whole) // 2 : len(whole) // 2 + 3]
        whole = whole[: whole.index(stop)]
    body = {
        "model": "whole@0", "messages": [{"role": "user", "content": "Say something."}], "temperature": 1, "seed": 4,
        "max_tokens": 60, "stream": True, "stream_options": {"include_usage": True}, "stop": stop,
    }  # fmt: skip
    with served.http.stream("POST", "/chat/completions", json=body) as response:
        events = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    assert chunks[-1]["usage"]["completion_tokens"] > 0
    choices = [chunk["choices"][0] for chunk in chunks[:-1]]
    assert "".join(choice["delta"].get("content", "") for choice in choices) == whole
    assert choices[-1]["finish_reason"] in ("stop", "length")
    assert all(choice["finish_reason"] is None for choice in choices[:-1])
    assert len(choices) > 5, "it comes bit by bit"


def test_forty_requests_at_once(served: Served) -> None:
    with httpx.Client(base_url=served.url, timeout=120, limits=httpx.Limits(max_connections=40)) as http:
        results: list[dict[str, Any]] = [{}] * 40

        def ask(number: int) -> None:
            url, _ = picture((56, 56 + 28 * (number % 3)), seed=number)
            content = [part(url), {"type": "text", "text": "What? " * (number % 7 + 1)}]
            body = {"model": "whole@0", "messages": [{"role": "user", "content": content}], "temperature": 0}
            results[number] = http.post("/chat/completions", json=body | {"max_tokens": 8}).json()

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert all(isinstance(text(result), str) for result in results)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([], "messages is empty"),
        ([{"role": "user", "content": "x"}] * 500, "500 messages are too many, at most 100"),
        ([{"role": "wizard", "content": "x"}], "messages.0.role"),
        ([{"role": "user", "content": [{"type": "audio", "audio": "x"}]}], 'must be {"type": "text"'),
        ([{"role": "user", "content": [{"type": "text"}]}], 'must be {"type": "text"'),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "no image_url.url"),
        ([{"role": "user", "content": [part("http://example.com/a.png")]}], "nothing is fetched"),
        ([{"role": "user", "content": [part("file:///etc/passwd")]}], "nothing is fetched"),
        ([{"role": "user", "content": [part("data:image/png;base64,!!!!")]}], "not a readable PNG"),
        ([{"role": "user", "content": [part("data:image/png;base64,AAAA")]}], "not a readable PNG"),
        ([{"role": "user", "content": [part(picture()[0][:400])]}], "not a readable PNG"),
        ([{"role": "user", "content": [part(picture((1, 1))[0])] * 5}], "more than 4 images"),
        ([{"role": "user", "content": [part(picture((2, 1000))[0])]}], "aspect ratio"),
        ([{"role": "user", "content": "word " * 20_000}], "shorten it"),
    ],
)
def test_bad_messages_get_an_error_that_says_what_to_do(served: Served, content: Any, says: str) -> None:
    assert says in served.error(content)["message"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": -1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 33}, "n"),
        ({"top_logprobs": 2}, None),
        ({"seed": 1.5}, "seed"),
        ({"stop": 5}, "stop"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"logit_bias": {"5": 101}}, "logit_bias"),
        ({"logit_bias": {"999999": 1}}, "logit_bias"),
        ({"stop_token_ids": [-1]}, "stop_token_ids"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a"}}, "structured_outputs"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": {"type": "yaml"}}, "response_format"),
    ],
)
def test_bad_parameters_are_named(served: Served, fields: dict[str, Any], param: str | None) -> None:
    assert served.error(**fields)["param"] == param


def test_decompression_bombs_are_refused(served: Served) -> None:
    buffer = io.BytesIO()
    PIL.Image.new("1", (20_000, 20_000)).save(buffer, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    started = time.monotonic()
    error = served.error([{"role": "user", "content": [part(url)]}])
    assert "too large" in error["message"] or "not a readable" in error["message"]
    assert time.monotonic() - started < 30


def test_bodies_that_are_no_requests(served: Served) -> None:
    for body in (b"", b"{", b"[]", b"\xff\xfe", b'{"model": "whole@0"}'):
        response = served.http.post("/chat/completions", content=body)
        assert response.status_code == 400
        assert response.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "name", ["", "nobody@0", "whole@7", "whole@-1", "../whole@0", "whole/checkpoints@0", "x" * 5000]
)
def test_unknown_models_are_refused_with_those_that_there_are(served: Served, name: str) -> None:
    error = served.error(model=name, status=404)
    assert error["code"] == "model_not_found"
    assert "whole@latest" in error["message"]
    assert len(error["message"]) < 1000


def test_a_client_that_hangs_up_does_not_keep_its_place(served: Served) -> None:
    body = {"model": "whole@0", "messages": [{"role": "user", "content": "x"}], "temperature": 1, "max_tokens": 1024}
    before = metric(served, "overworld_chats_in_flight")
    with pytest.raises(httpx.ReadTimeout), httpx.Client(base_url=served.url, timeout=0.05) as http:
        for seed in range(50):
            http.post("/chat/completions", json=body | {"seed": seed})
    deadline = time.monotonic() + 60
    while metric(served, "overworld_chats_in_flight") > before:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    served.chat()


def metric(served: Served, name: str) -> float:
    page = httpx.get(served.url.removesuffix("/v1") + "/metrics").text
    return next(float(line.split()[-1]) for line in page.splitlines() if line.startswith(f"{name} "))


def test_health_and_metrics(served: Served) -> None:
    root = served.url.removesuffix("/v1")
    assert httpx.get(f"{root}/health").json() == {"status": "ok"}
    served.chat()
    page = httpx.get(f"{root}/metrics").text
    assert 'overworld_reply_tokens_total{model="whole@0"}' in page
    assert 'overworld_requests_total{path="/v1/chat/completions",status="200"}' in page


def test_a_key_is_asked_for(runs: Path) -> None:
    keyed = serve(runs, OVERWORLD_API_KEY="s3cret")
    try:
        assert keyed.http.get("/models").status_code == 401
        assert keyed.http.get("/models", headers={"Authorization": "Bearer wrong"}).json()["error"]["code"] == (
            "invalid_api_key"
        )
        assert keyed.http.get("/models", headers={"Authorization": "Bearer s3cret"}).status_code == 200
        assert httpx.get(keyed.url.removesuffix("/v1") + "/health").status_code == 200
    finally:
        keyed.stop()


def test_a_client_learns_with_which_options_a_model_was_trained(served: Served) -> None:
    with OpenAIModel(served.url, "whole@3") as model:
        assert model.options("gym_cards/NumberLine") == {"size": 56}
        assert model.options("gym_cards/EZPoints") == {}
    with OpenAIModel(served.url, "base") as model:
        assert model.options("gym_cards/NumberLine") == {}


def test_a_folder_of_runs_that_is_not_there_is_named(tmp_path: Path) -> None:
    said = start_and_fail(f"runs={tmp_path / 'nowhere'}")
    assert "nowhere is not there, or user" in said
    assert "mount the volume" in said


def test_any_key_will_do_where_none_is_set(served: Served) -> None:
    assert served.http.get("/models", headers={"Authorization": "Bearer EMPTY"}).status_code == 200


def test_servers_that_cannot_start_say_why_in_one_line(served: Served) -> None:
    assert "without a key" in start_and_fail("host=0.0.0.0")
    assert "prot" in start_and_fail("prot=8000")
    assert "in use" in start_and_fail(f"runs={served.runs}", f"port={served.url.split(':')[2].removesuffix('/v1')}")


def test_the_latest_checkpoint_is_served_without_a_restart(copied: Path) -> None:
    served = serve(copied)
    try:
        before = served.chat(model="whole@latest")["system_fingerprint"]
        checkpoints = copied / "whole" / "checkpoints"
        (checkpoints / "000003").rename(checkpoints / "000009")
        manifest = (checkpoints / "000009" / "manifest.json").read_text()
        (checkpoints / "000009" / "manifest.json").write_text(manifest.replace('"update": 3', '"update": 9'))
        assert served.chat(model="whole@9")["system_fingerprint"] == before
        (checkpoints / "000009").rename(checkpoints / ".gone")
        after = served.chat(model="whole@latest")["system_fingerprint"]
        assert after == served.chat(model="whole@0")["system_fingerprint"] != before
    finally:
        served.stop()


def test_the_best_checkpoint_is_the_one_that_the_run_marked(copied: Path) -> None:
    checkpoints = copied / "whole" / "checkpoints"
    served = serve(copied)
    try:
        assert "whole@latest" in served.error(model="whole@best", status=404)["message"]
        prints = {update: served.chat(model=f"whole@{update}")["system_fingerprint"] for update in (0, 3)}
        for update in (0, 3):
            checkpoint.mark_best(checkpoints, f"{update:06}")
            assert served.chat(model="whole@best")["system_fingerprint"] == prints[update]
            models = {entry["id"]: entry["overworld"] for entry in served.http.get("/models").json()["data"]}
            assert models["whole@best"] == models[f"whole@{update}"]
            assert "adapted@best" not in models
        for nonsense in ("000009", "../../adapted/checkpoints/000001", "", "0" * 1000):
            (checkpoints / "best").write_text(nonsense)
            served.error(model="whole@best", status=404)
    finally:
        served.stop()


def test_damaged_checkpoints_are_refused_and_the_others_go_on(copied: Path) -> None:
    weights = copied / "whole" / "checkpoints" / "000003" / "weights" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    (copied / "adapted" / "checkpoints" / "000001" / "manifest.json").write_text("{")
    base = copied / "adapted" / "checkpoints" / "000000" / "weights" / "model.safetensors"
    base.write_bytes(base.read_bytes()[:100])
    served = serve(copied)
    try:
        names = {entry["id"] for entry in served.http.get("/models").json()["data"]}
        assert "adapted@1" not in names
        assert "model.safetensors has changed" in served.error(model="whole@3", status=404)["message"]
        assert "not the one" in served.error(model="adapted@2", status=404)["message"]
        served.chat(model="whole@0")
    finally:
        served.stop()


def test_more_models_than_memory_holds_take_turns(runs: Path) -> None:
    served = serve(runs, "max_loaded=1")
    try:
        names = ["whole@0", "adapted@1", "whole@3", "adapted@2", "adapted@1", "whole@0"]
        replies = [text(served.chat(model=name, max_tokens=30)) for name in names]
        assert replies[0] == replies[5]
        assert replies[1] == replies[4] != replies[3]
    finally:
        served.stop()


def test_bounds_of_image_sizes_are_applied(served: Served) -> None:
    url, _ = picture((280, 280))
    large = served.chat([{"role": "user", "content": [part(url)]}])["usage"]["prompt_tokens"]
    bounded = serve(served.runs, "max_pixels=3136")
    try:
        small = bounded.chat([{"role": "user", "content": [part(url)]}])["usage"]["prompt_tokens"]
    finally:
        bounded.stop()
    assert large - small == 100 - 4


def test_sigterm_finishes_requests_in_flight(runs: Path) -> None:
    served = serve(runs)
    served.chat()
    answer = {}

    def ask() -> None:
        answer["text"] = text(served.chat(max_tokens=600, temperature=1, seed=1))

    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(0.3)
    served.process.send_signal(signal.SIGTERM)
    thread.join()
    assert served.process.wait(15) == 0
    assert answer["text"]
    served.stop()
