"""The front as a gRPC service, with health, reflection, bearer token, metrics and graceful shutdown."""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from overworld.contract.status import status_code, trailing_metadata
from overworld.errors import ContractError, Reason, ServiceError
from overworld.host.config import ServerConfig
from overworld.host.front import KEEPALIVE_SECONDS, MAX_REQUEST_BYTES, MAX_RESPONSE_BYTES, Front
from overworld.host.metrics import ServerMetrics
from overworld.service import malloc
from overworld.service.exposition import MetricsServer
from overworld.service.extras import needs_extra
from overworld.v1 import env_pb2 as pb

with needs_extra("host"):
    from grpc_health.v1 import health, health_pb2, health_pb2_grpc
    from grpc_reflection.v1alpha import reflection

_logger = logging.getLogger(__name__)

_SERVICE = pb.DESCRIPTOR.services_by_name["EnvService"].full_name
_STOP_SECONDS = 2.0
_HEALTH_SECONDS = 0.5

_CHANNEL_OPTIONS = [
    ("grpc.so_reuseport", 0),  # else a second server on the port is not refused and takes half of the calls
    ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
    ("grpc.max_send_message_length", MAX_RESPONSE_BYTES),
    ("grpc.max_concurrent_streams", 1024),  # of a connection
    ("grpc.server_handshake_timeout_ms", 5_000),  # who has connected says so in HTTP/2 by then
    # Clients ping to notice a dead link; gRPC's default is to hang up on those that ping often.
    ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_SECONDS * 1000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Who does not read answers no pings either, and loses the connection with all that waits to be sent.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
]


class Server:
    """An env server in this process's event loop."""

    def __init__(self, config: ServerConfig) -> None:
        self.port = 0
        self._config = config
        self._metrics = ServerMetrics()
        self._front = Front(
            config.envs,
            slots=config.slots,
            workers=min(config.workers or os.cpu_count() or 1, config.slots),
            step_timeout=config.step_timeout,
            slot_bytes=config.slot_bytes,
            allow_expert=config.allow_expert,
            metrics=self._metrics,
        )
        self._grpc = grpc.aio.server(options=_CHANNEL_OPTIONS, interceptors=[_BearerToken(config.token)])
        self._health = health.aio.HealthServicer()
        self._telling: asyncio.Task[None] | None = None
        self._announcing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Loads the envs and begins to listen; `port` is set. Raises WorkerError or ServiceError."""
        config = self._config
        self._grpc.add_generic_rpc_handlers((self._handlers(),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        reflection.enable_server_reflection((_SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), self._grpc)
        host = bracketed(config.host)
        try:
            self.port = self._grpc.add_insecure_port(f"{host}:{config.port}")
        except RuntimeError as error:
            raise ServiceError(
                f"cannot listen on {host}:{config.port} ({error}); is another server there, or the host unknown?"
            ) from None
        await self._front.start()
        if config.metrics_port:
            try:
                MetricsServer(config.host, config.metrics_port, self._metrics.registry).start()
            except OSError as error:
                raise ServiceError(
                    f"cannot serve metrics on {host}:{config.metrics_port} ({error}); choose another --metrics-port"
                ) from None
        await self._grpc.start()
        if config.registry:
            from overworld.redis_registry import announce  # only this needs the package redis

            address = config.advertise or f"{host}:{self.port}"
            self._announcing = asyncio.create_task(
                announce(config.registry, self._front.instance, address, self._front.envs)
            )
        await self._tell_health(True)
        self._telling = asyncio.create_task(self._watch_health())

    async def run(self) -> None:
        """Serves until SIGTERM or SIGINT, then drains. Raises TransientError if a worker cannot be replaced."""
        loop = asyncio.get_running_loop()
        stopping = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)
        signalled = asyncio.ensure_future(stopping.wait())
        ends: list[asyncio.Future[Any]] = [self._front.failed, signalled]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if self._front.failed.done():
            await self.stop(0)
            self._front.failed.result()
        _logger.info("stopping: running sessions have %g s", self._config.grace)
        await self.stop(self._config.grace)

    async def stop(self, grace: float) -> None:
        """Drains for `grace` seconds, then ends."""
        await self._health.enter_graceful_shutdown()
        if self._telling:
            self._telling.cancel()
        if self._announcing:
            self._announcing.cancel()
            await asyncio.wait([self._announcing])
        await self._front.drain(grace)
        await self._grpc.stop(_STOP_SECONDS)
        await self._front.stop()

    async def _tell_health(self, healthy: bool) -> None:
        """Sets what health checks answer."""
        status = health_pb2.HealthCheckResponse
        for service in ("", _SERVICE):
            await self._health.set(service, status.SERVING if healthy else status.NOT_SERVING)

    async def _watch_health(self) -> None:
        """Workers are pinged all the time, not when somebody asks: a check costs them nothing."""
        told = True
        while True:
            await asyncio.sleep(_HEALTH_SECONDS)
            if (healthy := self._front.healthy) != told:
                await self._tell_health(healthy)
                told = healthy

    def _handlers(self) -> grpc.GenericRpcHandler:
        front = self._front
        return grpc.method_handlers_generic_handler(
            _SERVICE,
            {
                "GetServerInfo": self._unary(front.get_server_info, pb.GetServerInfoRequest),
                "Open": self._unary(front.open, pb.OpenRequest),
                "Step": self._unary(front.step, pb.StepRequest, large=True),
                "Close": self._unary(front.close, pb.CloseRequest),
            },
        )

    def _unary(
        self, call: Callable[..., Awaitable[Any]], request_type: Any, *, large: bool = False
    ) -> grpc.RpcMethodHandler[Any, Any]:
        """A handler. The response of a `large` call comes serialised, and the call learns when it has been sent."""
        name = call.__name__

        async def handle(data: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            try:
                request = _parsed(request_type, data)
                response = await (call(request, context.add_done_callback) if large else call(request))
            except ContractError as error:
                self._metrics.calls.labels(name, error.reason.name).inc()
                await context.abort(status_code(error.reason), error.message, trailing_metadata(error))
            self._metrics.calls.labels(name, "").inc()
            return response

        return grpc.unary_unary_rpc_method_handler(
            handle,
            request_deserializer=None,  # so that broken bytes get one of the contract's errors, too
            response_serializer=None if large else lambda message: message.SerializeToString(),
        )


def _parsed(request_type: Any, data: bytes) -> Any:
    try:
        return request_type.FromString(data)
    except DecodeError:
        raise ContractError(Reason.REQUEST_INVALID, f"the request is no {request_type.DESCRIPTOR.name}") from None


class _BearerToken(grpc.aio.ServerInterceptor):
    """Refuses calls without the token, health checks aside: probes cannot send one."""

    def __init__(self, token: str) -> None:
        self._expected = f"Bearer {token}".encode() if token else b""

    async def intercept_service(self, continuation: Any, details: grpc.HandlerCallDetails) -> Any:
        handler = await continuation(details)
        if not self._expected or handler is None or details.method.startswith(f"/{health.SERVICE_NAME}/"):
            return handler
        sent = dict(details.invocation_metadata).get("authorization", "")
        if hmac.compare_digest(str(sent).encode(), self._expected):
            return handler
        error = (
            ContractError(Reason.TOKEN_WRONG, "the bearer token is not this server's; check OVERWORLD_TOKEN")
            if sent
            else ContractError(Reason.TOKEN_MISSING, "this server asks for a bearer token; set OVERWORLD_TOKEN")
        )
        return _refusing(error)


def _refusing(error: ContractError) -> grpc.RpcMethodHandler[Any, Any]:
    """A handler that refuses any call as soon as its headers are there.

    It is one for streams, also where the call is not: the others begin only when they have the whole request in memory.
    """

    async def refuse(_: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        await context.abort(status_code(error.reason), error.message, trailing_metadata(error))
        yield  # makes this a stream

    return grpc.stream_stream_rpc_method_handler(refuse)


def bracketed(host: str) -> str:
    """`host` as it is written in front of a port: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


def serve(config: ServerConfig, on_start: Callable[[int], None]) -> None:
    """Serves until a signal; `on_start` gets the port.

    Raises WorkerError or ServiceError if that is impossible, TransientError if it becomes so.
    """

    async def run() -> None:
        server = Server(config)
        await server.start()
        on_start(server.port)
        await server.run()

    malloc.keep_freed_memory()
    asyncio.run(run())
