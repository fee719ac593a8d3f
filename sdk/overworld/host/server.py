"""The front as a gRPC service, with health, reflection, bearer token, metrics and graceful shutdown."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import DecodeError

from overworld.contract import checksum
from overworld.contract.status import status_code, trailing_metadata
from overworld.errors import ContractError, Reason, ServiceError, SettingsError, TransientError
from overworld.host import callers, outline
from overworld.host.callers import Callers
from overworld.host.config import ServerConfig
from overworld.host.front import KEEPALIVE_SECONDS, MAX_RESPONSE_BYTES, Front
from overworld.host.health import SERVICE as HEALTH_SERVICE
from overworld.host.health import Health
from overworld.host.metrics import ServerMetrics
from overworld.service import bounds, malloc
from overworld.service.addresses import host_of, is_loopback
from overworld.service.exposition import MetricsServer
from overworld.service.extras import needs_extra
from overworld.service.tls import TlsFolder
from overworld.service.watchdog import Watchdog
from overworld.v1 import env_pb2 as pb

with needs_extra("host"):
    from grpc_reflection.v1alpha import reflection

if TYPE_CHECKING:
    from overworld.host.openenv.endpoint import Endpoint

_logger = logging.getLogger(__name__)

_SERVICE = pb.DESCRIPTOR.services_by_name["EnvService"].full_name
_STOP_SECONDS = 2.0
_HEALTH_SECONDS = 0.5
_PROBE_SECONDS = 4.0
_TRIM_SECONDS = 10.0
"""Between two looks at memory that has been freed and is kept: what a client made the server take comes back."""
_STUCK_SECONDS = 60.0
"""For so long the event loop may stand still before the server ends."""
_PONG_SECONDS = 20

_CHANNEL_OPTIONS = [
    ("grpc.so_reuseport", 0),  # else a second server on the port is not refused and takes half of the calls
    ("grpc.max_receive_message_length", int(bounds.STEP_REQUEST)),
    ("grpc.max_send_message_length", MAX_RESPONSE_BYTES),
    ("grpc.max_concurrent_streams", int(bounds.STREAMS)),
    ("grpc.absolute_max_metadata_size", int(bounds.HEADERS)),
    ("grpc.http2.lookahead_bytes", int(bounds.UNREAD)),
    ("grpc.http2.bdp_probe", 0),  # else it is what the link can carry
    ("grpc.server_handshake_timeout_ms", bounds.HANDSHAKE * 1000),
    ("grpc.max_connection_idle_ms", bounds.IDLE * 1000),
    # Clients ping to notice a dead link; gRPC's default is to hang up on those that ping often.
    ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_SECONDS * 1000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Who does not read answers no pings either, and loses the connection with all that waits to be sent.
    ("grpc.keepalive_time_ms", (bounds.UNREADABLE - _PONG_SECONDS) * 1000),
    ("grpc.keepalive_timeout_ms", _PONG_SECONDS * 1000),
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
        self._callers = Callers(
            config.token, config.tokens, quota=config.quota, quotas=config.quotas, metrics=self._metrics
        )
        self._tls = TlsFolder(config.tls, server=True) if config.tls else None
        self._grpc: grpc.aio.Server | None = None
        self._health = Health()
        self._listening: asyncio.Task[None] | None = None
        self._openenv: Endpoint | None = None
        self._telling: asyncio.Task[None] | None = None
        self._watchdog: Watchdog | None = None
        self._announcing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Loads the envs and begins to listen; `port` is set. Raises WorkerError or ServiceError."""
        config = self._config
        host = bracketed(config.host)
        try:
            listener = self._grpc = self._bound(config.port)
        except RuntimeError as error:
            raise ServiceError(
                f"cannot listen on {host}:{config.port} ({error}); is another server there, or the host unknown?"
            ) from None
        if self._tls is None and not is_loopback(config.host):
            _logger.warning("plaintext: tokens, actions and frames cross the network as they are")
        await self._front.start()
        if config.metrics_port:
            try:
                MetricsServer(
                    config.host, config.metrics_port, self._metrics.registry, self._healthy(asyncio.get_running_loop())
                ).start()
            except OSError as error:
                raise ServiceError(
                    f"cannot serve metrics on {host}:{config.metrics_port} ({error}); choose another --metrics-port"
                ) from None
        if config.openenv_port:
            from overworld.host.openenv.app import OpenEnv  # only this needs starlette and uvicorn
            from overworld.host.openenv.endpoint import Endpoint

            app = OpenEnv(self._front, self._callers, self._metrics, config.slots).app
            self._openenv = Endpoint(app, config.host, config.openenv_port, self._tls)
        await listener.start()
        self._listening = asyncio.create_task(self._listen_on(listener))
        if config.registry:
            from overworld.redis_registry import announce  # only this needs the package redis

            address = config.advertise or f"{host}:{self.port}"
            name = _certificate_name(self._tls, address) if self._tls else ""
            self._announcing = asyncio.create_task(
                announce(
                    config.registry, config.redis_credentials(), self._front.instance, address, name, self._front.envs
                )
            )
        await self._health.set(True)
        # Workers are looked after by the front, and what looks after the front is this.
        self._watchdog = Watchdog("overworld serve", "its event loop", lambda: asyncio.sleep(0), _STUCK_SECONDS)
        self._telling = asyncio.create_task(self._watch_health())

    async def run(self) -> None:
        """Serves until SIGTERM or SIGINT, then drains.

        Raises TransientError if a worker cannot be replaced, or the port cannot be listened on any more.
        """
        loop = asyncio.get_running_loop()
        stopping = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)
        signalled = asyncio.ensure_future(stopping.wait())
        assert self._listening is not None
        failing: list[asyncio.Future[Any]] = [self._front.failed, self._listening]
        await asyncio.wait([*failing, signalled], return_when=asyncio.FIRST_COMPLETED)
        for failed in failing:
            if failed.done():
                await self.stop(0)
                failed.result()
        _logger.info("stopping: running sessions have %g s", self._config.grace)
        await self.stop(self._config.grace)

    async def stop(self, grace: float) -> None:
        """Drains for `grace` seconds, then ends."""
        if self._telling:
            self._telling.cancel()
        await self._health.set(False)
        if self._announcing:
            self._announcing.cancel()
            await asyncio.wait([self._announcing])
        await self._front.drain(grace)
        if self._openenv:
            await self._openenv.stop()
        if self._listening:
            self._listening.cancel()
        if self._grpc:
            await self._grpc.stop(_STOP_SECONDS)
        await self._front.stop()
        if self._watchdog:
            self._watchdog.stop()

    def _bound(self, port: int) -> grpc.aio.Server:
        """A gRPC server of all services, bound to the port. Raises RuntimeError."""
        # Whoever connects must leave descriptors for sessions, and for workers that are started again.
        connections = min(bounds.CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
        options = [*_CHANNEL_OPTIONS, ("grpc.max_allowed_incoming_connections", connections)]
        server = grpc.aio.server(options=options, interceptors=[_BearerToken(self._callers, self._metrics)])
        server.add_generic_rpc_handlers((self._handlers(), self._health.handlers()))
        reflection.enable_server_reflection((_SERVICE, HEALTH_SERVICE, reflection.SERVICE_NAME), server)
        address = f"{bracketed(self._config.host)}:{port}"
        if self._tls is None:
            self.port = server.add_insecure_port(address)
        else:
            self.port = server.add_secure_port(address, _server_credentials(self._tls))
        return server

    async def _listen_on(self, listener: grpc.aio.Server) -> None:
        """Listens again each time that gRPC has given up. Raises TransientError if that does not work.

        grpc.aio (1.83) ends when anybody, with or without a token, calls a method whose name is not UTF-8. That cuts
        all connections; sessions are the front's, and stay.
        """
        while True:
            try:
                await asyncio.shield(listener.wait_for_termination())  # which would be cancelled with its future
            except Exception as error:
                _logger.error("gRPC has ended, and is started again: %r", error)
            try:
                listener = self._grpc = self._bound(self.port)
            except RuntimeError as error:
                raise TransientError(f"cannot listen on port {self.port} again ({error})") from None
            await listener.start()

    def _healthy(self, loop: asyncio.AbstractEventLoop) -> Callable[[], bool]:
        """What another thread asks. The loop answers: while it hangs nobody is served."""

        async def ask() -> bool:
            return self._health.serving

        def healthy() -> bool:
            try:
                return asyncio.run_coroutine_threadsafe(ask(), loop).result(_PROBE_SECONDS)
            except TimeoutError:
                return False

        return healthy

    async def _watch_health(self) -> None:
        """Workers are pinged all the time, not when somebody asks: a check costs them nothing.

        What clients are done with is given back from time to time. Files are looked at, too, so that what is wrong with
        new ones is said before somebody needs them.
        """
        told, trimmed = True, time.monotonic()
        while True:
            if time.monotonic() > trimmed + _TRIM_SECONDS:
                await asyncio.to_thread(malloc.trim)
                trimmed = time.monotonic()
            if self._tls is not None and (certificate := self._tls.files.certificate):
                self._metrics.certificate_ends.set(certificate.ends)
            self._callers.refresh()
            await asyncio.sleep(_HEALTH_SECONDS)
            if (healthy := self._front.healthy) != told:
                await self._health.set(healthy)
                told = healthy

    def _handlers(self) -> grpc.GenericRpcHandler:
        front = self._front
        return grpc.method_handlers_generic_handler(
            _SERVICE,
            {
                "GetServerInfo": self._unary(front.get_server_info, pb.GetServerInfoRequest, bounds.SMALL_REQUEST),
                "Open": self._unary(front.open, pb.OpenRequest, bounds.OPEN_REQUEST),
                "Step": self._unary(front.step, pb.StepRequest, bounds.STEP_REQUEST, large=True),
                "Close": self._unary(front.close, pb.CloseRequest, bounds.SMALL_REQUEST),
            },
        )

    def _unary(
        self, call: Callable[..., Awaitable[Any]], request_type: Any, bound: bounds.Bound, *, large: bool = False
    ) -> grpc.RpcMethodHandler[Any, Any]:
        """A handler. The response of a `large` call comes serialised, and the call learns when it has been sent."""
        name = call.__name__
        method = request_type.DESCRIPTOR.name.removesuffix("Request")

        def serialised(message: Any) -> bytes:
            return checksum.with_checksum(method, message.SerializeToString())

        async def handle(data: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            callers.received.get()()
            caller = callers.current.get()
            try:
                with caller.calling(len(data)):
                    bound.check(len(data))
                    if large and len(data) >= outline.LARGE_BYTES:
                        await asyncio.to_thread(outline.check, data, self._front.room)
                    _check(method, data, context)
                    request = _parsed(request_type, data)
                    response = await (call(request, context.add_done_callback) if large else call(request))
            except ContractError as error:
                self._metrics.calls.labels(name, error.reason.name).inc()
                self._metrics.client_calls.labels(caller.name, error.reason.name).inc()
                await context.abort(status_code(error.reason), error.message, trailing_metadata(error))
            self._metrics.calls.labels(name, "").inc()
            self._metrics.client_calls.labels(caller.name, "").inc()
            return response

        return grpc.unary_unary_rpc_method_handler(
            handle,
            request_deserializer=None,  # so that broken bytes get one of the contract's errors, too
            response_serializer=None if large else serialised,
        )


def _check(method: str, data: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> None:
    """Raises ContractError CORRUPTED for a request that is not the one that was sent."""
    header = dict(context.invocation_metadata() or ()).get(checksum.HEADER)
    if header is not None:
        try:
            checksum.check_request(method, data, str(header))
        except checksum.CorruptedError as error:
            raise ContractError(Reason.CORRUPTED, f"{error}; send it again") from None


def _parsed(request_type: Any, data: bytes) -> Any:
    try:
        return request_type.FromString(data)
    except DecodeError:
        raise ContractError(Reason.REQUEST_INVALID, f"the request is no {request_type.DESCRIPTOR.name}") from None


class _BearerToken(grpc.aio.ServerInterceptor):
    """Finds out who calls, and refuses calls without a token; health checks aside, since probes cannot send one."""

    def __init__(self, known: Callers, metrics: ServerMetrics) -> None:
        self._known = known
        self._metrics = metrics

    async def intercept_service(self, continuation: Any, details: grpc.HandlerCallDetails) -> Any:
        handler = await continuation(details)
        if handler is None or details.method.startswith(f"/{HEALTH_SERVICE}/"):
            return handler
        try:
            caller = self._known.identify(str(dict(details.invocation_metadata).get("authorization", "")))
        except ContractError as error:
            self._metrics.client_calls.labels("", error.reason.name).inc()
            return _refusing(error)
        callers.current.set(caller)  # for the handler, which runs in the same task
        if details.method.startswith(f"/{_SERVICE}/"):
            callers.received.set(await caller.receive())
        return handler


def _server_credentials(folder: TlsFolder) -> grpc.ServerCredentials:
    """What a connection is made with: the certificates that are in the folder at that moment."""

    def configuration() -> grpc.ServerCertificateConfiguration:
        files = folder.files
        assert files.key is not None and files.chain is not None
        return grpc.ssl_server_certificate_configuration([(files.key, files.chain)], files.authority)

    loaded = folder.version

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal loaded
        fresh = configuration()
        if folder.version == loaded:
            return None
        loaded = folder.version
        return fresh

    return grpc.dynamic_ssl_server_credentials(
        configuration(),
        renewed,  # type: ignore[arg-type] # None: it has not changed
        require_client_authentication=folder.files.authority is not None,
    )


def _certificate_name(folder: TlsFolder, address: str) -> str:
    """The name that clients are to find in the certificate of this server at `address`; '' for the address's host."""
    certificate = folder.files.certificate
    assert certificate is not None
    host = host_of(address)
    if certificate.covers(host):
        return ""
    names = [name for name in certificate.names if not name.startswith("*")]
    if not names:
        raise SettingsError(f"tls: the certificate in {folder.folder} is not for {host}, the address of this server")
    return names[0]


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
        gc.freeze()  # what stays need not be looked at while calls wait
        on_start(server.port)
        await server.run()

    malloc.keep_freed_memory()
    # The event loop waits for Python's lock as long, each time, while a thread looks through a large request.
    sys.setswitchinterval(0.0005)
    asyncio.run(run())
