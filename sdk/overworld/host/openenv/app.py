"""The endpoint as an ASGI application: GET /health, /metadata, /schema, /state; POST /reset; WebSocket /ws.

An env's paths stand below its id, and at the root where the server has just one env.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from importlib.metadata import version
from typing import Any

import pydantic_core
from pydantic import ValidationError

from overworld.authoring.env import EnvSpec
from overworld.contract.wire import spec_from_proto
from overworld.errors import ContractError, Reason, Retry
from overworld.host import callers
from overworld.host.callers import Callers
from overworld.host.front import Front
from overworld.host.metrics import ServerMetrics
from overworld.host.openenv.messages import (
    MESSAGES,
    CloseMessage,
    ErrorCode,
    ObservationData,
    ResetData,
    ResetMessage,
    StateData,
    StateMessage,
    action_schema,
)
from overworld.host.openenv.player import Player
from overworld.service import bounds
from overworld.service.extras import needs_extra
from overworld.v1 import env_pb2 as pb

with needs_extra("openenv"):
    from starlette.applications import Starlette
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route, WebSocketRoute
    from starlette.types import ASGIApp, Receive, Scope, Send
    from starlette.websockets import WebSocket, WebSocketDisconnect


_STATUS = {
    "UNAUTHENTICATED": 401, "PERMISSION_DENIED": 403, "NOT_FOUND": 404, "RESOURCE_EXHAUSTED": 429, "UNAVAILABLE": 503,
}  # fmt: skip


class OpenEnv:
    """The protocol's calls on a front. `slots` bounds the WebSockets, with some more for those that wait for a slot."""

    def __init__(self, front: Front, known: Callers, metrics: ServerMetrics, slots: int) -> None:
        self._front = front
        self._metrics = metrics
        self._connections = 0
        self._max_connections = slots + bounds.OPENENV_WAITING
        endpoints: dict[str, tuple[str, Callable[[Request], Awaitable[Response]]]] = {
            "/health": ("GET", self._health),
            "/metadata": ("GET", self._metadata),
            "/schema": ("GET", self._schema),
            "/openapi.json": ("GET", self._openapi),
            "/state": ("GET", self._state),
            "/reset": ("POST", self._reset),
            "/step": ("POST", self._step),
            "/mcp": ("POST", self._mcp),
        }
        routes: list[Route | WebSocketRoute] = []
        for prefix in ("", "/{env:path}"):
            routes += [Route(prefix + path, call, methods=[method]) for path, (method, call) in endpoints.items()]
            routes.append(WebSocketRoute(f"{prefix}/ws", self._play))
        app = Starlette(routes=routes, exception_handlers={ContractError: _refusal})
        app.router.redirect_slashes = False
        self.app: ASGIApp = _Guard(app, known, metrics)

    def __repr__(self) -> str:
        return f"<OpenEnv: {self._connections} connections to {self._front!r}>"

    async def _health(self, _: Request) -> Response:
        well = self._front.healthy and not self._front.draining
        return JSONResponse({"status": "healthy" if well else "unhealthy"}, 200 if well else 503)

    async def _metadata(self, request: Request) -> Response:
        spec = await self._spec(request.path_params)
        return JSONResponse(
            {
                "name": spec.id,
                "description": f"{spec.task}\nSuccess: {spec.success}",
                "version": version("overworld"),
                "provenance": dict(spec.provenance),
            }
        )

    async def _schema(self, request: Request) -> Response:
        spec = await self._spec(request.path_params)
        return JSONResponse(
            {
                "action": action_schema(spec),
                "observation": ObservationData.model_json_schema(),
                "state": StateData.model_json_schema(),
            }
        )

    async def _openapi(self, request: Request) -> Response:
        spec = await self._spec(request.path_params)
        asked = ResetData.model_json_schema()
        asked["properties"]["options"] = json.loads(spec.options_schema)
        body = {"content": {"application/json": {"schema": asked}}}
        paths: dict[str, Any] = {
            path: {"get": {"responses": {"200": {"description": what}}}}
            for path, what in {
                "/health": "whether the server serves", "/metadata": "the env", "/schema": "JSON schemas of messages",
                "/state": "the state before an episode",
            }.items()
        }  # fmt: skip
        paths["/reset"] = {"post": {"requestBody": body, "responses": {"200": {"description": "a first observation"}}}}
        paths["/step"] = {"post": {"responses": {"409": {"description": "steps go through the WebSocket /ws"}}}}
        return JSONResponse(
            {"openapi": "3.1.0", "info": {"title": spec.id, "version": version("overworld")}, "paths": paths}
        )

    async def _state(self, request: Request) -> Response:
        spec = await self._spec(request.path_params)
        return Response(StateData(env=spec.id).model_dump_json(), media_type="application/json")

    async def _reset(self, request: Request) -> Response:
        """As OpenEnv's own: of an env that is gone when the answer is there."""
        spec = await self._spec(request.path_params)
        body = await _body(request)
        try:
            data = ResetData.model_validate_json(body or b"{}")
        except ValidationError as error:
            return JSONResponse({"detail": _errors(error)}, 422)
        async with self._playing(spec.id) as player:
            with callers.current.get().calling(len(body)):
                return Response(await player.reset(data), media_type="application/json")

    async def _step(self, request: Request) -> Response:
        await self._spec(request.path_params)
        return JSONResponse({"detail": "HTTP calls share no episode: connect to the WebSocket /ws to act in one"}, 409)

    async def _mcp(self, request: Request) -> Response:
        await self._spec(request.path_params)
        return JSONResponse(_NO_TOOLS)

    async def _play(self, socket: WebSocket) -> None:
        """A connection: one episode after another in a slot of its own, until either side hangs up."""
        if self._connections >= self._max_connections:
            await socket.accept()
            message = f"{self._connections} connections are open, as many as this server allows; try again later"
            await socket.send_text(_error(ErrorCode.CAPACITY_REACHED, message))
            await socket.close(1013)
            return
        self._connections += 1
        try:
            spec = await self._spec(socket.path_params)
            await socket.accept()
            async with self._playing(spec.id) as player:
                await self._converse(socket, player)
                await socket.close()
        except ContractError as error:  # of the handshake: there is no such env
            await socket.send_denial_response(await _refusal(socket, error))
        except WebSocketDisconnect:
            pass
        finally:
            self._connections -= 1

    async def _converse(self, socket: WebSocket, player: Player) -> None:
        while True:
            try:
                async with asyncio.timeout(None if player.seated else bounds.OPENENV_UNSEATED):
                    text = await socket.receive_text()
            except TimeoutError:
                message = f"no episode was started within {bounds.OPENENV_UNSEATED:d} s; connect again to play"
                await socket.send_text(_error(ErrorCode.SESSION_ERROR, message))
                return
            except KeyError:
                await socket.send_text(_error(ErrorCode.INVALID_JSON, "a binary message was sent; send JSON as text"))
                continue
            answer = await self._answer(text, player)
            if answer is None:
                return
            await socket.send_text(answer)

    async def _answer(self, text: str, player: Player) -> str | None:
        """The answer to one message; None to the last one."""
        try:
            sent = pydantic_core.from_json(text, allow_inf_nan=False)
        except ValueError as error:
            return _error(ErrorCode.INVALID_JSON, f"not JSON: {error}")
        kind = sent.get("type") if isinstance(sent, dict) else None
        if kind == "mcp":
            return json.dumps({"type": "mcp", "data": _NO_TOOLS})
        model = MESSAGES.get(kind) if isinstance(kind, str) else None
        if model is None:
            known = ", ".join(MESSAGES)
            return _error(ErrorCode.UNKNOWN_TYPE, f"a message is an object with a type: one of {known}")
        try:
            message = model.model_validate(sent)
        except ValidationError as error:
            errors = _errors(error)
            where = ".".join(map(str, errors[0]["loc"]))
            return _error(ErrorCode.VALIDATION_ERROR, f"{where or kind}: {errors[0]['msg']}", errors=errors)
        if isinstance(message, CloseMessage):
            return None
        if isinstance(message, StateMessage):
            return _message("state", player.state.model_dump_json())
        owner = callers.current.get()
        call = f"openenv_{kind}"
        reason = ""
        try:
            with owner.calling(len(text)):
                move = player.reset(message.data) if isinstance(message, ResetMessage) else player.step(message.data)
                data = await move
            owner.sent.inc(len(data))
            self._metrics.sent_bytes.inc(len(data))
            return _message("observation", data)
        except ContractError as error:
            reason = error.reason.name
            busy = error.reason.retry is Retry.LATER
            code = ErrorCode.CAPACITY_REACHED if busy else ErrorCode.EXECUTION_ERROR
            return _error(code, error.message, reason=reason)
        finally:
            self._metrics.calls.labels(call, reason).inc()
            self._metrics.client_calls.labels(owner.name, reason).inc()

    @contextlib.asynccontextmanager
    async def _playing(self, env_id: str) -> AsyncIterator[Player]:
        player = Player(self._front, env_id)
        try:
            yield player
        finally:
            await player.close()

    async def _spec(self, path: Mapping[str, Any]) -> EnvSpec:
        """The env that a path names. Raises ContractError."""
        info = await self._front.get_server_info(pb.GetServerInfoRequest())
        specs = {spec.id: spec for spec in info.envs}
        name = path.get("env") or (next(iter(specs)) if len(specs) == 1 else "")
        if name not in specs:
            what = f"there is no env {name[:100]!r} here" if name else "this server has several envs"
            message = f"{what}; put the id of one into the URL, as in http://host:port/ENV: {sorted(specs)}"
            raise ContractError(Reason.ENV_UNKNOWN, message)
        return spec_from_proto(specs[name])


class _Guard:
    """Finds out who calls, and refuses requests without a token; health checks aside, since probes cannot send one."""

    def __init__(self, app: ASGIApp, known: Callers, metrics: ServerMetrics) -> None:
        self._app = app
        self._known = known
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not scope["path"].endswith("/health"):
            sent = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1")
            try:
                callers.current.set(self._known.identify(sent))  # for the application, which runs in the same task
            except ContractError as error:
                self._metrics.client_calls.labels("", error.reason.name).inc()
                await (await _refusal(None, error))(scope, receive, send)
                return
        await self._app(scope, receive, send)


_NO_TOOLS = {
    "jsonrpc": "2.0",
    "id": None,
    "error": {"code": -32601, "message": "this env has no MCP tools; play it with reset and step over /ws"},
}


async def _refusal(_: object, error: Exception) -> Response:
    assert isinstance(error, ContractError)
    status = _STATUS.get(error.reason.status or "", 400)
    return JSONResponse({"detail": error.message, "reason": error.reason.name}, status)


async def _body(request: Request) -> bytes:
    """The request's body. Raises ContractError for one that is too large or takes too long."""
    body = bytearray()
    try:
        async with asyncio.timeout(bounds.OPENENV_BODY):
            async for part in request.stream():
                body += part
                if len(body) > bounds.OPENENV_MESSAGE:
                    message = f"the body is larger than {bounds.OPENENV_MESSAGE:,} bytes"
                    raise ContractError(Reason.REQUEST_INVALID, message)
    except (TimeoutError, ClientDisconnect):
        raise ContractError(
            Reason.REQUEST_INVALID, f"the body was not sent within {bounds.OPENENV_BODY:d} s; send it at once"
        ) from None
    return bytes(body)


def _errors(error: ValidationError) -> list[dict[str, Any]]:
    return [dict(one) for one in error.errors(include_url=False, include_context=False, include_input=False)]


def _message(kind: str, data: str) -> str:
    return f'{{"type":"{kind}","data":{data}}}'


def _error(code: ErrorCode, message: str, **more: Any) -> str:
    return _message("error", json.dumps({"message": message, "code": code, **more}))
