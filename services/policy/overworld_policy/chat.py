"""Answers chat requests: encodes them, has the replies written, and puts them into OpenAI's form."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

from overworld_vlm.batch import Prompt, PromptError, PromptTooLongError, encode_rendered, template_messages
from overworld_vlm.load import VLM, ModelError
from overworld_vlm.writer import Request

from overworld_policy.budget import Budget
from overworld_policy.config import PolicyServerConfig
from overworld_policy.decoder import Decoder, DecoderDiedError, Loaded
from overworld_policy.errors import ApiError, bad_request
from overworld_policy.grammar import Grammar
from overworld_policy.messages import ChatRequest, ReadMessages, read_messages
from overworld_policy.metrics import Metrics
from overworld_policy.models import Model, Models
from overworld_policy.reply import Reply
from overworld_policy.sampling import processors, read_grammar, temperature
from overworld_policy.templates import RenderedTooLongError, TemplateError, Templates, TemplateStoppedError

_PROBE_SECONDS = 10.0
_ENCODERS = 3
_LARGE_TEXT = 32_768
_LARGE_PIXELS = 4_000_000
_LARGE_WAITING = 16
_CHARACTERS_PER_TOKEN = 16
"""Texts with more of them than this on average are refused without being tokenised."""

_SMALL_BYTES = 1 << 20
_LARGEST = 2
"""What requests take beyond the size of a small one is, for all together, at most that of so many of the largest."""
_T = TypeVar("_T")


class _Prepared(NamedTuple):
    """What is computed of a request before it is written."""

    prompt: Prompt
    grammar: Grammar | None


class Chat:
    """The replies to a request, which are being written, in OpenAI's form."""

    def __init__(self, asked: ChatRequest, loaded: Loaded, prepared: _Prepared, config: PolicyServerConfig) -> None:
        self._asked = asked
        self._loaded = loaded
        self._prompt = prompt = prepared.prompt
        self._id = f"chatcmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        wanted = asked.max_completion_tokens or asked.max_tokens or config.default_max_tokens
        seed = asked.seed if asked.seed is not None else int.from_bytes(os.urandom(8), "little")
        self._replies: list[Reply] = []
        for index in range(asked.n or 1):
            grammar = None if prepared.grammar is None else prepared.grammar.copy()
            reply = Reply(index, asked, loaded.vlm.tokenizer, grammar)
            reply.request = Request(
                prompt,
                min(wanted, loaded.vlm.max_length - len(prompt)),
                key=(seed, index) if index else (seed,),
                temperature=temperature(asked),
                top_p=1.0 if asked.top_p is None else asked.top_p,
                processors=processors(asked, loaded.vlm, prompt, grammar),
                top_logps=min(asked.top_logprobs or 0, len(loaded.vlm.banned)),
                stop=reply.stop if reply.watches else None,
            )
            self._replies.append(reply)

    def __repr__(self) -> str:
        return f"Chat({self._id}, {self._asked.model}, {self._replies!r})"

    @property
    def requests(self) -> list[Request]:
        """What the engine works on."""
        return [reply.request for reply in self._replies]

    @property
    def reply_tokens(self) -> int:
        """Tokens that were written so far."""
        return sum(len(request.tokens) for request in self.requests)

    async def finished(self) -> None:
        """Waits until the replies are written. Raises ApiError for one that could not be."""
        while not self._all_finished():
            self._changed.clear()
            await self._changed.wait()
        for reply in self._replies:
            reply.check()

    def response(self) -> dict[str, Any]:
        """The body of a plain answer."""
        choices = [reply.choice() for reply in self._replies]
        return {**self._head("chat.completion"), "choices": choices, "usage": self._usage(), **self._prompt_ids()}

    async def stream(self) -> AsyncIterator[str]:
        """The server-sent events of a streamed answer."""
        for reply in self._replies:
            yield self._event([reply.opening()], **(self._prompt_ids() if reply is self._replies[0] else {}))
        open_replies = list(self._replies)
        while True:
            self._changed.clear()
            for reply in list(open_replies):
                finished = reply.request.finish is not None
                try:
                    news = reply.news()
                except ApiError as error:  # without the end of a whole stream: half a reply must not pass for one
                    yield _sse(error.body)
                    return
                if news is not None:
                    yield self._event([news])
                if finished:
                    open_replies.remove(reply)
                    yield self._event([reply.closing()])
            if not open_replies:
                break
            await self._changed.wait()
        options = self._asked.stream_options
        if options is not None and options.include_usage:
            yield self._event([], usage=self._usage())
        yield "data: [DONE]\n\n"

    def on_tokens(self) -> None:
        """Called on the decoder's thread after each token."""
        if self._asked.stream or self._all_finished():
            self._loop.call_soon_threadsafe(self._changed.set)

    def _all_finished(self) -> bool:
        return all(request.finish is not None for request in self.requests)

    def _prompt_ids(self) -> dict[str, Any]:
        return {"prompt_token_ids": self._prompt.ids.tolist()} if self._asked.return_token_ids else {}

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._asked.model,
            "system_fingerprint": self._loaded.fingerprint,
        }

    def _usage(self) -> dict[str, int]:
        prompt, reply = len(self._prompt), self.reply_tokens
        return {"prompt_tokens": prompt, "completion_tokens": reply, "total_tokens": prompt + reply}

    def _event(self, choices: list[dict[str, Any]], **more: Any) -> str:
        return _sse({**self._head("chat.completion.chunk"), "choices": choices, **more})


class Place:
    """A place among the requests in flight of a client, which holds some bytes. Further replies take more places."""

    def __init__(self, service: ChatService, client: str) -> None:
        self._service = service
        self.client = client
        self.bytes = 0
        self.replies = 0

    def take(self, replies: int) -> None:
        """Takes as many places as there are to be replies. Raises ApiError if there are not enough."""
        self._service.take(self.client, replies - self.replies)
        self.replies = replies

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
        self._pixels = Budget(config.max_total_pixels * _LARGEST, _LARGE_WAITING)
        self._templates = Templates(config.max_loaded)

    @contextlib.contextmanager
    def admission(self, client: str) -> Iterator[Place]:
        """A place among the requests in flight, held while this lasts.

        Raises ApiError when all are taken, or those of the client.
        """
        place = Place(self, client)
        place.take(1)
        try:
            yield place
        finally:
            self._bytes -= place.bytes
            self._count(client, -place.replies)

    def take(self, client: str, places: int) -> None:
        """Counts places. Raises ApiError if there are not enough."""
        if self._in_flight + places > self._config.max_waiting:
            raise ApiError(429, f"{self._in_flight} replies are in flight; try again soon", code="too_many_requests")
        bound, held = self._config.max_waiting_per_client, self._held[client]
        if client and bound is not None and held + places > bound:
            message = f"{client} has {held} of at most {bound} replies in flight; try again when one is answered"
            raise ApiError(429, message, code="quota_exceeded")
        self._count(client, places)

    def _count(self, client: str, places: int) -> None:
        self._held[client] += places
        self._in_flight += places
        self._metrics.in_flight.set(self._in_flight)

    def hold(self, grown: int) -> None:
        """Counts the bytes of large requests. Raises ApiError if there are too many."""
        if self._bytes + grown > self._config.max_request_bytes * _LARGEST:
            raise ApiError(429, "too many large requests are in flight; try again soon", code="too_many_requests")
        self._bytes += grown

    async def check(self) -> None:
        """Passes a job through the decoder, one for all who ask meanwhile. Raises ApiError if it does not come back."""
        if self._probe is None or self._probe.done():
            self._probe = asyncio.wrap_future(self._decoder.probe())
            self._probed = time.monotonic()
        probe, asked = self._probe, self._probed  # others may replace them before this one's turn comes
        await asyncio.wait([probe], timeout=max(asked + _PROBE_SECONDS - time.monotonic(), 0))
        if not probe.done():
            message = f"the thread that writes replies has not answered for {time.monotonic() - asked:.0f} s"
            raise ApiError(503, message, code="server_failed")
        if error := probe.exception():
            raise ApiError(503, str(error), code="server_failed")

    @contextlib.asynccontextmanager
    async def chat(self, asked: ChatRequest) -> AsyncIterator[Chat]:
        """The reply to a request. It is written, and its model kept in memory, while this lasts. Raises ApiError."""
        started = time.perf_counter()
        model = await asyncio.to_thread(self.models.find, asked.model)
        read = await self._encode(lambda: read_messages(asked, self._config))
        async with self._pixels.hold(read.pixels - _LARGE_PIXELS), self._used(model) as loaded:
            prompt = await self._prompt(loaded.vlm, read)
            grammar = await self._encode(lambda: read_grammar(asked, loaded.vlm, prompt))
            chat = Chat(asked, loaded, _Prepared(prompt, grammar), self._config)
            self._metrics.prompt_tokens.labels(model.name).inc(len(prompt))
            self._decoder.write(loaded, chat.requests, chat.on_tokens)
            try:
                yield chat
            finally:
                for request in chat.requests:
                    request.cancelled = True  # does nothing to a finished one
                self._metrics.reply_tokens.labels(model.name).inc(chat.reply_tokens)
                self._metrics.seconds.labels(model.name).observe(time.perf_counter() - started)

    async def tokenize(self, asked: ChatRequest) -> dict[str, Any]:
        """The tokens of a request's prompt, those of images included. Raises ApiError."""
        model = await asyncio.to_thread(self.models.find, asked.model)
        read = await self._encode(lambda: read_messages(asked, self._config))
        async with self._pixels.hold(read.pixels - _LARGE_PIXELS), self._used(model) as loaded:
            prompt = await self._prompt(loaded.vlm, read)
            return {"count": len(prompt), "max_model_len": loaded.vlm.max_length, "tokens": prompt.ids.tolist()}

    async def close(self) -> None:
        """Ends threads and processes."""
        await self._templates.close()
        await asyncio.to_thread(self._decoder.close)
        for encoder in (self._encoder, self._large_encoder):
            await asyncio.to_thread(encoder.shutdown, cancel_futures=True)

    @contextlib.asynccontextmanager
    async def _used(self, model: Model) -> AsyncIterator[Loaded]:
        """The model in memory, while this lasts. Raises ApiError."""
        loaded = await self._use(model)
        try:
            yield loaded
        finally:
            self._decoder.release(loaded)

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

    async def _prompt(self, vlm: VLM, read: ReadMessages) -> Prompt:
        """The prompt that a request's messages make. Raises ApiError."""
        characters = _CHARACTERS_PER_TOKEN * vlm.max_length
        if read.characters > characters:
            raise _too_long(f"the texts have {read.characters} characters", vlm)
        large = _is_large(read)
        try:
            plain = await self._encode(lambda: template_messages(vlm, read.messages), large=large)
            text = await self._templates.render(vlm.tokenizer, plain, characters)
            return await self._encode(
                lambda: encode_rendered(vlm, text, read.messages, max_tokens=vlm.max_length - 1), large=large
            )
        except RenderedTooLongError as error:
            raise _too_long(str(error), vlm) from None
        except TemplateStoppedError as error:
            raise ApiError(404, str(error), code="model_unusable", param="model") from None
        except TemplateError as error:
            message = f"the model's chat template does not take these messages: {error}"
            raise bad_request(message, param="messages") from None
        except PromptTooLongError as error:
            raise _too_long(f"the prompt has {error.tokens} tokens", vlm) from None
        except PromptError as error:
            raise bad_request(str(error), param="messages") from None

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


def _is_large(read: ReadMessages) -> bool:
    return read.characters > _LARGE_TEXT or read.pixels > _LARGE_PIXELS


def _too_long(what: str, vlm: VLM) -> ApiError:
    return bad_request(
        f"{what}, the model takes {vlm.max_length} tokens with the reply; shorten it or send fewer or smaller images",
        code="context_length_exceeded",
        param="messages",
    )


def _sse(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content)}\n\n"
