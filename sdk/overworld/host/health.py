"""gRPC's health checks, which anybody may make: they cost the server next to nothing, whatever is sent along."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

from overworld.service import bounds
from overworld.service.extras import needs_extra

with needs_extra("host"):
    from grpc_health.v1 import health, health_pb2

SERVICE: str = health.SERVICE_NAME


class Health:
    """Whether the server serves. All its services do or none, so that what a check asks for is not even read.

    gRPC keeps as much of a request that nobody reads as fits into a stream's window of 64 KiB.
    """

    def __init__(self) -> None:
        self._status: int = health_pb2.HealthCheckResponse.NOT_SERVING
        self._changed = asyncio.Condition()
        self._watches = 0

    def __repr__(self) -> str:
        return f"<Health: {self._status}>"

    @property
    def serving(self) -> bool:
        """What is answered now."""
        return self._status == health_pb2.HealthCheckResponse.SERVING

    async def set(self, serving: bool) -> None:
        """What is answered from now on."""
        status = health_pb2.HealthCheckResponse
        async with self._changed:
            self._status = status.SERVING if serving else status.NOT_SERVING
            self._changed.notify_all()

    def handlers(self) -> grpc.GenericRpcHandler:
        """The service. As streams, its calls begin before their request is there."""
        methods: dict[str, Any] = {
            name: grpc.stream_stream_rpc_method_handler(
                call, response_serializer=health_pb2.HealthCheckResponse.SerializeToString
            )
            for name, call in (("Check", self._check), ("Watch", self._watch))
        }
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    async def _check(self, _: Any, __: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        yield _response(self._status)

    async def _watch(self, _: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        if self._watches >= bounds.WATCHES:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED, f"{self._watches} clients watch this server's health; use Check"
            )
        self._watches += 1
        try:
            told = None
            while True:
                async with self._changed:
                    await self._changed.wait_for(lambda: self._status != told)  # noqa: B023 - called before it changes
                    told = self._status
                yield _response(told)
        finally:
            self._watches -= 1


def _response(status: Any) -> health_pb2.HealthCheckResponse:
    return health_pb2.HealthCheckResponse(status=status)
