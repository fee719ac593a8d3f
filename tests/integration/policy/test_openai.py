"""The openai package, which most harnesses use, against the policy server."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from pydantic import BaseModel

from tests.integration.policy.conftest import Served, serve
from tests.integration.policy.test_api import picture


@pytest.fixture(scope="module")
def guarded(runs: Path) -> Iterator[Served]:
    served = serve(runs, "max_waiting=2", OVERWORLD_API_KEY="secret")
    yield served
    served.stop()


def client(served: Served, key: str = "any") -> openai.OpenAI:
    return openai.OpenAI(base_url=served.url, api_key=key, max_retries=0, timeout=60)


class Move(BaseModel):
    action: str


def test_a_chat_with_a_picture(served: Served) -> None:
    url, _ = picture()
    reply = client(served).chat.completions.create(
        model="whole@0",
        messages=[
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What now?"}],
            }
        ],
        max_completion_tokens=8,
        temperature=1,
        seed=1,
        n=2,
        logprobs=True,
        top_logprobs=2,
    )
    assert [choice.index for choice in reply.choices] == [0, 1]
    assert reply.usage is not None
    for choice in reply.choices:
        assert choice.finish_reason in ("stop", "length")
        assert choice.logprobs is not None
        assert choice.logprobs.content is not None
        assert all(len(token.top_logprobs) == 2 for token in choice.logprobs.content)


def test_streams(served: Served) -> None:
    asked = {"model": "whole@0", "messages": [{"role": "user", "content": "Go."}], "max_tokens": 8, "temperature": 0}
    with client(served) as opened:
        plain = opened.chat.completions.create(**asked)  # type: ignore[call-overload]
        parts = list(opened.chat.completions.create(**asked, stream=True))  # type: ignore[call-overload]

    async def stream() -> str:
        async with openai.AsyncOpenAI(base_url=served.url, api_key="any", max_retries=0) as opened:
            events = await opened.chat.completions.create(**asked, stream=True)  # type: ignore[call-overload]
            return "".join([event.choices[0].delta.content or "" async for event in events])

    text = plain.choices[0].message.content
    assert "".join(part.choices[0].delta.content or "" for part in parts) == text
    assert asyncio.run(stream()) == text


def test_json_of_a_schema_is_parsed(served: Served) -> None:
    reply = client(served).chat.completions.parse(
        model="whole@0",
        messages=[{"role": "user", "content": "Go."}],
        response_format=Move,
        max_tokens=400,
        temperature=1,
        seed=1,
        logit_bias={"40": 5},
    )
    choice = reply.choices[0]
    assert choice.finish_reason == "length" or isinstance(choice.message.parsed, Move)


def test_models(served: Served) -> None:
    with client(served) as opened:
        assert "whole@latest" in [model.id for model in opened.models.list()]
        assert opened.models.retrieve("whole@3").id == "whole@3"


def test_errors_are_of_the_classes_that_clients_catch(served: Served, guarded: Served) -> None:
    messages: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "Go."}]
    with client(served) as opened:
        with pytest.raises(openai.BadRequestError, match="tools is not offered"):
            opened.chat.completions.create(
                model="whole@0",
                messages=messages,
                tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}],
            )
        with pytest.raises(openai.NotFoundError, match="there is no model"):
            opened.chat.completions.create(model="nobody", messages=messages)
    with client(guarded, "wrong") as opened, pytest.raises(openai.AuthenticationError):
        opened.chat.completions.create(model="whole@0", messages=messages)
    with client(guarded, "secret") as opened, pytest.raises(openai.RateLimitError) as refused:
        opened.chat.completions.create(model="whole@0", messages=messages, n=3)
    assert refused.value.response.headers["retry-after"] == "1"
