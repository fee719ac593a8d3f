"""The HTTP interface: /v1/models, /v1/chat/completions, /tokenize, /health, /metrics."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from overworld.service.watchdog import Watchdog
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from overworld_policy import fields
from overworld_policy.body import Bodies
from overworld_policy.chat import ChatService, Place
from overworld_policy.config import PolicyServerConfig
from overworld_policy.errors import ApiError, bad_request
from overworld_policy.keys import Keys
from overworld_policy.messages import ChatRequest
from overworld_policy.metrics import Metrics
from overworld_policy.models import Model

_OPEN_PATHS = ("/health", "/metrics")  # probes and Prometheus send no key
_SEND_SECONDS = 60.0
"""How long a client may take to read a part of its reply."""

_STUCK_SECONDS = 120.0
"""For so long the decoder may write no token before the server ends: a long prompt takes a CPU its time."""

_LARGE_BODY = 1 << 18  # bytes that take milliseconds to parse

_IGNORED = "Overworld-Ignored-Fields"
"""The header that names fields which nobody knows, as a JSON list."""
_MAX_IGNORED = 20


def create_app(config: PolicyServerConfig, on_death: Callable[[], None]) -> FastAPI:
    """The policy server as an ASGI application; `on_death` is called when it can write no more replies."""
    metrics = Metrics()
    service = ChatService(config, metrics, on_death)
    bodies = Bodies(config.max_request_bytes)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        watchdog = Watchdog("overworld policy", "the thread that writes replies", service.check, _STUCK_SECONDS)
        yield
        watchdog.stop()
        await service.close()

    app = FastAPI(title="Overworld policy server", lifespan=lifespan, redirect_slashes=False)
    app.add_middleware(_Guard, keys=Keys(config.api_key, config.api_keys), metrics=metrics)

    @app.exception_handler(ApiError)
    async def refuse(_: Request, error: ApiError) -> Response:
        return _failure(error)

    @app.exception_handler(HTTPException)
    async def misdirect(request: Request, error: HTTPException) -> Response:
        message = f"{request.method} {request.url.path[:200]}: {error.detail}; chats go to POST /v1/chat/completions"
        return _failure(ApiError(error.status_code, message, code="not_found" if error.status_code == 404 else "http"))

    @app.exception_handler(Exception)
    async def fail(_: Request, __: Exception) -> Response:
        return _failure(ApiError(500, "the server failed at this request; see its log", code="server_failed"))

    @app.get("/health")
    async def health() -> dict[str, str]:
        """For probes: whether replies can be written."""
        await service.check()
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

    body = {"required": True, "content": {"application/json": {"schema": ChatRequest.model_json_schema()}}}

    @app.post("/v1/chat/completions", openapi_extra={"requestBody": body})
    async def complete() -> Response:
        """Writes a reply."""
        return _Completion(service, bodies)

    @app.post("/tokenize", openapi_extra={"requestBody": body})
    async def tokenize() -> Response:
        """The prompt that a chat would have, as vLLM says it: count, max_model_len, tokens."""
        return _Tokens(service, bodies)

    return app


class _Guard:
    """Asks for the key, and counts requests by route and status."""

    def __init__(self, app: ASGIApp, keys: Keys, metrics: Metrics) -> None:
        self._app = app
        self._keys = keys
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        status = 500
        client = "" if scope["path"] in _OPEN_PATHS else self._keys.owner(_sent_key(scope))

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            if client is not None:
                scope["client_name"] = client
                await self._app(scope, receive, observed)
            else:
                message = "this server asks for an API key: send Authorization: Bearer <key>"
                await _failure(ApiError(401, message, code="invalid_api_key"))(scope, receive, observed)
        finally:
            route = scope.get("route")  # not the path: a client can make up any number of those
            self._metrics.requests.labels("" if route is None else route.path, str(status)).inc()
            self._metrics.client_requests.labels(client or "", str(status)).inc()


def _sent_key(scope: Scope) -> str:
    kind, _, key = dict(scope["headers"]).get(b"authorization", b"").partition(b" ")
    return key.strip().decode(errors="replace") if kind.lower() == b"bearer" else ""


class _Completion(Response):
    """A chat, from reading its request to the last byte of its reply.

    All of it happens while the response is sent, so that nothing can be left open between a route and its response.
    """

    def __init__(self, service: ChatService, bodies: Bodies) -> None:
        super().__init__()
        self._service = service
        self._bodies = bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def bounded(message: Message) -> None:
            nonlocal started
            started = True
            async with asyncio.timeout(_SEND_SECONDS):
                await send(message)

        with self._service.admission(scope["client_name"]) as place:
            body = await self._bodies.read(scope, receive, place.hold)
            try:
                await _unless_gone(receive, self._answer(body, place, scope, receive, bounded))
            except ApiError:  # the client has hung up
                if not started:
                    raise

    async def _answer(self, body: bytes, place: Place, scope: Scope, receive: Receive, send: Send) -> None:
        asked, headers = await _read(body)
        place.take(asked.n or 1)
        async with self._service.chat(asked) as chat:
            if asked.stream:
                events = StreamingResponse(chat.stream(), media_type="text/event-stream", headers=headers)
                await events.stream_response(send)
            else:
                await chat.finished()
                await JSONResponse(chat.response(), headers=headers)(scope, receive, send)


class _Tokens(_Completion):
    """The tokens of a chat's prompt."""

    async def _answer(self, body: bytes, place: Place, scope: Scope, receive: Receive, send: Send) -> None:
        asked, headers = await _read(body)
        await JSONResponse(await self._service.tokenize(asked), headers=headers)(scope, receive, send)


async def _unless_gone(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Awaits `work`, or cancels it and raises ApiError when the client hangs up."""
    working = asyncio.create_task(work)
    hanging_up = asyncio.create_task(_hung_up(receive))
    try:
        await asyncio.wait([working, hanging_up], return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ApiError(499, "the client has hung up", code="client_closed_request")
        await working
    finally:
        working.cancel()
        hanging_up.cancel()
        await asyncio.wait([working, hanging_up])
        del working  # its error's traceback holds this frame, and all that the request held


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _read(body: bytes) -> tuple[ChatRequest, dict[str, str]]:
    """The request in a body, and the headers of its answer. Raises ApiError."""
    asked = await asyncio.to_thread(_parse, body) if len(body) > _LARGE_BODY else _parse(body)
    unknown = fields.check(asked.model_extra or {}, strict=bool(asked.strict))
    return asked, {_IGNORED: json.dumps(unknown[:_MAX_IGNORED])} if unknown else {}


def _parse(body: bytes) -> ChatRequest:
    try:
        return ChatRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        name = str(first["loc"][0]) if first["loc"] else None
        where = ".".join(str(part) for part in first["loc"] if isinstance(part, int) or part.isidentifier())
        raise bad_request(f"{where or 'the body'}: {first['msg']}", param=name) from None


def _card(model: Model) -> dict[str, Any]:
    card: dict[str, Any] = {"id": model.name, "object": "model", "created": model.created, "owned_by": "overworld"}
    if ignored := model.ignored_generation_config:
        card["ignored_generation_config"] = ignored
    described = model.describe()
    return {**card, "overworld": described} if described else card


def _failure(error: ApiError) -> JSONResponse:
    return JSONResponse(error.body, status_code=error.status, headers=error.headers)
