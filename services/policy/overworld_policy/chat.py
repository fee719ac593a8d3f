"""Answers chat requests: encodes them, has the replies written, and puts them into OpenAI's form."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from overworld_vlm.batch import Prompt, PromptError, PromptTooLongError, encode
from overworld_vlm.load import VLM, ModelError
from overworld_vlm.writer import Request
from transformers import PreTrainedTokenizerBase

from overworld_policy.config import PolicyServerConfig
from overworld_policy.decoder import Decoder, DecoderDiedError, Loaded
from overworld_policy.errors import ApiError, bad_request
from overworld_policy.messages import ChatRequest, ReadMessages, read_messages
from overworld_policy.metrics import Metrics
from overworld_policy.models import Model, Models

_UNFINISHED = "\ufffd"
_PROBE_SECONDS = 10.0
_MIN_TEMPERATURE = 1e-3
_ENCODERS = 3
_LARGE_TEXT = 32_768
_LARGE_PIXELS = 4_000_000
_LARGE_WAITING = 16
_CHARACTERS_PER_TOKEN = 16
"""Texts with more of them than this on average are refused without being tokenised."""

_SMALL_BYTES = 1 << 20
_LARGE_BODIES = 2
"""What requests take beyond the size of a small one is, for all together, at most that of so many of the largest."""
_T = TypeVar("_T")


class Chat:
    """A reply that is being written, in OpenAI's form."""

    def __init__(self, asked: ChatRequest, loaded: Loaded, prompt: Prompt, config: PolicyServerConfig) -> None:
        self._asked = asked
        self._loaded = loaded
        stops = [asked.stop] if isinstance(asked.stop, str) else asked.stop or []
        self._stops = [stop for stop in stops if stop]  # an empty one would end every reply before it begins
        self._id = f"chatcmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.request = self._engine_request(prompt, config)
        """What the engine works on."""

    def __repr__(self) -> str:
        return f"Chat({self._id}, {self._asked.model}, {len(self.request.tokens)} tokens, {self.request.finish})"

    async def finished(self) -> None:
        """Waits until the reply is written."""
        while self.request.finish is None:
            self._changed.clear()
            await self._changed.wait()
        if self.request.finish == "cancelled":
            raise _model_failed()

    def response(self) -> dict[str, Any]:
        """The body of a plain answer."""
        message = {"role": "assistant", "content": self._text()}
        choice = {"index": 0, "message": message, "finish_reason": self.request.finish, "logprobs": None}
        return {**self._head("chat.completion"), "choices": [choice], "usage": self._usage()}

    async def stream(self) -> AsyncIterator[str]:
        """The server-sent events of a streamed answer."""
        yield self._event({"role": "assistant", "content": ""}, None)
        sent = 0
        while True:
            self._changed.clear()
            finish = self.request.finish
            text = self._text()
            # A character may take several tokens; a stop text may be about to appear.
            ready = len(text) if finish else len(text.rstrip(_UNFINISHED)) - self._held_back(text)
            if ready > sent:
                yield self._event({"content": text[sent:ready]}, None)
                sent = ready
            if finish is not None:
                break
            await self._changed.wait()
        if finish == "cancelled":  # without the end of a whole stream: half a reply must not pass for one
            yield _sse(_model_failed().body)
            return
        yield self._event({}, finish)
        options = self._asked.stream_options
        if options is not None and options.include_usage:
            yield _sse({**self._head("chat.completion.chunk"), "choices": [], "usage": self._usage()})
        yield "data: [DONE]\n\n"

    def _engine_request(self, prompt: Prompt, config: PolicyServerConfig) -> Request:
        asked = self._asked
        room = self._loaded.vlm.max_length - len(prompt)
        wanted = asked.max_completion_tokens or asked.max_tokens or config.max_tokens
        seed = asked.seed if asked.seed is not None else int.from_bytes(os.urandom(8), "little")
        return Request(
            prompt,
            min(wanted, config.max_tokens, room),
            key=(seed,),
            temperature=_temperature(asked.temperature),
            top_p=1.0 if asked.top_p is None else asked.top_p,
            stop=self._meets_stop if self._stops else None,
        )

    def on_tokens(self, request: Request) -> None:
        """Called on the decoder's thread after each token."""
        if request.finish is not None or self._asked.stream:
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
        text = self._decode(list(self.request.tokens))
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
            "model": self._asked.model,
            "system_fingerprint": self._loaded.fingerprint,
        }

    def _usage(self) -> dict[str, int]:
        prompt, reply = len(self.request.prompt), len(self.request.tokens)
        return {"prompt_tokens": prompt, "completion_tokens": reply, "total_tokens": prompt + reply}

    def _event(self, delta: dict[str, Any], finish: str | None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return _sse({**self._head("chat.completion.chunk"), "choices": [choice]})


class Place:
    """A place among the requests in flight, which holds some bytes."""

    def __init__(self, service: ChatService) -> None:
        self._service = service
        self.bytes = 0

    def hold(self, size: int) -> None:
        """Holds that many bytes from now on. Raises ApiError if large requests hold too many together."""
        grown = max(size - _SMALL_BYTES, 0) - self.bytes
        self._service.hold(grown)
        self.bytes += grown


class ChatService:
    """What all chats share: the models, the decoder, and the threads that encode prompts."""

    def __init__(self, config: PolicyServerConfig, metrics: Metrics, on_death: Callable[[], None]) -> None:
        self.models = Models(config)
        self._config = config
        self._metrics = metrics
        self._decoder = Decoder(config, on_death)
        metrics.models_loaded.set_function(lambda: len(self._decoder.loaded()))
        metrics.models_used.set_function(lambda: sum(loaded.users for loaded in self._decoder.loaded()))
        self._in_flight = 0
        self._held: Counter[str] = Counter()
        self._bytes = 0
        self._probe: asyncio.Future[None] | None = None
        self._probed = 0.0
        # Several threads may call a fast tokenizer at once as long as none changes its truncation or padding.
        self._encoder = ThreadPoolExecutor(_ENCODERS, "encoder")
        self._large_encoder = ThreadPoolExecutor(1, "large encoder")
        self._large_waiting = 0

    @contextlib.contextmanager
    def admission(self, client: str) -> Iterator[Place]:
        """A place among the requests in flight, held while this lasts.

        Raises ApiError when all are taken, or those of the client.
        """
        if self._in_flight >= self._config.max_waiting:
            raise ApiError(429, f"{self._in_flight} requests are in flight; try again soon", code="too_many_requests")
        bound, held = self._config.max_waiting_per_client, self._held[client]
        if client and bound is not None and held >= bound:
            message = f"{client} has {held} requests in flight, of {bound} at most; try again when one is answered"
            raise ApiError(429, message, code="quota_exceeded")
        self._held[client] += 1
        self._in_flight += 1
        self._metrics.in_flight.set(self._in_flight)
        place = Place(self)
        try:
            yield place
        finally:
            self._bytes -= place.bytes
            self._held[client] -= 1
            self._in_flight -= 1
            self._metrics.in_flight.set(self._in_flight)

    def hold(self, grown: int) -> None:
        """Counts the bytes of large requests. Raises ApiError if there are too many."""
        if self._bytes + grown > self._config.max_request_bytes * _LARGE_BODIES:
            raise ApiError(429, "too many large requests are in flight; try again soon", code="too_many_requests")
        self._bytes += grown

    async def check(self) -> None:
        """Passes a job through the decoder, one for all who ask meanwhile. Raises ApiError if it does not come back."""
        if self._probe is None or self._probe.done():
            self._probe = asyncio.wrap_future(self._decoder.probe())
            self._probed = time.monotonic()
        await asyncio.wait([self._probe], timeout=max(self._probed + _PROBE_SECONDS - time.monotonic(), 0))
        if not self._probe.done():
            message = f"the thread that writes replies has not answered for {time.monotonic() - self._probed:.0f} s"
            raise ApiError(503, message, code="server_failed")
        if error := self._probe.exception():
            raise ApiError(503, str(error), code="server_failed")

    @contextlib.asynccontextmanager
    async def chat(self, asked: ChatRequest) -> AsyncIterator[Chat]:
        """The reply to a request. It is written, and its model kept in memory, while this lasts. Raises ApiError."""
        started = time.perf_counter()
        model = await asyncio.to_thread(self.models.find, asked.model)
        read = await self._encode(lambda: read_messages(asked, self._config))
        loaded = await self._use(model)
        try:
            large = read.characters > _LARGE_TEXT or read.pixels > _LARGE_PIXELS
            prompt = await self._encode(lambda: _encode(loaded.vlm, read), large=large)
            chat = Chat(asked, loaded, prompt, self._config)
            self._metrics.prompt_tokens.labels(model.name).inc(len(prompt))
            self._decoder.write(loaded, chat.request, chat.on_tokens)
            try:
                yield chat
            finally:
                chat.request.cancelled = True  # does nothing to a finished one
                self._metrics.reply_tokens.labels(model.name).inc(len(chat.request.tokens))
                self._metrics.seconds.labels(model.name).observe(time.perf_counter() - started)
        finally:
            self._decoder.release(loaded)

    def close(self) -> None:
        """Ends the threads."""
        self._decoder.close()
        for encoder in (self._encoder, self._large_encoder):
            encoder.shutdown(cancel_futures=True)

    async def _use(self, model: Model) -> Loaded:
        """The model in memory, until it is released. Raises ApiError."""
        future = self._decoder.use(model)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            future.add_done_callback(self._release_unwanted)
            raise
        except ModelError as error:
            raise ApiError(404, str(error), code="model_unusable", param="model") from None
        except DecoderDiedError as error:
            raise ApiError(503, str(error), code="server_failed") from None

    def _release_unwanted(self, used: Future[Loaded]) -> None:
        """Releases a model that came after its request was given up."""
        if not used.cancelled() and used.exception() is None:
            self._decoder.release(used.result())

    async def _encode(self, work: Callable[[], _T], *, large: bool = False) -> _T:
        """Runs `work` on a thread for images and tokens: small work never waits for large work.

        Raises ApiError if too much large work is waiting.
        """
        loop = asyncio.get_running_loop()
        if not large:
            return await loop.run_in_executor(self._encoder, work)
        if self._large_waiting >= _LARGE_WAITING:
            raise ApiError(
                429, f"{self._large_waiting} large requests are waiting; try again soon", code="too_many_requests"
            )
        self._large_waiting += 1
        try:
            return await loop.run_in_executor(self._large_encoder, work)
        finally:
            self._large_waiting -= 1


def _encode(vlm: VLM, read: ReadMessages) -> Prompt:
    if read.characters > _CHARACTERS_PER_TOKEN * vlm.max_length:
        raise _too_long(f"the texts have {read.characters} characters", vlm)
    try:
        return encode(vlm, read.messages, max_tokens=vlm.max_length - 1)
    except PromptTooLongError as error:
        raise _too_long(f"the prompt has {error.tokens} tokens", vlm) from None
    except PromptError as error:
        raise bad_request(str(error), param="messages") from None


def _too_long(what: str, vlm: VLM) -> ApiError:
    return bad_request(
        f"{what}, the model takes {vlm.max_length} tokens with the reply; shorten it or send fewer or smaller images",
        code="context_length_exceeded",
        param="messages",
    )


def _model_failed() -> ApiError:
    return ApiError(500, "the model failed while it wrote this reply; see the server's log", code="model_failed")


def _temperature(asked: float | None) -> float:
    """Temperatures next to 0 are greedy decoding: dividing by them leaves the range of fp32."""
    temperature = 1.0 if asked is None else asked
    return temperature if temperature >= _MIN_TEMPERATURE else 0.0


def _sse(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content)}\n\n"
