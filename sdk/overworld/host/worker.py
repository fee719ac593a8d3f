"""A worker: the process that owns envs and runs them, all on one thread, since simulators are not thread-safe.

Started by the front as `python -m overworld.host.worker <socket fd> <progress fd> <envs per worker> <env names...>`.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import json
import logging
import mmap
import signal
import socket
import struct
import sys
import time
from collections import OrderedDict
from collections.abc import Sequence

from pydantic import ValidationError

from overworld import catalogue, log
from overworld.env import Env, EnvSpec, Image, Options
from overworld.errors import ContractError, Reason
from overworld.frames import Region, map_for_writing, pixels_hash
from overworld.host import pipe
from overworld.runner import Fallback, Result, Runner
from overworld.v1 import env_pb2 as pb
from overworld.wire import action_from_proto, provenance_digest, result_to_proto, spec_to_proto

_FLUSH_SECONDS = 0.002
"""Results are sent together for this long: a message per result would cost more than a fast step."""

_logger = logging.getLogger(__name__)


class Progress:
    """Two counters in shared memory, by which the front knows which command a worker is at, even after it died."""

    SIZE = 16
    _COUNTERS = struct.Struct("<QQ")

    def __init__(self, fd: int) -> None:
        self._memory = mmap.mmap(fd, self.SIZE)

    def read(self) -> tuple[int, int]:
        """Commands started and finished."""
        started, finished = self._COUNTERS.unpack(self._memory[: self.SIZE])
        return started, finished

    def write(self, started: int, finished: int) -> None:
        """Sets both."""
        self._memory[: self.SIZE] = self._COUNTERS.pack(started, finished)


class _Slot:
    """A runner whose frames go into the session's file."""

    def __init__(self, runner: Runner, region: Region) -> None:
        self._runner = runner
        self._region = region
        self._placed: list[tuple[int, int]] = []  # offset and hash of each image that is shown
        runner.env.draw_on(region.canvas)

    @property
    def env(self) -> Env:
        return self._runner.env

    def run(self, command: pb.Command, response: pb.StepResponse) -> None:
        """Executes the command and appends its result, and one block per image, to `response`."""
        started = time.perf_counter()
        try:
            result = self._execute(command)
            message = result_to_proto(result)
            message.micros = int((time.perf_counter() - started) * 1e6)
            if command.HasField("reset") or result.executed is not None:
                self._write(result.observation.images)  # else the turn was skipped: the images are where they were
            self._describe(result.observation.images, message, response)
        except ContractError as error:
            message = _failed(command, error.reason, error.message)
        except Exception as error:  # an env may raise anything; it costs its slot, not the worker
            _logger.exception("slot %d, episode %d, turn %d", command.slot, command.episode, command.turn)
            message = _failed(command, Reason.ENV_ERROR, f"{type(error).__name__}: {error}")
        response.results.append(message)

    def _execute(self, command: pb.Command) -> Result:
        if command.WhichOneof("kind") == "action":
            return self._runner.step(action_from_proto(command.action))
        reset = command.reset
        return self._runner.reset(
            reset.seed,
            split=reset.split,
            task=reset.task if reset.HasField("task") else None,
            prefix=[action_from_proto(action) for action in reset.prefix],
            episode=command.episode,
        )

    def _write(self, images: Sequence[Image]) -> None:
        try:
            offsets = self._region.place([image.pixels for image in images])
        except ValueError as error:
            raise ContractError(Reason.FRAMES_TOO_LARGE, str(error)) from None
        self._placed = [(offset, pixels_hash(image.pixels)) for offset, image in zip(offsets, images, strict=True)]

    def _describe(self, images: Sequence[Image], message: pb.SlotResult, response: pb.StepResponse) -> None:
        for image, sent, (offset, digest) in zip(images, message.observation.images, self._placed, strict=True):
            height, width, channels = image.pixels.shape
            sent.block = len(response.blocks)
            sent.xxh64 = digest
            response.blocks.add(
                offset=offset, stride=image.pixels.size, count=1, height=height, width=width, channels=channels
            )


class Worker:
    """Answers the front's messages one after the other."""

    def __init__(self, front: pipe.Blocking, progress: Progress, capacity: int, classes: dict[str, type[Env]]) -> None:
        self._front = front
        self._progress = progress
        self._classes = classes
        self._capacity = capacity
        self._sessions: dict[int, dict[int, _Slot]] = {}
        # Envs are kept for the next session: many simulators leak on close. Least recently used first.
        self._idle: OrderedDict[tuple[str, str], list[Env]] = OrderedDict()
        self._commands = 0

    def describe(self) -> pb.GetServerInfoResponse:
        """Envs with default options, and versions."""
        info = pb.GetServerInfoResponse(versions=catalogue.versions(self._classes.values()))
        for env_class in self._classes.values():
            info.envs.append(spec_to_proto(_complete(env_class.spec, env_class.options_model())))
        return info

    def serve(self) -> None:
        """Runs until the front is gone."""
        while (received := self._front.receive()) is not None:
            header, body = received
            match header["do"]:
                case "open":
                    self._open(header, pb.OpenRequest.FromString(body))
                case "step":
                    self._step(header["session"], pb.StepRequest.FromString(body))
                case "close":
                    self._close(header["session"])

    def _open(self, header: pipe.Header, request: pb.OpenRequest) -> None:
        session = header["session"]
        answer: pipe.Header = {"is": "opened", "session": session, "error": None}
        response = pb.OpenResponse()
        try:
            env_class = self._classes[request.env_id]
            options = parse_options(env_class, request.options_json)
            options_json = options.model_dump_json()
            memory = map_for_writing(header["frames"])
            slots = self._sessions[session] = {}
            for slot in header["slots"]:
                env = self._env(env_class, options, options_json)
                runner = Runner(
                    env,
                    fallback=Fallback(request.fallback or Fallback.SKIP),
                    fallback_reward=request.fallback_reward,
                    expert=request.expert,
                    slot=slot,
                )
                slots[slot] = _Slot(runner, Region(memory, slot, header["stride"]))
            spec = _complete(env.spec, options)
            if request.fallback == pb.FALLBACK_RANDOM and not (spec.action.vocabulary or env.lists_admissible):
                raise ContractError(
                    Reason.FEATURE_MISSING, f"{spec.id} cannot list its actions, so FALLBACK_RANDOM cannot draw one"
                )
            response.spec.CopyFrom(spec_to_proto(spec))
            response.options_json = options_json
            response.provenance_digest = provenance_digest(spec.provenance, options_json)
        except ContractError as error:
            answer["error"] = [error.reason.name, error.message]
        except Exception as error:
            _logger.exception("opening %s", request.env_id)
            answer["error"] = [Reason.ENV_FAILED.name, f"{request.env_id}: {type(error).__name__}: {error}"]
        self._front.send(answer, response)

    def _step(self, session: int, request: pb.StepRequest) -> None:
        slots = self._sessions[session]
        response = pb.StepResponse()
        flushed = time.perf_counter()
        for command in request.commands:
            self._commands += 1
            self._progress.write(self._commands, self._commands - 1)
            slots[command.slot].run(command, response)
            self._progress.write(self._commands, self._commands)
            now = time.perf_counter()
            if now - flushed > _FLUSH_SECONDS:
                self._front.send({"is": "results", "session": session}, response)
                response = pb.StepResponse()
                flushed = now
        if response.results:
            self._front.send({"is": "results", "session": session}, response)

    def _close(self, session: int) -> None:
        for slot in self._sessions.pop(session, {}).values():
            slot.env.draw_on(None)  # lets go of the session's file
            key = (slot.env.spec.id, slot.env.options.model_dump_json())
            self._idle.setdefault(key, []).append(slot.env)
            self._idle.move_to_end(key)

    def _env(self, env_class: type[Env], options: Options, options_json: str) -> Env:
        key = (env_class.spec.id, options_json)
        if self._idle.get(key):
            return self._idle[key].pop()
        playing = sum(len(slots) for slots in self._sessions.values())
        while self._idle and playing + sum(map(len, self._idle.values())) >= self._capacity:
            oldest = next(iter(self._idle))
            if self._idle[oldest]:
                self._idle[oldest].pop().close()
            else:
                del self._idle[oldest]
        return env_class(options)


def parse_options(env_class: type[Env], options_json: str) -> Options:
    """Raises ContractError OPTIONS_INVALID, which names every wrong option and what there is."""
    try:
        return env_class.options_model.model_validate_json(options_json or "{}")
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or 'options'}: {problem['msg']}" for problem in error.errors()
        )
        known = ", ".join(env_class.options_model.model_fields)
        raise ContractError(Reason.OPTIONS_INVALID, f"{env_class.spec.id}: {wrong} (options: {known})") from None


def _complete(spec: EnvSpec, options: Options) -> EnvSpec:
    """`spec` with what the host knows."""
    schema = json.dumps(type(options).model_json_schema(), separators=(",", ":"))
    return dataclasses.replace(spec, max_turns=options.max_turns, options_schema=schema)


def _failed(command: pb.Command, reason: Reason, message: str) -> pb.SlotResult:
    return pb.SlotResult(
        slot=command.slot,
        episode=command.episode,
        turn=command.turn,
        state=pb.SLOT_STATE_FAILED,
        error=pb.SlotError(reason=reason.name, message=message, reset_helps=True),
    )


def _die_with_parent() -> None:
    """Asks Linux to kill this process when the front dies, even if a simulator hangs in C code."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def main() -> None:
    """The process's entry."""
    socket_fd, progress_fd, capacity, *names = sys.argv[1:]
    _die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the front decides when to stop
    log.configure()
    front = pipe.Blocking(socket.socket(fileno=int(socket_fd)))
    try:
        classes = catalogue.load(names)
    except Exception as error:
        _logger.debug("loading %s", names, exc_info=True)
        front.send({"is": "unable", "why": f"{type(error).__name__}: {error}"})
        return
    worker = Worker(front, Progress(int(progress_fd)), int(capacity), classes)
    front.send({"is": "ready"}, worker.describe())
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        worker.serve()


if __name__ == "__main__":
    main()
