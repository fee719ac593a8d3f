"""What requests may ask of sampling, beyond a temperature: as OpenAI and vLLM name it."""

import json
import math
import time
from collections import Counter
from typing import Any

import pytest
import torch
from overworld_policy import fields
from overworld_policy.messages import ChatRequest
from overworld_vlm.batch import encode
from overworld_vlm.checkpoint import load_checkpoint
from overworld_vlm.engine import Engine
from overworld_vlm.load import VLM
from overworld_vlm.score import score
from overworld_vlm.writer import Request

from tests.integration.policy.conftest import Served

SAY = [{"role": "user", "content": "Say something."}]


@pytest.fixture(scope="module")
def vlm(served: Served) -> VLM:
    return load_checkpoint(served.runs / "whole" / "checkpoints" / "000000")[0]


def texts(reply: dict[str, Any]) -> list[str]:
    return [choice["message"]["content"] for choice in reply["choices"]]


def ids(reply: dict[str, Any]) -> list[int]:
    return reply["choices"][0]["token_ids"]


def events(served: Served, **asked: Any) -> list[dict[str, Any]]:
    body = {"model": "whole@0", "messages": SAY, "max_tokens": 12, "stream": True} | asked
    lines = served.http.post("/chat/completions", json=body).text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]


@pytest.mark.parametrize("temperature", [0, 0.7, 1])
def test_log_probs_are_those_that_the_trainer_would_compute(served: Served, vlm: VLM, temperature: float) -> None:
    reply = served.chat(
        temperature=temperature, seed=3, max_tokens=30, logprobs=True, top_logprobs=3, return_token_ids=True,
        top_p=0.9, top_k=40, presence_penalty=0.5,
    )  # fmt: skip
    prompt = encode(vlm, SAY)
    assert reply["prompt_token_ids"] == prompt.ids.tolist()
    said = reply["choices"][0]["logprobs"]["content"]
    assert len(said) == len(ids(reply)) == reply["usage"]["completion_tokens"]
    with torch.no_grad():
        scored = score(vlm, [prompt], [torch.tensor(ids(reply))], temperature=temperature or 1.0).logps[0]
    assert [token["logprob"] for token in said] == pytest.approx(scored.tolist(), abs=1e-5)
    for token in said:
        best = [one["logprob"] for one in token["top_logprobs"]]
        assert len(best) == 3
        assert best == sorted(best, reverse=True)
        assert token["logprob"] <= best[0]
        assert token["bytes"] is None or bytes(token["bytes"]).decode() == token["token"]


def test_several_replies_are_each_what_they_would_be_alone(served: Served, vlm: VLM) -> None:
    reply = served.chat(n=8, temperature=1, seed=5, return_token_ids=True)
    assert [choice["index"] for choice in reply["choices"]] == list(range(8))
    assert len(set(texts(reply))) > 4
    prompt = encode(vlm, SAY)
    alone = [Request(prompt, 12, key=(5, index) if index else (5,)) for index in range(8)]
    for request in alone:
        Engine(vlm).run([request])
    assert [choice["token_ids"] for choice in reply["choices"]] == [request.tokens for request in alone]
    assert reply["usage"]["completion_tokens"] == sum(len(request.tokens) for request in alone)
    assert texts(reply)[0] == texts(served.chat(temperature=1, seed=5))[0]


def test_several_streamed_replies_add_up_to_the_plain_ones(served: Served) -> None:
    asked: dict[str, Any] = {"n": 3, "temperature": 1, "seed": 2, "logprobs": True, "return_token_ids": True}
    plain = served.chat(**asked)
    streamed: list[dict[str, Any]] = [{"content": "", "token_ids": [], "logprobs": []} for _ in range(3)]
    for event in events(served, **asked, stream_options={"include_usage": True}):
        for choice in event["choices"]:
            one = streamed[choice["index"]]
            one["content"] += choice["delta"].get("content", "")
            one["token_ids"] += choice.get("token_ids", [])
            one["logprobs"] += (choice.get("logprobs") or {"content": []})["content"]
            one["finish"] = choice["finish_reason"]
    for one, choice in zip(streamed, plain["choices"], strict=True):
        assert one["content"] == choice["message"]["content"]
        assert one["token_ids"] == choice["token_ids"]
        assert one["logprobs"] == choice["logprobs"]["content"]
        assert one["finish"] == choice["finish_reason"]
    assert event["usage"] == plain["usage"]


def test_top_k_of_one_is_greedy_and_min_p_cuts_what_is_unlikely(served: Served) -> None:
    greedy = texts(served.chat(temperature=0))
    assert texts(served.chat(temperature=1, seed=1, top_k=1)) == greedy
    assert texts(served.chat(temperature=1, seed=1, min_p=1)) == greedy
    free = served.chat(temperature=1, seed=1, return_token_ids=True, max_tokens=40)
    neutral: list[dict[str, Any]] = [
        {"top_k": 0},
        {"top_k": -1},
        {"min_p": 0},
        {"presence_penalty": 0, "frequency_penalty": 0, "repetition_penalty": 1},
    ]
    for off in neutral:
        assert ids(served.chat(temperature=1, seed=1, return_token_ids=True, max_tokens=40, **off)) == ids(free)


def test_penalties_and_biases_change_what_is_likely(served: Served) -> None:
    asked: dict[str, Any] = {"temperature": 0, "max_tokens": 30, "return_token_ids": True}
    plain = Counter(ids(served.chat(**asked)))
    often, times = plain.most_common(1)[0]
    assert times > 5
    for penalty in ("frequency_penalty", "presence_penalty", "repetition_penalty"):
        assert Counter(ids(served.chat(**(asked | {penalty: 2}))))[often] < times, penalty
    assert often not in ids(served.chat(**asked, logit_bias={str(often): -100}))
    assert set(ids(served.chat(**asked, logit_bias={"40": 100}))) == {40}


def test_what_may_end_a_reply(served: Served, vlm: VLM) -> None:
    asked: dict[str, Any] = {"temperature": 0, "max_tokens": 30, "return_token_ids": True}
    eos = min(vlm.eos_ids)
    ended = served.chat(**asked, logit_bias={str(eos): 100})
    assert ids(ended) == [eos]
    assert (texts(ended), ended["choices"][0]["finish_reason"]) == ([""], "stop")
    late = served.chat(**asked, logit_bias={str(eos): 100}, min_tokens=7)
    assert len(ids(late)) == 8
    plain = ids(served.chat(**asked))
    stopped = served.chat(**asked, stop_token_ids=[plain[3]])
    assert ids(stopped) == plain[: plain.index(plain[3]) + 1]
    assert stopped["choices"][0]["finish_reason"] == "stop"


def test_a_choice_is_one_of_its_texts(served: Served) -> None:
    choices = ["north", 'say "hello"', "größer\n", "n"]
    seen = set()
    for seed in range(12):
        reply = served.chat(temperature=1, seed=seed, max_tokens=40, structured_outputs={"choice": choices})
        assert reply["choices"][0]["finish_reason"] == "stop"
        seen.add(texts(reply)[0])
    assert seen <= set(choices)
    assert len(seen) > 1


SCHEMA = {
    "type": "object",
    "properties": {"thoughts": {"type": "string", "maxLength": 10}, "action": {"enum": ["+", "-"]}},
    "required": ["thoughts", "action"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    "asked",
    [
        {"response_format": {"type": "json_schema", "json_schema": {"name": "act", "schema": SCHEMA, "strict": True}}},
        {"structured_outputs": {"json": SCHEMA}},
    ],
)
def test_json_follows_its_schema(served: Served, asked: dict[str, Any]) -> None:
    reply = served.chat(temperature=1, seed=1, n=4, max_tokens=200, **asked)
    for text in texts(reply):
        said = json.loads(text)
        assert set(said) == {"thoughts", "action"}
        assert said["action"] in "+-"
        assert len(said["thoughts"]) <= 10
    streamed = events(served, temperature=1, seed=1, max_tokens=200, **asked)
    text = "".join(choice["delta"].get("content", "") for event in streamed for choice in event["choices"])
    assert text == texts(reply)[0]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"structured_outputs": {"json": {"type": "nonsense"}}}, "nonsense"),
        ({"structured_outputs": {"json": {"enum": ["x" * 70_000]}}}, "65,536"),
        ({"structured_outputs": {"choice": ["a"], "json": {}}}, "exclude each other"),
        ({"structured_outputs": {"json": {"$ref": "#"}}}, "cannot be followed"),
    ],
)
def test_grammars_that_cannot_be_followed_are_refused_soon(served: Served, asked: dict[str, Any], says: str) -> None:
    began = time.perf_counter()
    assert says in served.error(**asked)["message"]
    assert time.perf_counter() - began < 30


def test_fields_that_are_not_offered_are_refused_unless_they_ask_for_nothing(served: Served) -> None:
    neutral: dict[str, Any] = {name: values[0] for name, values in fields.NEUTRAL.items() if values}
    plain = texts(served.chat())
    unsaid: dict[str, Any] = dict.fromkeys(fields.NEUTRAL)
    for ignored in (neutral, unsaid, dict.fromkeys(fields.WITHOUT_EFFECT, "anything")):
        assert texts(served.chat(**ignored)) == plain
    for name in fields.NEUTRAL:
        wrong: dict[str, Any] = {name: ["what would change the reply"]}
        error = served.error(**wrong)
        assert (error["param"], "not offered" in error["message"]) == (name, True)


def test_fields_that_nobody_knows_are_named(served: Served) -> None:
    body = {"model": "whole@0", "messages": SAY, "max_tokens": 2, "temprature": 0, "größe": 1}
    answer = served.http.post("/chat/completions", json=body)
    assert json.loads(answer.headers["Overworld-Ignored-Fields"]) == ["temprature", "größe"]
    known = {name: value for name, value in body.items() if name in ChatRequest.model_fields}
    assert "Overworld-Ignored-Fields" not in served.http.post("/chat/completions", json=known).headers
    error = served.error(temprature=0, strict=True)
    assert "temprature" in error["message"]


def test_replies_may_be_as_long_as_the_context_and_have_a_length_of_their_own(served: Served, vlm: VLM) -> None:
    endless: dict[str, Any] = {"logit_bias": {str(min(vlm.eos_ids)): -100}}
    long = [{"role": "user", "content": "1" * (vlm.max_length - 100)}]
    reply = served.chat(long, max_tokens=10**9, **endless)
    assert reply["usage"]["total_tokens"] == vlm.max_length
    assert reply["choices"][0]["finish_reason"] == "length"
    assert served.chat(max_tokens=None, **endless)["usage"]["completion_tokens"] == 20


def test_tokens_of_a_prompt(served: Served, vlm: VLM) -> None:
    url = served.url.removesuffix("/v1")
    answer = served.http.post(f"{url}/tokenize", json={"model": "whole@0", "messages": SAY}).json()
    prompt = encode(vlm, SAY).ids.tolist()
    assert answer == {"count": len(prompt), "max_model_len": vlm.max_length, "tokens": prompt}


def test_the_openapi_document_describes_the_body(served: Served) -> None:
    document = served.http.get(f"{served.url.removesuffix('/v1')}/openapi.json").json()
    body = document["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert set(ChatRequest.model_fields) == set(body["properties"])
    assert math.isclose(body["properties"]["top_p"]["anyOf"][0]["maximum"], 1)
