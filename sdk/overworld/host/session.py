"""The front's side of a session: checks commands, waits for results, and writes responses."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

from overworld.authoring.env import EnvSpec
from overworld.authoring.runner import choose_task
from overworld.contract.compression import compress
from overworld.contract.frames import FrameFile
from overworld.contract.wire import tensor_from_proto
from overworld.errors import ContractError, Reason
from overworld.host.callers import Caller
from overworld.host.slot import HostedSlot, Waiter
from overworld.host.worker_process import WorkerProcess
from overworld.service import bounds
from overworld.v1 import env_pb2 as pb


class HostedSession:
    """A client's lease on slots. `key` names it among front and workers: names of clients may be used again.

    `open(session)` is started at once; `opened` is its task.
    """

    def __init__(
        self,
        *,
        key: int,
        owner: Caller,
        request: pb.OpenRequest,
        slots: Sequence[HostedSlot],
        frames: FrameFile,
        lease: float,
        open: Callable[[HostedSession], Coroutine[Any, Any, pb.OpenResponse]],
    ) -> None:
        self.key = key
        self.owner = owner
        self.request = request
        self.slots = slots
        self.frames = frames
        self.lease = lease
        self.transport: pb.Transport = pb.TRANSPORT_INLINE
        self.spec: EnvSpec | None = None
        """None until it is open."""
        self.up: set[WorkerProcess] = set()
        """Workers that have its envs."""
        self.responses = asyncio.Semaphore(bounds.RESPONSES)
        self.closed = False
        self._waiting = 0
        self._expires = math.inf
        self.opened = asyncio.create_task(open(self))
        self.opened.add_done_callback(lambda task: task.cancelled() or task.exception())  # nobody may be waiting

    def __repr__(self) -> str:
        state = "closed" if self.closed else "opening" if self.spec is None else "open"
        return f"<HostedSession {self.request.session}: {len(self.slots)} slots of {self.request.env_id}, {state}>"

    def renew(self) -> None:
        """Starts the lease again: the client has called."""
        self._expires = time.monotonic() + self.lease

    @property
    def expired(self) -> bool:
        """Whether the lease has run out, which it does not while a call waits."""
        return self._waiting == 0 and self._expires < time.monotonic()

    def check_open(self) -> None:
        """Raises ContractError if the session was closed while a call waited."""
        if self.closed:
            raise ContractError(Reason.SESSION_UNKNOWN, "the session was closed while this call waited; open it again")

    def check_current(self, commands: Iterable[pb.Command]) -> None:
        """Raises ContractError if a slot was given its next command while the call that sent `commands` waited.

        The slot has nothing to show for the last command then, and its frames may be those of the next one.
        """
        for command in commands:
            last = self.slots[command.slot].command
            assert last is not None
            if (command.episode, command.turn) != (last.episode, last.turn):
                raise ContractError(
                    Reason.STALE,
                    f"slot {command.slot}, episode {command.episode}, turn {command.turn}: it was executed, but the "
                    f"slot was sent on to episode {last.episode}, turn {last.turn} before this call was answered; read "
                    "each result before you send the slot's next command",
                )

    def close(self) -> None:
        """Refuses the calls that wait and frees the memory of the frames."""
        self.closed = True
        for slot in self.slots:
            for waiter in slot.waiters:
                if not waiter.done.done():
                    waiter.done.set_result(None)  # `check_open` refuses them
        self.frames.close()

    def accept(self, commands: Iterable[pb.Command]) -> list[pb.Command]:
        """Checks all commands, then makes them the slots' current ones. Returns those that are to be executed, without
        replies; the others were sent before.

        Raises ContractError, with nothing changed.
        """
        assert self.spec is not None
        spec = self.spec
        named: set[int] = set()
        fresh = []
        for command in commands:
            if command.slot in named:
                raise ContractError(Reason.SLOT_REPEATED, f"slot {command.slot} has two commands in this batch")
            named.add(command.slot)
            if self._is_fresh(spec, command):
                fresh.append(command)
        self.renew()
        return [self.slots[command.slot].accept(command) for command in fresh]

    async def wait(self, slots: Sequence[HostedSlot], min_ready: int) -> None:
        """Until `min_ready` of the slots (0: all) are ready."""
        running = [slot for slot in slots if slot.running]
        missing = (min(min_ready, len(slots)) or len(slots)) - (len(slots) - len(running))
        if missing <= 0:
            return
        waiter = Waiter(missing, asyncio.get_running_loop().create_future())
        for slot in running:
            slot.waiters.append(waiter)
        self._waiting += 1
        try:
            await waiter.done
        finally:
            self._waiting -= 1
            self.renew()

    def frame_bytes(self, slots: Iterable[HostedSlot], transport: pb.Transport) -> int:
        """How much of a response with the slots' results its frames take, before they are compressed."""
        if transport == pb.TRANSPORT_SHARED_MEMORY:
            return 0
        ready = (slot for slot in slots if slot.result is not None)
        return sum(place.height * place.width * place.channels for slot in ready for place in slot.places)

    def respond(
        self, slots: Sequence[HostedSlot], transport: pb.Transport
    ) -> tuple[pb.StepResponse, Sequence[bytes | memoryview]]:
        """The slots' results, and the frames to append where they travel inline."""
        response = pb.StepResponse()
        blocks: dict[tuple[int, ...], int] = {}
        frames: list[list[pb.FrameBlock]] = []
        inline = transport != pb.TRANSPORT_SHARED_MEMORY
        for slot in slots:
            if slot.result is None:
                assert slot.command is not None
                episode, turn = slot.command.episode, slot.command.turn
                response.results.add(slot=slot.index, episode=episode, turn=turn, state=pb.SLOT_STATE_PENDING)
                continue
            result = response.results.add()
            result.CopyFrom(slot.result)
            for image, place in zip(result.observation.images, slot.places, strict=True):
                # Inline, all frames of one size make a block; shared, those at the same place of all regions.
                size = (place.height, place.width, place.channels)
                key = size if inline else (place.offset - slot.index * self.frames.stride, *size)
                block = blocks.setdefault(key, len(frames))
                if block == len(frames):
                    frames.append([])
                image.block = block
                image.index = len(frames[block]) if inline else slot.index
                frames[block].append(place)
        packed = self._describe(response, blocks, frames, inline)
        return response, _compressed(response, packed) if transport == pb.TRANSPORT_INLINE_LZ4 else packed

    def _describe(
        self,
        response: pb.StepResponse,
        blocks: dict[tuple[int, ...], int],
        frames: list[list[pb.FrameBlock]],
        inline: bool,
    ) -> list[memoryview]:
        packed: list[memoryview] = []
        memory = memoryview(self.frames.memory)
        offset = 0
        for key, block in blocks.items():
            height, width, channels = key[-3:]
            size = height * width * channels
            if inline:
                places = frames[block]
                response.blocks.add(
                    offset=offset, stride=size, count=len(places), height=height, width=width, channels=channels
                )
                packed += [memory[place.offset : place.offset + size] for place in places]
                offset += size * len(places)
            else:
                response.blocks.add(
                    offset=key[0],
                    stride=self.frames.stride,
                    count=len(self.slots),
                    height=height,
                    width=width,
                    channels=channels,
                )
        return packed

    def _is_fresh(self, spec: EnvSpec, command: pb.Command) -> bool:
        """False for a command that was sent before. Raises ContractError for one that cannot be executed."""
        if command.slot >= len(self.slots):
            raise ContractError(
                Reason.SLOT_UNKNOWN, f"there is no slot {command.slot}; the session has 0 to {len(self.slots) - 1}"
            )
        slot = self.slots[command.slot]
        last = slot.command
        if last is not None:
            name, last_name = (command.episode, command.turn), (last.episode, last.turn)
            if name == last_name:
                if not slot.repeats(command):
                    raise self._refusal(Reason.CONFLICT, command, "another command had this name; names are used once")
                return False
            if name < last_name:
                raise self._refusal(
                    Reason.STALE, command, f"the slot is at episode {last.episode}, turn {last.turn} by now"
                )
        kind = command.WhichOneof("kind")
        if kind is None:
            raise self._refusal(Reason.REQUEST_INVALID, command, "it holds neither a reset nor an action")
        if last is not None and slot.running:
            raise self._refusal(
                Reason.BUSY, command, f"episode {last.episode}, turn {last.turn} is running: collect its result first"
            )
        if kind == "reset":
            self._check_reset(spec, last, command)
        else:
            self._check_next(slot, command)
            self._check_action(spec, command, command.action)
            self._check_recorded(spec, command, [command.action], slot.recorded)
        return True

    def _check_reset(self, spec: EnvSpec, last: pb.Command | None, command: pb.Command) -> None:
        reset = command.reset
        if last is not None and command.episode == last.episode:
            raise self._refusal(Reason.REQUEST_INVALID, command, "a reset needs a new episode number, above the last")
        if len(reset.prefix) > (spec.max_turns or bounds.PREFIX):
            raise self._refusal(Reason.REQUEST_INVALID, command, f"a prefix of {len(reset.prefix)} actions is too long")
        if command.turn != len(reset.prefix):
            raise self._refusal(
                Reason.TURN_SKIPPED, command, f"a reset with {len(reset.prefix)} prefix actions makes that turn"
            )
        try:
            task = reset.task if reset.HasField("task") else None
            choose_task(spec.splits, reset.split or spec.default_split, task, reset.seed)
        except ContractError as error:
            raise self._refusal(error.reason, command, error.message) from None
        for action in reset.prefix:
            self._check_action(spec, command, action)
        self._check_recorded(spec, command, reset.prefix, 0)

    def _check_next(self, slot: HostedSlot, command: pb.Command) -> None:
        last = slot.command
        if last is None or command.episode != last.episode:
            raise self._refusal(Reason.NOT_RESET, command, "this episode has not been started: send a reset first")
        assert slot.result is not None
        if slot.result.state == pb.SLOT_STATE_FAILED:
            raise self._refusal(Reason.NOT_RESET, command, f"the slot failed ({slot.result.error.reason}): reset it")
        if slot.result.end:
            raise self._refusal(Reason.EPISODE_ENDED, command, f"the episode ended at turn {last.turn}: reset the slot")
        if command.turn != last.turn + 1:
            raise self._refusal(Reason.TURN_SKIPPED, command, f"the next turn is {last.turn + 1}")

    def _check_action(self, spec: EnvSpec, command: pb.Command, action: pb.Action) -> None:
        bound = max(spec.action.max_text_bytes, bounds.VOCABULARY_TEXT if spec.action.vocabulary else 0)
        size = len(action.text.encode())
        if size > bound:
            raise self._refusal(
                Reason.ACTION_TOO_LARGE, command, f"the action's text has {size:,} bytes, the bound is {bound:,}"
            )
        size = len(action.reply.encode())
        if size > bounds.REPLY:
            raise self._refusal(
                Reason.ACTION_TOO_LARGE, command, f"the reply has {size:,} bytes, the bound is {bounds.REPLY:,}"
            )
        if action.WhichOneof("value") == "tensor":
            low = spec.action.low
            if low is None or len(action.tensor.data) > low.nbytes:
                what = f"takes tensors of {low.nbytes:,} bytes" if low is not None else "takes no tensors"
                raise self._refusal(Reason.REQUEST_INVALID, command, f"{spec.id} {what}")
            try:
                tensor_from_proto(action.tensor)
            except ValueError as error:
                raise self._refusal(Reason.REQUEST_INVALID, command, str(error)) from None

    def _check_recorded(self, spec: EnvSpec, command: pb.Command, actions: Sequence[pb.Action], recorded: int) -> None:
        """Bounds what is kept of an episode. Its last action may be as long as any."""
        size = command.ByteSize()
        low = spec.action.low
        bound = bounds.EPISODE + (spec.action.max_text_bytes if low is None else low.nbytes)
        if recorded + size > bound:
            size -= sum(len(action.reply.encode()) for action in actions)
        if recorded + size > bound:
            why = f"the episode's actions take {recorded + size:,} bytes, the bound is {bound:,}: reset the slot"
            raise self._refusal(Reason.REQUEST_INVALID, command, why)

    @staticmethod
    def _refusal(reason: Reason, command: pb.Command, why: str) -> ContractError:
        return ContractError(
            reason, f"slot {command.slot}, episode {command.episode}, turn {command.turn}: {why}; nothing was executed"
        )


def _compressed(response: pb.StepResponse, frames: Sequence[memoryview]) -> list[bytes | memoryview]:
    """The frames with each block compressed, unless that makes it larger; the blocks are changed to describe it."""
    sent: list[bytes | memoryview] = []
    left = iter(frames)
    offset = 0
    for block in response.blocks:
        own = [next(left) for _ in range(block.count)]
        size = block.count * block.stride
        data = compress(own)
        block.offset = offset
        if len(data) < size:
            block.compressed_size = size = len(data)
            sent.append(data)
        else:
            sent += own
        offset += size
    return sent
