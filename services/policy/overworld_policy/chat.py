"""Answers a chat request: encodes it, has the reply written, and puts it into OpenAI's form."""

from __future__ import annotations

import asyncio
import json
import os
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from overworld_vlm.batch import Prompt, PromptError, encode
from overworld_vlm.load import VLM, ModelError
from overworld_vlm.writer import Request
from transformers import PreTrainedTokenizerBase

from overworld_policy.config import PolicyServerConfig
from overworld_policy.decoder import Decoder
from overworld_policy.errors import ApiError, bad_request
from overworld_policy.messages import ChatRequest, read_messages
from overworld_policy.metrics import Metrics
from overworld_policy.models import Models

_UNFINISHED = "\ufffd"
_T = TypeVar("_T")


class Chat:
    """One request on its way: use as an async context, which keeps its model in memory. Raises ApiError on entry."""

    def __init__(self, service: ChatService, request: ChatRequest) -> None:
        self._service = service
        self._chat = request
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._stops = [request.stop] if isinstance(request.stop, str) else request.stop or []
        self._id = f"chatcmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())

    async def __aenter__(self) -> Chat:
        service = self._service
        model = await asyncio.to_thread(service.models.find, self._chat.model)
        messages = await service.encode(lambda: read_messages(self._chat, service.config))
        try:
            self._loaded = await asyncio.wrap_future(service.decoder.use(model))
        except ModelError as error:
            raise ApiError(404, str(error), code="model_unusable", param="model") from None
        try:
            prompt = await service.encode(lambda: _encode(self._loaded.vlm, messages))
            self._request = self._make_request(prompt)
            service.decoder.write(self._loaded, self._request, self._on_tokens)
        except BaseException:
            service.decoder.release(self._loaded)
            raise
        service.metrics.prompt_tokens.labels(self._chat.model).inc(len(prompt))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._request.cancelled = True  # does nothing to a finished one
        self._service.decoder.release(self._loaded)
        self._service.metrics.reply_tokens.labels(self._chat.model).inc(len(self._request.tokens))

    async def finished(self) -> None:
        """Waits until the reply is written."""
        while self._request.finish is None:
            self._changed.clear()
            await self._changed.wait()
        if self._request.finish == "cancelled":
            raise ApiError(500, "the model failed while it wrote this reply; see the server's log", code="model_failed")

    def response(self) -> dict[str, Any]:
        """The body of a plain answer."""
        message = {"role": "assistant", "content": self._text()}
        choice = {"index": 0, "message": message, "finish_reason": self._request.finish, "logprobs": None}
        return {**self._head("chat.completion"), "choices": [choice], "usage": self._usage()}

    async def stream(self) -> AsyncIterator[str]:
        """The server-sent events of a streamed answer."""
        yield self._event({"role": "assistant", "content": ""}, None)
        sent = 0
        while True:
            self._changed.clear()
            finish = self._request.finish
            text = self._text()
            # A character may take several tokens; a stop text may be about to appear.
            ready = len(text) if finish else len(text.rstrip(_UNFINISHED)) - self._held_back(text)
            if ready > sent:
                yield self._event({"content": text[sent:ready]}, None)
                sent = ready
            if finish is not None:
                break
            await self._changed.wait()
        yield self._event({}, "stop" if finish == "cancelled" else finish)
        options = self._chat.stream_options
        if options is not None and options.include_usage:
            yield _sse({**self._head("chat.completion.chunk"), "choices": [], "usage": self._usage()})
        yield "data: [DONE]\n\n"

    def _make_request(self, prompt: Prompt) -> Request:
        chat, config = self._chat, self._service.config
        room = self._loaded.vlm.max_length - len(prompt)
        if room < 1:
            raise bad_request(
                f"the prompt has {len(prompt)} tokens, the model takes {self._loaded.vlm.max_length} with the reply; "
                "shorten it or send fewer or smaller images",
                code="context_length_exceeded",
                param="messages",
            )
        wanted = chat.max_completion_tokens or chat.max_tokens or config.max_tokens
        seed = chat.seed if chat.seed is not None else int.from_bytes(os.urandom(8), "little")
        return Request(
            prompt,
            min(wanted, config.max_tokens, room),
            key=(seed,),
            temperature=1.0 if chat.temperature is None else chat.temperature,
            top_p=1.0 if chat.top_p is None else chat.top_p,
            stop=self._meets_stop if self._stops else None,
        )

    def _on_tokens(self, request: Request) -> None:
        """On the decoder's thread."""
        if request.finish is not None or self._chat.stream:
            self._loop.call_soon_threadsafe(self._changed.set)

    def _meets_stop(self, tokens: Sequence[int]) -> bool:
        text = self._decode(tokens)
        return any(stop in text for stop in self._stops)

    def _held_back(self, text: str) -> int:
        """Length of the text's end that may be the beginning of a stop text."""
        lengths = (
            size for stop in self._stops for size in range(min(len(stop) - 1, len(text)), 0, -1)
            if text.endswith(stop[:size])
        )  # fmt: skip
        return max(lengths, default=0)

    def _text(self) -> str:
        """The reply so far, up to the first stop text."""
        text = self._decode(list(self._request.tokens))
        ends = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        return text[: min(ends)] if ends else text

    def _decode(self, tokens: Sequence[int]) -> str:
        tokenizer: PreTrainedTokenizerBase = self._loaded.vlm.tokenizer
        text: str = tokenizer.decode(tokens, skip_special_tokens=True)
        return text

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._chat.model,
            "system_fingerprint": self._loaded.fingerprint,
        }

    def _usage(self) -> dict[str, int]:
        prompt, reply = len(self._request.prompt), len(self._request.tokens)
        return {"prompt_tokens": prompt, "completion_tokens": reply, "total_tokens": prompt + reply}

    def _event(self, delta: dict[str, Any], finish: str | None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return _sse({**self._head("chat.completion.chunk"), "choices": [choice]})


class ChatService:
    """What all chats share."""

    def __init__(self, config: PolicyServerConfig, metrics: Metrics) -> None:
        self.config = config
        self.metrics = metrics
        self.models = Models(config)
        self.decoder = Decoder(config)
        # One thread: fast tokenizers are not safe to call from several at once.
        self._encoder = ThreadPoolExecutor(1, "encoder")

    async def encode(self, work: Callable[[], _T]) -> _T:
        """Runs `work` on the thread for images and tokens."""
        return await asyncio.get_running_loop().run_in_executor(self._encoder, work)

    def close(self) -> None:
        """Ends the threads."""
        self.decoder.close()
        self._encoder.shutdown()


def _encode(vlm: VLM, messages: Sequence[dict[str, Any]]) -> Prompt:
    try:
        return encode(vlm, messages)
    except PromptError as error:
        raise bad_request(str(error), param="messages") from None


def _sse(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content)}\n\n"
