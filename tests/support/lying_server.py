"""The reference host in this process, which can be made to lie, one fault at a time."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from overworld.contract.frames import join_response
from overworld.errors import ContractError
from overworld.host.config import ServerConfig
from overworld.host.front import Front
from overworld.host.server import Server
from overworld.v1 import env_pb2 as pb


class Lies:
    """What is planted: hooks around the calls of the host, each of which does nothing at first."""

    def __init__(self, front: Front, patch: pytest.MonkeyPatch, server: Server) -> None:
        self.front, self.patch, self.server = front, patch, server
        self.memory: dict[Any, Any] = {}
        """For faults that have to remember something."""
        self.info: Callable[[pb.GetServerInfoResponse], object] = lambda response: None
        self.open_request: Callable[[pb.OpenRequest], object] = lambda request: None
        self.open: Callable[[pb.OpenRequest, pb.OpenResponse], object] = lambda request, response: None
        self.step_request: Callable[[pb.StepRequest], object] = lambda request: None
        self.step: Callable[[pb.StepRequest, pb.StepResponse], object] = lambda request, response: None
        self.refusal: Callable[[str, ContractError], ContractError] = lambda method, error: error
        self.around_step: Callable[[pb.StepRequest, Callable[[], Awaitable[bytes]]], Awaitable[bytes]] | None = None
        self.close: Callable[[pb.CloseRequest], bool] = lambda request: False
        """Whether the call is not to be executed."""
        self.raw: Callable[[bytes], bytes] = lambda data: data
        """The bytes of a Step's answer."""


class LyingServer:
    """`address` answers as the host does, as long as nothing is planted."""

    def __init__(self, *envs: str, token: str = "", slots: int = 16, workers: int = 1) -> None:
        config = ServerConfig(envs=list(envs), port=0, slots=slots, workers=workers, allow_expert=True, token=token)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="lying server", daemon=True)
        self._thread.start()
        self._server = self._run(self._make(config))
        self.address = f"127.0.0.1:{self._server.port}"

    def close(self) -> None:
        self._run(self._server.stop(0))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @contextlib.contextmanager
    def lying(self, patch: pytest.MonkeyPatch) -> Iterator[Lies]:
        """Whatever is planted within is gone afterwards, and so are all sessions."""
        lies = self._lies = Lies(self._front, patch, self._server)
        try:
            yield lies
        finally:
            patch.undo()
            self._lies = Lies(self._front, patch, self._server)
            self._run(self._forget())

    async def _forget(self) -> None:
        for session in list(self._front._sessions.values()):
            self._front._end(session)

    def _run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    async def _make(self, config: ServerConfig) -> Server:
        server = Server(config)
        front = self._front = server._front
        self._lies = Lies(front, pytest.MonkeyPatch(), server)
        get_server_info, open_, step_, close_ = front.get_server_info, front.open, front.step, front.close

        async def info(request: pb.GetServerInfoRequest, *more: Any) -> pb.GetServerInfoResponse:
            response = await get_server_info(request, *more)
            self._lies.info(response)
            return response

        async def open(request: pb.OpenRequest, *more: Any) -> pb.OpenResponse:
            self._lies.memory["opened with"] = more
            original = pb.OpenRequest()
            original.CopyFrom(request)
            try:
                self._lies.open_request(request)
                response = await open_(request, *more)
            except ContractError as error:
                raise self._lies.refusal("Open", error) from None
            self._lies.open(original, response)
            return response

        async def step(request: pb.StepRequest, *more: Any) -> bytes:
            async def execute() -> bytes:
                original = pb.StepRequest()
                original.CopyFrom(request)
                self._lies.step_request(request)
                response = pb.StepResponse.FromString(await step_(request, *more))
                self._lies.step(original, response)
                frames = response.frames
                response.ClearField("frames")
                response.ClearField("checksum")
                return join_response(response, [frames])

            try:
                around = self._lies.around_step
                data = await (execute() if around is None else around(request, execute))
            except ContractError as error:
                raise self._lies.refusal("Step", error) from None
            return self._lies.raw(data)

        async def close(request: pb.CloseRequest, *more: Any) -> pb.CloseResponse:
            return pb.CloseResponse() if self._lies.close(request) else await close_(request, *more)

        for name, call in (("get_server_info", info), ("open", open), ("step", step), ("close", close)):
            setattr(front, name, call)
        await server.start()
        return server
