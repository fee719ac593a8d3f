"""A session on an env server, as a client sees it.

    with Session("localhost:50051", "gym_cards/NumberLine", slots=4) as session:
        results = session.reset([1, 2, 3, 4])
        results = session.step(["+", "+", "-", "+"])
        results.frames()  # uint8 [4, height, width, 3]

The session numbers episodes and turns, repeats what was lost in transit (the contract makes that safe), keeps its lease
alive, and after a restart of the server opens itself anew and replays its episodes.
"""

from __future__ import annotations

import json
import logging
import mmap
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, overload

import grpc
import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from overworld.authoring.env import Action, Pixels
from overworld.authoring.runner import Fallback, Result, SlotError
from overworld.client.channel import CallLostError, Channel
from overworld.client.gate import Gate
from overworld.contract.frames import block_array, map_for_reading, pixels_hash, split_response
from overworld.contract.wire import (
    action_from_proto,
    action_to_proto,
    episode_state,
    result_from_proto,
    spec_from_proto,
)
from overworld.errors import ContractError, Reason, ServerBrokenError, ServerChangedError, ServerLostError
from overworld.v1 import env_pb2 as pb

_logger = logging.getLogger(__name__)

_MAX_CALLS = 8
_CLOSE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Reset:
    """Start an episode. The fields are those of the contract's Reset."""

    seed: int = 0
    split: str = ""
    task: int | None = None
    prefix: Sequence[Action | None] = ()


@dataclass(frozen=True, slots=True)
class Act:
    """Act, with the model's whole reply for the record. Where there is none to keep, the action alone does."""

    action: Action | None
    reply: str = ""


Move = Reset | Act | Action | None
"""What to do in a slot. None: no action could be read."""

Moves = Mapping[int, Move] | Sequence[Move]
"""Slot -> move, or the moves of slots 0, 1, ..."""


class Results(Sequence[Result]):
    """The results of one call, in the order of its moves."""

    def __init__(self, results: list[Result]) -> None:
        self._results = results

    @overload
    def __getitem__(self, index: int) -> Result: ...
    @overload
    def __getitem__(self, index: slice) -> list[Result]: ...
    def __getitem__(self, index: int | slice) -> Result | list[Result]:
        return self._results[index]

    def __len__(self) -> int:
        return len(self._results)

    def frames(self, image: int = 0) -> NDArray[np.uint8]:
        """Image number `image` of all results as one batch, uint8 [results, height, width, channels].

        Copied only if the images do not lie side by side already. Raises LookupError if a result has no such image,
        ValueError if sizes differ.
        """
        pixels = [result.observation.images[image].pixels for result in self._results]
        if not pixels:
            raise LookupError("there are no results")
        base = pixels[0].base
        if isinstance(base, np.ndarray) and base.ndim == 4 and len(base) == len(pixels):
            start, stride = base.ctypes.data, base.strides[0]
            if all(one.base is base and one.ctypes.data == start + i * stride for i, one in enumerate(pixels)):
                return base
        return np.stack(pixels)


@dataclass(slots=True)
class _Slot:
    """What is known of a slot: enough to bring its episode back on a new server."""

    episode: int = -1
    turn: int = 0
    sent_episode: int = -1  # the highest number ever sent, answered or not
    pending: pb.Command | None = None  # accepted, its result not collected yet
    reset: pb.Reset | None = None  # of the running episode
    actions: list[pb.Action] = field(default_factory=list)  # its actions that gave results, without replies
    known: pb.SlotResult | None = None  # what the last of them gave
    lost: SlotError | None = None  # its episode could not be brought back


class Session:
    """N slots of one env on one server.

    address        "host:port".
    options        The env's options, as its options_schema says.
    token          Bearer token, if the server asks for one.
    fallback       What happens to an action that cannot be executed; `fallback_reward` is the reward of a skipped turn.
    expert         Whether results carry the expert's advice.
    shared_memory  Whether frames may come through shared memory where that is possible.
    copy           Whether pixels are the caller's to keep, and checked to be the ones that the env drew. False saves
                   the time: then what comes through shared memory is valid until the slot's next move.
    lease          Seconds that the server keeps the session when this process is gone.
    retry_budget   Seconds for which a call is repeated when it gets lost or the server has no room.

    Methods may be called from several threads at once, for different slots.
    """

    def __init__(
        self,
        address: str,
        env_id: str,
        slots: int,
        *,
        options: Mapping[str, Any] | None = None,
        token: str = "",
        fallback: Fallback = Fallback.SKIP,
        fallback_reward: float = 0.0,
        expert: bool = False,
        shared_memory: bool = True,
        copy: bool = True,
        lease: float = 30.0,
        retry_budget: float = 120.0,
    ) -> None:
        self.name = str(uuid.uuid4())
        self.draining = False
        """Whether the server has said that it will stop soon."""
        self._copy = copy
        self._connect: Callable[[str], Channel] = lambda address: Channel(address, token, retry_budget)
        self._slots = [_Slot() for _ in range(slots)]
        self._request = pb.OpenRequest(
            session=self.name,
            env_id=env_id,
            slots=slots,
            options_json=json.dumps(dict(options or {})),
            fallback=pb.Fallback.Name(fallback),
            fallback_reward=fallback_reward,
            expert=expert,
            required_features=("prefix",),
        )
        self._request.lease.FromMilliseconds(int(lease * 1000))
        self._shared_memory = shared_memory
        self._memory: mmap.mmap | None = None
        # Calls pass; opening the session anew, with all of its episodes, closes the gate.
        self._gate = Gate()
        self._generation = 0  # how often the session was opened
        self._provenance = ""
        self._channel = self._connect(address)
        try:
            self._open()
        except BaseException:
            self._channel.close()
            raise
        self._executor = ThreadPoolExecutor(_MAX_CALLS, f"session-{self.name[:8]}")
        self._closed = threading.Event()
        threading.Thread(target=self._keep, daemon=True, name=f"lease-{self.name[:8]}").start()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def address(self) -> str:
        """Where the server is."""
        return self._channel.address

    @property
    def shares_memory(self) -> bool:
        """Whether frames come through shared memory."""
        return self._memory is not None

    @property
    def fallback(self) -> Fallback:
        """What happens to an action that cannot be executed."""
        return Fallback(self._request.fallback)

    @property
    def fallback_reward(self) -> float:
        """The reward of a skipped turn."""
        return self._request.fallback_reward

    @property
    def expert(self) -> bool:
        """Whether results carry the expert's advice."""
        return self._request.expert

    def reset(self, seeds: Sequence[int]) -> Results:
        """Starts an episode with each of the seeds in slots 0, 1, ...; `step` takes `Reset`s for anything else."""
        return self.step([Reset(seed=seed) for seed in seeds])

    def step(self, moves: Moves) -> Results:
        """Moves slots and waits for all of them.

        A slot that failed inside the server has a result with `error`: reset it. Raises ContractError if the server
        refuses the moves (nothing was executed), ServerLostError if it cannot be reached (calling again with the same
        moves is safe), ServerChangedError if it came back different, ServerBrokenError if its answer makes no sense.
        """
        return self._execute(self._number(moves))

    def submit(self, moves: Moves) -> Future[Results]:
        """As `step`, but returns at once: the simulators step while the caller goes on. Up to 8 calls run at a time."""
        return self._executor.submit(self._execute, self._number(moves))

    def step_some(self, moves: Moves, min_ready: int) -> Results:
        """As `step`, but returns when `min_ready` slots are ready. The other results are `pending`: `collect` them."""
        return self._execute(self._number(moves), min_ready)

    def collect(self, pending: Sequence[Result], min_ready: int = 0) -> Results:
        """Waits until `min_ready` (0: all) of results that were pending are ready."""
        commands = [self._slots[result.slot].pending for result in pending]
        return self._execute([command for command in commands if command is not None], min_ready)

    def resume_point(self, slot: int) -> Reset:
        """The reset that brings a new slot to where this one is. Raises LookupError if no episode runs there."""
        reset = self._slots[slot].reset
        if reset is None:
            raise LookupError(f"slot {slot} plays no episode")
        actions = [action_from_proto(action) for action in (*reset.prefix, *self._slots[slot].actions)]
        return Reset(reset.seed, reset.split, reset.task if reset.HasField("task") else None, actions)

    def move(self, address: str) -> None:
        """Goes on at another server: opens the session there and replays its episodes.

        If that fails the session stays where it was. Raises as `step` does.
        """
        with self._gate.closed():
            left = self._channel
            self._channel = self._connect(address)
            try:
                self._bring_back()
            except BaseException:
                self._channel.close()
                self._channel = left
                raise
            left.close()

    def close(self) -> None:
        """Ends the session and frees its slots."""
        if self._closed.is_set():
            return
        self._closed.set()
        self._executor.shutdown(wait=True, cancel_futures=True)
        try:
            self._channel.call("Close", pb.CloseRequest(session=self.name), budget=_CLOSE_SECONDS)
        except (grpc.RpcError, ContractError, ServerLostError) as error:
            _logger.warning("session %s was not closed (%s); its lease ends soon", self.name, error)
        self._channel.close()

    def _open(self) -> None:
        """Opens the session, with shared memory where that works."""
        transports = [pb.TRANSPORT_INLINE]
        if self._shared_memory:
            transports.insert(0, pb.TRANSPORT_SHARED_MEMORY)
        response = self._send_open(transports)
        memory = None
        if response.transport == pb.TRANSPORT_SHARED_MEMORY:
            memory = map_for_reading(response.shared)
            if memory is None:  # the server is on another machine, or in another container
                response = self._send_open([pb.TRANSPORT_INLINE])
        if self._provenance not in ("", response.provenance_digest):
            raise ServerChangedError(
                f"{self.address} now runs {self._request.env_id} with other data, rules or options than before "
                f"({dict(response.spec.provenance)}); results would not be comparable: start anew"
            )
        try:
            self.spec = spec_from_proto(response.spec)
            """The env with this session's options."""
            self.options: dict[str, Any] = json.loads(response.options_json)
            """The complete options."""
        except ValueError as error:
            raise ServerBrokenError(f"{self.address} opened a session that makes no sense: {error}") from None
        self._provenance = response.provenance_digest
        self._lease = response.lease.seconds + response.lease.nanos / 1e9
        self._memory = memory

    def _send_open(self, transports: Sequence[pb.Transport]) -> pb.OpenResponse:
        del self._request.transports[:]
        self._request.transports.extend(transports)
        data = self._channel.call("Open", self._request)
        try:
            response = pb.OpenResponse.FromString(data)
        except DecodeError as error:
            raise ServerBrokenError(f"{self.address} answered Open with what is no OpenResponse: {error}") from None
        if response.transport not in transports:
            raise ServerBrokenError(f"{self.address} granted a transport that was not asked for: {response.transport}")
        return response

    def _number(self, moves: Moves) -> list[pb.Command]:
        """The commands that make these moves, each with its slot, episode and turn."""
        commands = []
        for index, move in moves.items() if isinstance(moves, Mapping) else enumerate(moves):
            if not 0 <= index < len(self._slots):
                raise IndexError(f"there is no slot {index}; the session has 0 to {len(self._slots) - 1}")
            slot = self._slots[index]
            if isinstance(move, Reset):
                episode = max(slot.episode, slot.sent_episode) + 1
                command = pb.Command(slot=index, episode=episode, turn=len(move.prefix))
                prefix = [action_to_proto(action) for action in move.prefix]
                command.reset.CopyFrom(pb.Reset(seed=move.seed, split=move.split, task=move.task, prefix=prefix))
            else:
                act = move if isinstance(move, Act) else Act(move)
                command = pb.Command(slot=index, episode=max(slot.episode, 0), turn=slot.turn + 1)
                command.action.CopyFrom(action_to_proto(act.action, act.reply))
            commands.append(command)
        return commands

    def _execute(self, commands: Sequence[pb.Command], min_ready: int = 0) -> Results:
        """Sends numbered commands until their results are there, whatever happens to the server meanwhile."""
        for command in commands:
            slot = self._slots[command.slot]
            slot.sent_episode = max(slot.sent_episode, command.episode)
        backoff = self._channel.backoff("Step")
        while True:
            generation = self._generation
            try:
                with self._gate.passing():
                    generation = self._generation
                    return self._attempt(commands, min_ready)
            except CallLostError as error:
                if generation == self._generation:  # else the session has moved on
                    backoff.wait(error)
            except ContractError as error:
                if error.reason is not Reason.SESSION_UNKNOWN:
                    raise
                self._reopen(generation)

    def _attempt(self, commands: Sequence[pb.Command], min_ready: int) -> Results:
        """One Step. Nothing is noted before all of the answer has been understood."""
        playing = [command for command in commands if not self._is_lost(command)]
        request = pb.StepRequest(session=self.name, commands=playing, min_ready=min_ready)
        data = self._channel.attempt("Step", request)
        try:
            head, inline = split_response(data)
            answered = [(result.slot, result.episode, result.turn) for result in head.results]
            expected = [(command.slot, command.episode, command.turn) for command in playing]
            if answered != expected:
                raise ValueError(f"it answers {answered}, asked were {expected} (slot, episode, turn)")
            results = dict(zip(expected, self._results(head, inline), strict=True))
        except (ValueError, LookupError, DecodeError) as error:
            raise ServerBrokenError(f"{self.address} answered Step in a way that makes no sense: {error}") from None
        self.draining = head.draining
        for command, result in zip(playing, head.results, strict=True):
            self._note(command, result)
        return Results(
            [results.get((command.slot, command.episode, command.turn)) or self._loss(command) for command in commands]
        )

    def _is_lost(self, command: pb.Command) -> bool:
        return self._slots[command.slot].lost is not None and command.WhichOneof("kind") == "action"

    def _loss(self, command: pb.Command) -> Result:
        return Result(command.slot, command.episode, command.turn, error=self._slots[command.slot].lost)

    def _note(self, command: pb.Command, result: pb.SlotResult) -> None:
        """Notes where a slot is now."""
        slot = self._slots[command.slot]
        if result.state == pb.SLOT_STATE_PENDING:
            slot.pending = command
            return
        slot.pending = None
        if (slot.episode, slot.turn) == (command.episode, command.turn):
            return  # collected before
        slot.episode, slot.turn = command.episode, command.turn
        if result.state == pb.SLOT_STATE_FAILED or result.end:
            slot.reset = slot.known = None
            return
        slot.known = result
        if command.WhichOneof("kind") == "reset":
            slot.reset, slot.actions, slot.lost = command.reset, [], None
        else:
            action = pb.Action()
            action.CopyFrom(command.action)
            action.ClearField("reply")
            slot.actions.append(action)

    def _results(self, response: pb.StepResponse, inline: memoryview) -> list[Result]:
        """The results with their pixels. Raises ValueError or LookupError for a response that contradicts itself."""
        memory = inline if self._memory is None else self._memory
        blocks = [block_array(block, memory) for block in response.blocks]
        places: list[dict[int, int]] = [{} for _ in blocks]
        for result in response.results:
            for image in result.observation.images:
                if image.block >= len(blocks) or image.index >= len(blocks[image.block]):
                    raise ValueError(f"image {image.name!r} is in no block")
                places[image.block].setdefault(image.index, len(places[image.block]))
        if self._memory is not None and self._copy:
            blocks = [block[list(rows)] for block, rows in zip(blocks, places, strict=True)]

        def frame(image: pb.Image) -> Pixels:
            row = places[image.block][image.index] if self._memory is not None and self._copy else image.index
            pixels: Pixels = blocks[image.block][row]
            if self._copy and pixels_hash(pixels) != image.xxh64:
                raise ValueError(f"image {image.name!r} is not the one that the env drew: its hash differs")
            return pixels

        return [result_from_proto(result, frame) for result in response.results]

    def _reopen(self, generation: int) -> None:
        """Opens the session anew on a server that does not know it, unless another call has done so since."""
        with self._gate.closed():
            if generation == self._generation:
                _logger.warning("session %s: unknown to %s, opening it again", self.name, self.address)
                self._bring_back()

    def _bring_back(self) -> None:
        """Opens the session and replays its episodes; again, if the server is restarted meanwhile."""
        backoff = self._channel.backoff("Step")
        while True:
            self._open()
            try:
                self._replay()
                break
            except CallLostError as error:
                backoff.wait(error)
            except ContractError as error:
                if error.reason is not Reason.SESSION_UNKNOWN:
                    raise
                backoff.wait(error)
        self._generation += 1

    def _replay(self) -> None:
        """Brings the episodes back. A slot where that leads elsewhere is lost: its next action fails."""
        commands = []
        for index, slot in enumerate(self._slots):
            if slot.reset is not None:
                command = pb.Command(slot=index, episode=slot.episode, turn=slot.turn)
                command.reset.CopyFrom(slot.reset)
                command.reset.prefix.extend(slot.actions)
                commands.append(command)
        data = self._channel.attempt("Step", pb.StepRequest(session=self.name, commands=commands))
        try:
            results = split_response(data)[0].results
        except (ValueError, DecodeError) as error:
            raise ServerBrokenError(f"{self.address} answered Step in a way that makes no sense: {error}") from None
        for result in results:
            slot = self._slots[result.slot]
            assert slot.known is not None
            if result.state == pb.SLOT_STATE_FAILED:
                why = result.error.message
            elif episode_state(result) != episode_state(slot.known):
                why = "its replay led to another state"
            else:
                continue
            slot.lost = SlotError(Reason.REBUILD_MISMATCH.name, f"the episode could not be brought back: {why}")
            slot.reset = slot.known = None

    def _keep(self) -> None:
        """Renews the lease while the caller is busy with other things."""
        while not self._closed.wait(self._lease / 3):
            try:
                self._channel.attempt("Step", pb.StepRequest(session=self.name), timeout=self._lease)
            except (CallLostError, ContractError, grpc.RpcError) as error:
                # The next step finds out for itself, and can do something about it.
                _logger.debug("session %s: lease not renewed: %s", self.name, error)
