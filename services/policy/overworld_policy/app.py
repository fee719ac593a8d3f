"""The HTTP interface: /v1/models, /v1/chat/completions, /health, /metrics."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import ValidationError

from overworld_policy.chat import Chat, ChatService
from overworld_policy.config import PolicyServerConfig
from overworld_policy.errors import ApiError, bad_request
from overworld_policy.messages import ChatRequest
from overworld_policy.metrics import Metrics
from overworld_policy.models import Model

_OPEN_PATHS = ("/health", "/metrics")  # probes and Prometheus send no key


def create_app(config: PolicyServerConfig, on_death: Callable[[], None]) -> FastAPI:
    """The policy server as an ASGI application; `on_death` is called when it can write no more replies."""
    metrics = Metrics()
    service = ChatService(config, metrics, on_death)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.close)

    app = FastAPI(title="Overworld policy server", lifespan=lifespan)

    @app.middleware("http")
    async def guard(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        """Asks for the key and counts."""
        path = request.url.path
        expected = f"Bearer {config.api_key}".encode()
        sent = request.headers.get("authorization", "").encode()
        if config.api_key and path not in _OPEN_PATHS and not hmac.compare_digest(sent, expected):
            message = "this server asks for an API key: send Authorization: Bearer <key>"
            response: Response = _failure(ApiError(401, message, code="invalid_api_key"))
        else:
            response = await call_next(request)
        known = path if response.status_code != 404 else ""
        metrics.requests.labels(known, str(response.status_code)).inc()
        return response

    @app.exception_handler(ApiError)
    async def refuse(_: Request, error: ApiError) -> Response:
        """OpenAI's form of an error."""
        return _failure(error)

    @app.get("/health")
    async def health() -> dict[str, str]:
        """For probes."""
        return {"status": "ok"}

    @app.get("/metrics")
    async def prometheus() -> Response:
        """For Prometheus."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/v1/models")
    async def list_models() -> dict[str, Any]:
        """All models; `overworld` holds what we know beyond OpenAI's fields, the prompt recipe above all."""
        models = await asyncio.to_thread(lambda: list(service.models.all()))
        return {"object": "list", "data": [_card(model) for model in models]}

    @app.get("/v1/models/{name}")
    async def show_model(name: str) -> dict[str, Any]:
        """One model."""
        return _card(await asyncio.to_thread(service.models.find, name))

    @app.post("/v1/chat/completions")
    async def complete(http: Request) -> Response:
        """Writes a reply."""
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(service.admission())
            request = _parse(await _body(http, config.max_request_bytes))
            chat = await stack.enter_async_context(service.chat(request))
            if request.stream:
                rest = stack.pop_all()  # is closed when the stream ends, or the client hangs up
                return StreamingResponse(_streamed(chat, rest), media_type="text/event-stream")
            await _unless_gone(http, chat.finished())
            return JSONResponse(chat.response())

    return app


async def _streamed(chat: Chat, stack: contextlib.AsyncExitStack) -> AsyncIterator[str]:
    async with stack:
        async for event in chat.stream():
            yield event


async def _unless_gone(http: Request, work: Awaitable[None]) -> None:
    """Awaits `work`, or raises when the client hangs up."""
    working = asyncio.ensure_future(work)
    hanging_up = asyncio.create_task(_hung_up(http))
    try:
        await asyncio.wait([working, hanging_up], return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ApiError(499, "the client has hung up", code="client_closed_request")
        await working
    finally:
        working.cancel()
        hanging_up.cancel()


async def _hung_up(http: Request) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


async def _body(http: Request, bound: int) -> bytes:
    """The request's body. Raises ApiError for one that is too large."""
    body = bytearray()
    async for chunk in http.stream():
        body += chunk
        if len(body) > bound:
            raise ApiError(
                413,
                f"the request is larger than {bound:,} bytes; send fewer or smaller images",
                code="request_too_large",
            )
    return bytes(body)


def _parse(body: bytes) -> ChatRequest:
    try:
        request = ChatRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or None
        raise bad_request(f"{where or 'the body'}: {first['msg']}", param=where) from None
    if request.n not in (None, 1):
        raise bad_request("n must be 1: one reply is given per request", param="n")
    if request.logprobs:
        raise bad_request("logprobs are not offered; leave the field out", param="logprobs")
    return request


def _card(model: Model) -> dict[str, Any]:
    card = {"id": model.name, "object": "model", "created": model.created, "owned_by": "overworld"}
    described = model.describe()
    return {**card, "overworld": described} if described else card


def _failure(error: ApiError) -> JSONResponse:
    return JSONResponse(error.body, status_code=error.status)
