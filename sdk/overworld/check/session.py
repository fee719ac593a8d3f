"""A session under check: sends commands, examines the results, compares them with those of the same history."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import xxhash

from overworld.check.audit import Fault, Turn, result_faults, step_faults
from overworld.check.findings import StopCheckError
from overworld.check.histories import History, Setting, comparable, difference
from overworld.check.play import Episode
from overworld.check.wire import Answer, Running
from overworld.service.extras import needs_extra
from overworld.v1 import env_pb2 as pb

if TYPE_CHECKING:
    from overworld.check.case import Case

_MAX_UNPACKED_BYTES = 256 << 20

_Name = tuple[int, int, int]
"""Slot, episode and turn."""


class Session:
    """Opened by `Case.open`. Results that the checks build on are asked for with `step`, others with `send`."""

    def __init__(self, case: Case, request: pb.OpenRequest, opened: pb.OpenResponse) -> None:
        self.request, self.opened, self.spec = request, opened, opened.spec
        self.results: dict[_Name, pb.SlotResult] = {}
        self.last: dict[int, pb.SlotResult] = {}
        """Of each slot, with the largest name."""
        self._case = case
        self._histories: dict[_Name, History] = {}
        self._blamed = "D1"
        self._file: int | None = None
        self.moved(opened)

    @property
    def name(self) -> str:
        """The UUID."""
        return self.request.session

    @property
    def lease(self) -> float:
        """Seconds that were granted."""
        return self.opened.lease.seconds + self.opened.lease.nanos / 1e9

    @property
    def setting(self) -> Setting:
        """What results depend on beside the history."""
        request = self.request
        fallback = request.fallback or pb.FALLBACK_SKIP
        charged = 0.0 if fallback == pb.FALLBACK_RANDOM else request.fallback_reward
        return Setting(request.env_id, request.options_json, fallback, charged)

    @contextlib.contextmanager
    def blaming(self, rule: str) -> Iterator[None]:
        """Results that differ from those of the same history are said to break `rule`."""
        before, self._blamed = self._blamed, rule
        try:
            yield
        finally:
            self._blamed = before

    def moved(self, opened: pb.OpenResponse) -> None:
        """Notes what another Open granted."""
        self.forget_file()
        self.opened = opened
        if opened.transport == pb.TRANSPORT_SHARED_MEMORY:
            self._file = _open_shared(opened.shared)

    @property
    def readable(self) -> bool:
        """Whether frames can be read: not if they lie in a file of another machine."""
        return self.opened.transport != pb.TRANSPORT_SHARED_MEMORY or self._file is not None

    def frames(self, response: pb.StepResponse) -> Frames:
        """The frames of a response of this session, wherever they lie."""
        return Frames(response, self.opened, self._file)

    def forget_file(self) -> None:
        """Closes the shared file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def reset(
        self,
        slot: int = 0,
        seed: int = 0,
        *,
        split: str = "",
        task: int | None = None,
        prefix: Sequence[pb.Action] = (),
        episode: int | None = None,
    ) -> pb.Command:
        """The command that starts the slot's next episode."""
        if episode is None:
            episode = self.last[slot].episode + 1 if slot in self.last else 0
        reset = pb.Reset(seed=seed, split=split, prefix=prefix)
        if task is not None:
            reset.task = task
        return pb.Command(slot=slot, episode=episode, turn=len(prefix), reset=reset)

    def start_of(self, episode: Episode, slot: int = 0) -> pb.Command:
        """The command that starts a recorded episode again."""
        task = episode.reset.task if episode.reset.HasField("task") else None
        return self.reset(slot, episode.reset.seed, split=episode.reset.split, task=task)

    def act(self, action: pb.Action, slot: int = 0, *, ahead: int = 1) -> pb.Command:
        """The command that acts next; `ahead` turns after the last result."""
        last = self.last.get(slot)
        if last is None:  # the reset gave no result of this name, which was found then
            raise StopCheckError
        return pb.Command(slot=slot, episode=last.episode, turn=last.turn + ahead, action=action)

    def send(self, *commands: pb.Command, min_ready: int = 0, timeout: float | None = None) -> Answer:
        """Step, whatever comes of it."""
        return self.start(*commands, min_ready=min_ready, timeout=timeout)()

    def start(self, *commands: pb.Command, min_ready: int = 0, timeout: float | None = None) -> RunningStep:
        """Begins a Step; call what is returned to wait for it."""
        request = pb.StepRequest(session=self.name, commands=commands, min_ready=min_ready)
        return RunningStep(self, self._case.run.wire.start("Step", request, timeout))

    def step(self, *commands: pb.Command, min_ready: int = 0) -> list[pb.SlotResult]:
        """Step, which has to succeed for the check to continue: all results are READY."""
        answer = self.send(*commands, min_ready=min_ready)
        return self.ready(answer)

    def ready(self, answer: Answer, rule: str = "T10") -> list[pb.SlotResult]:
        """The results of an answer, all of which have to be READY."""
        if answer.response is None:
            self._case.finding(rule, answer, expected="the commands are executed")
            raise StopCheckError
        results = list(answer.response.results)
        for result in results:
            if result.state != pb.SLOT_STATE_READY:
                what = f"{result.error.reason}: {result.error.message}" if result.error.reason else f"{result.state}"
                self._case.finding("R11", answer, came=f"slot {result.slot} is not READY, {what}", expected="READY")
                raise StopCheckError
        if len(results) != answer.commands:
            raise StopCheckError  # found already, S8
        return results

    def play(self, episode: Episode, turns: int | None = None, slot: int = 0) -> pb.SlotResult:
        """Plays a recorded episode again, up to a turn; the last result."""
        (result,) = self.step(self.start_of(episode, slot))
        for action in episode.actions[: episode.playable if turns is None else turns]:
            (result,) = self.step(self.act(action, slot))
        return result

    def bring(self, episode: Episode, turns: int, slots: Sequence[int] = (0,)) -> None:
        """Brings slots to a turn of a recorded episode, in as few calls as the server allows."""
        if "prefix" in self._case.info.features:
            reset = episode.reset
            task = reset.task if reset.HasField("task") else None
            prefix = episode.actions[:turns]
            self.step(*(self.reset(slot, reset.seed, split=reset.split, task=task, prefix=prefix) for slot in slots))
            return
        self.step(*(self.start_of(episode, slot) for slot in slots))
        for action in episode.actions[:turns]:
            self.step(*(self.act(action, slot) for slot in slots))

    def examine(self, answer: Answer) -> None:
        """Looks at the answer of a Step."""
        response = answer.response
        if response is None:
            return
        info = self._case.info
        for fault in step_faults(
            answer,
            lease=self.lease,
            max_response_bytes=info.max_response_bytes,
            draining=self._case.run.draining,
            min_ready_works="min_ready" in info.features,
        ):
            self._case.fault(fault, answer)
        assert isinstance(answer.request, pb.StepRequest)
        frames = self.frames(response)
        for command, result in zip(answer.request.commands, response.results, strict=False):
            if (command.slot, command.episode, command.turn) == (result.slot, result.episode, result.turn):
                self._examine_result(answer, command, result, frames)

    def _examine_result(self, answer: Answer, command: pb.Command, result: pb.SlotResult, frames: Frames) -> None:
        name = (command.slot, command.episode, command.turn)
        history = self._history(command)
        turn = Turn(
            spec=self.spec,
            command=command,
            fallback=self.setting.fallback,
            expert=self.request.expert,
            before=self._before(command, history),
        )
        for fault in (*result_faults(turn, result), *(frames.faults(result) if self.readable else ())):
            self._case.fault(fault, answer)
        if result.state not in (pb.SLOT_STATE_READY, pb.SLOT_STATE_FAILED):
            return
        earlier = self.results.setdefault(name, result)
        if earlier is not result:
            if differs := difference(comparable(result), comparable(earlier)):
                self._case.finding("T1", answer, came=f"another result: {differs[0]}", expected=differs[1])
            return
        if self.last.get(command.slot) is None or name > self._named(self.last[command.slot]):
            self.last[command.slot] = result
        self._histories[name] = history
        if result.state == pb.SLOT_STATE_READY and self._case.run.comparing(self.request.env_id):
            differs = self._case.run.histories.compare(self.setting, history, result)
            if differs:
                self._case.finding(
                    self._blamed,
                    answer,
                    came=f"{differs[0]}, after {self._told(history)}",
                    expected=f"{differs[1]}, as the same seed and actions gave before",
                )

    def _history(self, command: pb.Command) -> History:
        if command.WhichOneof("kind") == "action":
            before = self._histories.get((command.slot, command.episode, command.turn - 1))
            return (before or History("?", None, id(command))).then(command.action)
        reset = command.reset
        split = reset.split or self.spec.default_split
        size = self.spec.splits.get(split, 0)
        task = reset.task if reset.HasField("task") else reset.seed % size if size else None
        history = History(split, task, reset.seed)
        for action in reset.prefix:
            history = history.then(action)
        return history

    def _before(self, command: pb.Command, history: History) -> pb.SlotResult | None:
        if command.WhichOneof("kind") == "action":
            return self.results.get((command.slot, command.episode, command.turn - 1))
        if not history.actions:
            return None
        shorter = History(history.split, history.task, history.seed, history.actions[:-1])
        return self._case.run.histories.known(self.setting, shorter)

    @staticmethod
    def _named(result: pb.SlotResult) -> _Name:
        return result.slot, result.episode, result.turn

    @staticmethod
    def _told(history: History) -> str:
        task = "" if history.task is None else f", task {history.task}"
        return f"seed {history.seed}, split {history.split!r}{task} and {len(history.actions)} actions"


class RunningStep:
    """A Step under way; calling it waits for the answer and examines it."""

    def __init__(self, session: Session, running: Running) -> None:
        self.running = running
        self._session = session

    def __call__(self) -> Answer:
        """Waits for the answer and examines it."""
        answer = self.running.wait()
        self._session.examine(answer)
        return answer


class Frames:
    """The frames of a response, wherever they lie. They are read, not mapped: the file may shrink at any time."""

    def __init__(self, response: pb.StepResponse, opened: pb.OpenResponse, file: int | None) -> None:
        self._response = response
        self._shared = opened.transport == pb.TRANSPORT_SHARED_MEMORY
        self._compressed = opened.transport == pb.TRANSPORT_INLINE_LZ4
        self._file = file
        self._size = opened.shared.size if self._shared else len(response.frames)
        self._unpacked: dict[int, bytes] = {}

    def faults(self, result: pb.SlotResult) -> Iterator[Fault]:
        """Of a result's images."""
        if self._shared and self._response.frames:
            yield Fault("F4", f"{len(self._response.frames):,} bytes of frames", "none, with TRANSPORT_SHARED_MEMORY")
        for image in result.observation.images:
            yield from self._image_faults(image)

    def _image_faults(self, image: pb.Image) -> Iterator[Fault]:
        what = f"image {image.name!r}"
        blocks = self._response.blocks
        if image.block >= len(blocks):
            yield Fault("F7", f"{what} in block {image.block} of {len(blocks)}", "a block of the response")
            return
        block = blocks[image.block]
        size = _frame_bytes(block)
        shape = f"{block.height} x {block.width} x {block.channels}"
        length = block.compressed_size or (block.count - 1) * block.stride + size
        if image.index >= block.count:
            yield Fault("F7", f"{what} is frame {image.index} of {block.count}", "a frame of its block")
        elif block.channels not in (1, 3) or not size:
            yield Fault("F7", f"{what} is {shape}", "height and width above 0, 1 or 3 channels")
        elif block.stride < size or block.offset + length > self._size:
            yield Fault(
                "F7",
                f"a block of {block.count} frames of {shape} at {block.offset} with stride {block.stride}",
                f"one that fits into {self._size:,} bytes",
            )
        elif block.compressed_size and not self._compressed:
            yield Fault("F4", f"{what} is compressed", "compressed_size 0 with the transport that was granted")
        else:
            yield from self._pixel_faults(image, what)

    def _pixel_faults(self, image: pb.Image, what: str) -> Iterator[Fault]:
        block = self._response.blocks[image.block]
        start, size = image.index * block.stride, _frame_bytes(block)
        if block.compressed_size:
            try:
                pixels = self._unpack(image.block)[start : start + size]
            except ValueError as error:
                yield Fault("F7", f"{what}: {error}", f"one LZ4 frame of {block.count} x {block.stride} bytes")
                return
        elif self._shared:
            assert self._file is not None
            pixels = os.pread(self._file, size, block.offset + start)
        else:
            pixels = self._response.frames[block.offset + start : block.offset + start + size]
        if (digest := xxhash.xxh64_intdigest(pixels)) != image.xxh64:
            yield Fault("F6", f"{what} has xxh64 {image.xxh64:016x}", f"{digest:016x}, the hash of its pixels")

    def _unpack(self, number: int) -> bytes:
        """A compressed block, decompressed to no more than it should be. Raises ValueError."""
        if number not in self._unpacked:
            with needs_extra("check"):
                import lz4.frame
            block = self._response.blocks[number]
            expected = block.count * block.stride
            if expected > _MAX_UNPACKED_BYTES:
                raise ValueError(f"its block has {expected:,} bytes, more than the checker unpacks")
            packed = self._response.frames[block.offset : block.offset + block.compressed_size]
            decompressor = lz4.frame.LZ4FrameDecompressor()
            try:
                unpacked = decompressor.decompress(packed, max_length=expected)
            except RuntimeError as error:
                raise ValueError(f"its block cannot be decompressed: {error}") from None
            if len(unpacked) != expected or not decompressor.eof or decompressor.unused_data:
                raise ValueError(f"its block gives {len(unpacked):,} bytes, and there is more or less in it")
            self._unpacked[number] = unpacked
        return self._unpacked[number]


def _frame_bytes(block: pb.FrameBlock) -> int:
    return block.height * block.width * block.channels


def _open_shared(shared: pb.SharedMemory) -> int | None:
    """The file, or None if it is not here, or not the one that is meant."""
    try:
        file = os.open(shared.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe must not hang us
    except (OSError, ValueError):
        return None
    info = os.fstat(file)
    size, nonce = shared.size, shared.nonce
    fits = stat.S_ISREG(info.st_mode) and info.st_size == size and 0 < len(nonce) <= size
    if fits and os.pread(file, len(nonce), size - len(nonce)) == nonce:
        return file
    os.close(file)
    return None
