"""A runner on a worker: its frames go into the memory that the front, or a client, reads."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from overworld.authoring.env import Env, Image
from overworld.authoring.runner import Result, Runner
from overworld.contract.frames import Region, pixels_hash
from overworld.contract.wire import action_from_proto, result_to_proto
from overworld.errors import ContractError, Reason
from overworld.v1 import env_pb2 as pb

_logger = logging.getLogger(__name__)


class HostedRunner:
    """A runner whose frames go into the session's file."""

    def __init__(self, runner: Runner, region: Region, on_turn: Callable[[], None]) -> None:
        self._runner = runner
        self._region = region
        self._on_turn = on_turn
        self._placed: list[tuple[int, int]] | None = None  # offset and hash of the images that the region shows

    @property
    def env(self) -> Env:
        """The env."""
        return self._runner.env

    async def run(self, command: pb.Command, response: pb.StepResponse) -> None:
        """Executes the command and appends its result, and one block per image, to `response`."""
        if command.HasField("reset"):
            self._region.forget_canvases()
            self.env.draw_on(self._region.canvas)
            self._placed = None
        await self._attempt(command, response, self._show)

    async def replay(self, command: pb.Command, response: pb.StepResponse) -> None:
        """As `run`, but nothing is shown: the region still holds what a client may be looking at."""
        self.env.draw_on(None)
        self._placed = None
        await self._attempt(command, response, self._hash)

    async def _attempt(
        self,
        command: pb.Command,
        response: pb.StepResponse,
        finish: Callable[[Result, pb.SlotResult, pb.StepResponse], None],
    ) -> None:
        started = time.perf_counter()
        try:
            result = await self._execute(command)
            message = result_to_proto(result)
            message.micros = min(int((time.perf_counter() - started) * 1e6), 0xFFFF_FFFF)
            finish(result, message, response)
        except ContractError as error:
            message = failed(command, error.reason, error.message)
        except (Exception, asyncio.CancelledError) as error:  # an env may raise anything; that fails its slot only
            _logger.exception("slot %d, episode %d, turn %d", command.slot, command.episode, command.turn)
            message = failed(command, Reason.ENV_ERROR, f"{type(error).__name__}: {error}")
        response.results.append(message)

    async def _execute(self, command: pb.Command) -> Result:
        if command.WhichOneof("kind") == "action":
            return await self._runner.astep(action_from_proto(command.action))
        reset = command.reset
        return await self._runner.areset(
            reset.seed,
            split=reset.split,
            task=reset.task if reset.HasField("task") else None,
            prefix=[action_from_proto(action) for action in reset.prefix],
            episode=command.episode,
            on_turn=self._on_turn,
        )

    def _show(self, result: Result, message: pb.SlotResult, response: pb.StepResponse) -> None:
        """Brings the images into the region, unless the turn was skipped and they are there, and describes them."""
        images = result.observation.images
        skipped = result.outcome is not None and result.executed is None
        if self._placed is None or not skipped:
            self._placed = self._place(images)
        for image, sent, (offset, digest) in zip(images, message.observation.images, self._placed, strict=True):
            height, width, channels = image.pixels.shape
            sent.block = len(response.blocks)
            sent.xxh64 = digest
            response.blocks.add(
                offset=offset, stride=image.pixels.size, count=1, height=height, width=width, channels=channels
            )

    def _place(self, images: Sequence[Image]) -> list[tuple[int, int]]:
        offsets = self._region.place([image.pixels for image in images])
        return [(offset, pixels_hash(image.pixels)) for offset, image in zip(offsets, images, strict=True)]

    @staticmethod
    def _hash(result: Result, message: pb.SlotResult, _: pb.StepResponse) -> None:
        for image, sent in zip(result.observation.images, message.observation.images, strict=True):
            sent.xxh64 = pixels_hash(image.pixels)


def failed(command: pb.Command, reason: Reason, message: str) -> pb.SlotResult:
    """The result of a command that failed."""
    return pb.SlotResult(
        slot=command.slot,
        episode=command.episode,
        turn=command.turn,
        state=pb.SLOT_STATE_FAILED,
        error=pb.SlotError(reason=reason.name, message=message, reset_helps=True),
    )
