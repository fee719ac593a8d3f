"""What evaluation harnesses send, as `harnesses/record.py` recorded it, and what they read out of the answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.policy.conftest import Served

_RECORDINGS = Path(__file__).parent / "harnesses"

Answer = dict[str, Any]


def content(answer: Answer) -> str:
    """`choices[0].message.content`: a text, never null, and no failure that a harness would score as a reply."""
    text = answer["choices"][0]["message"]["content"]
    assert isinstance(text, str)
    assert text
    return text


def read_by_balrog(answer: Answer) -> None:
    """`OpenAIWrapper.generate`: text, reason of the end, name of the model and both counts of tokens."""
    content(answer)
    assert answer["choices"][0]["finish_reason"] in ("stop", "length")
    assert answer["model"] == "whole@0"
    assert answer["usage"]["prompt_tokens"] > 0
    assert answer["usage"]["completion_tokens"] > 0


def read_by_lmms_eval(answer: Answer) -> None:
    """`process_single_request`: text and, for its summary of usage, the counts."""
    content(answer)
    usage = answer["usage"]
    assert usage["prompt_tokens"] + usage["completion_tokens"] == usage["total_tokens"]
    assert usage["completion_tokens"] <= 16  # what VSI-Bench and VisualWebBench ask for


def read_by_vlmevalkit(answer: Answer) -> None:
    """`LMDeployWrapper.generate_inner`: the text, stripped."""
    content(answer).strip()


def read_by_visualwebbench(answer: Answer) -> None:
    """`OpenAIAdapter.generate`: the text; whatever raises becomes an empty reply."""
    content(answer)


READERS: dict[str, Callable[[Answer], None]] = {
    "balrog": read_by_balrog,
    "lmms_eval": read_by_lmms_eval,
    "vlmevalkit": read_by_vlmevalkit,
    "visualwebbench": read_by_visualwebbench,
}


def recorded(harness: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (_RECORDINGS / f"{harness}.jsonl").read_text().splitlines()]


def images(body: dict[str, Any]) -> int:
    return sum("image_url" in part for message in body["messages"] for part in message["content"])


def replay(served: Served, request: dict[str, Any], **changes: Any) -> httpx.Response:
    """Sends a recorded request, with the name of a model that there is, and `changes` to its body."""
    url = served.url.removesuffix("/v1") + request["path"]
    body = request["body"] | {"model": "whole@0"} | changes
    return httpx.request(request["method"], url, headers=request["headers"], json=body, timeout=60)


@pytest.mark.parametrize("harness", READERS)
def test_a_harness_reads_what_it_needs(served: Served, harness: str) -> None:
    requests = recorded(harness)
    assert any(images(request["body"]) for request in requests)
    for request in requests:
        answer = replay(served, request, seed=1, max_tokens=min(request["body"]["max_tokens"], 16))
        assert answer.status_code == 200, answer.text
        assert "Overworld-Ignored-Fields" not in answer.headers
        READERS[harness](answer.json())
        without = {**request, "body": {**request["body"], "messages": _without_images(request["body"]["messages"])}}
        if images(request["body"]):
            assert (
                replay(served, without, max_tokens=1).json()["usage"]["prompt_tokens"]
                < answer.json()["usage"]["prompt_tokens"]
            )


def test_balrog_asks_for_more_tokens_than_there_is_room_for(served: Served) -> None:
    (request,) = [request for request in recorded("balrog") if request["body"]["max_tokens"] == 8192]
    assert replay(served, request, stop=" ").status_code == 200


def test_balrogs_plans_are_messages_of_the_assistant(served: Served) -> None:
    roles = [[message["role"] for message in request["body"]["messages"]] for request in recorded("balrog")]
    assert roles[0] == ["user", "user"]
    assert roles[1] == ["user", "assistant", "user"]


def _without_images(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {**message, "content": [part for part in message["content"] if "image_url" not in part]} for message in messages
    ]
