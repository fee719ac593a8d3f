"""A worker: the process that owns envs and runs them, all on one thread, since simulators are not thread-safe.

Started by the front as `python -m overworld.host.worker <socket fd> <heartbeat fd> <envs per worker> <env names...>`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import signal
import socket
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from pydantic import ValidationError

from overworld.authoring import catalogue
from overworld.authoring.env import Env, EnvSpec, Image, Options
from overworld.authoring.runner import Fallback, Result, Runner
from overworld.contract.frames import Region, map_for_writing, pixels_hash
from overworld.contract.wire import action_from_proto, provenance_digest, result_to_proto, spec_to_proto
from overworld.errors import ContractError, Reason
from overworld.host import pipe
from overworld.host.heartbeat import HeartbeatFile
from overworld.service import log
from overworld.service.process import die_with_parent
from overworld.v1 import env_pb2 as pb

_FLUSH_SECONDS = 0.002
"""Results are sent together for this long: a message per result would cost more than a fast step."""

_logger = logging.getLogger(__name__)


class _HostedRunner:
    """A runner whose frames go into the session's file."""

    def __init__(self, runner: Runner, region: Region, on_turn: Callable[[], None]) -> None:
        self._runner = runner
        self._region = region
        self._on_turn = on_turn
        self._placed: list[tuple[int, int]] | None = None  # offset and hash of the images that the region shows

    @property
    def env(self) -> Env:
        return self._runner.env

    def run(self, command: pb.Command, response: pb.StepResponse) -> None:
        """Executes the command and appends its result, and one block per image, to `response`."""
        if command.HasField("reset"):
            self._region.forget_canvases()
            self.env.draw_on(self._region.canvas)
            self._placed = None
        self._attempt(command, response, self._show)

    def replay(self, command: pb.Command, response: pb.StepResponse) -> None:
        """As `run`, but nothing is shown: the region still holds what a client may be looking at."""
        self.env.draw_on(None)
        self._placed = None
        self._attempt(command, response, self._hash)

    def _attempt(
        self,
        command: pb.Command,
        response: pb.StepResponse,
        finish: Callable[[Result, pb.SlotResult, pb.StepResponse], None],
    ) -> None:
        started = time.perf_counter()
        try:
            result = self._execute(command)
            message = result_to_proto(result)
            message.micros = min(int((time.perf_counter() - started) * 1e6), 0xFFFF_FFFF)
            finish(result, message, response)
        except ContractError as error:
            message = _failed(command, error.reason, error.message)
        except Exception as error:  # an env may raise anything; that fails its slot, not the worker
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


class Worker:
    """Does the front's jobs in the order in which they come."""

    def __init__(
        self, front: pipe.Blocking, heartbeat: HeartbeatFile, capacity: int, classes: dict[str, type[Env]]
    ) -> None:
        self._front = front
        self._heartbeat = heartbeat
        self._classes = classes
        self._capacity = capacity
        self._sessions: dict[int, dict[int, _HostedRunner]] = {}
        # Envs are kept for the next session: many simulators leak on close. Least recently used first.
        self._idle: OrderedDict[tuple[str, str], list[Env]] = OrderedDict()

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
                    self._step(header["session"], pb.StepRequest.FromString(body), "results", _HostedRunner.run)
                case "replay":
                    self._step(header["session"], pb.StepRequest.FromString(body), "replayed", _HostedRunner.replay)
                case "close":
                    self._close(header["session"])
                case "ping":
                    self._heartbeat.start()
                    self._heartbeat.finish()
                    self._front.send({"is": "pong", "jobs": 1})

    def _open(self, header: pipe.Header, request: pb.OpenRequest) -> None:
        session = header["session"]
        answer: pipe.Header = {"is": "opened", "session": session, "jobs": 1, "error": None}
        response = pb.OpenResponse()
        self._heartbeat.start()
        try:
            self._make(header, request, response)
        except ContractError as error:
            answer["error"] = [error.reason.name, error.message]
        except Exception as error:
            _logger.exception("opening %s", request.env_id)
            answer["error"] = [Reason.ENV_FAILED.name, f"{request.env_id}: {type(error).__name__}: {error}"]
        self._heartbeat.finish()
        self._front.send(answer, response)

    def _make(self, header: pipe.Header, request: pb.OpenRequest, response: pb.OpenResponse) -> None:
        """Makes the session's envs and fills in the response."""
        env_class = self._classes[request.env_id]
        options = parse_options(env_class, request.options_json)
        options_json = options.model_dump_json()
        memory = map_for_writing(header["frames"], bytes.fromhex(header["nonce"]))
        slots = self._sessions[header["session"]] = {}
        for slot in header["slots"]:
            env = self._env(env_class, options, options_json)
            runner = Runner(
                env,
                fallback=Fallback(request.fallback or Fallback.SKIP),
                fallback_reward=request.fallback_reward,
                expert=request.expert,
                slot=slot,
            )
            slots[slot] = _HostedRunner(runner, Region(memory, slot, header["stride"]), self._heartbeat.beat)
            self._heartbeat.beat()
        spec = _complete(env.spec, options)
        response.spec.CopyFrom(spec_to_proto(spec))
        response.options_json = options_json
        response.provenance_digest = provenance_digest(spec.provenance, options_json)

    def _step(
        self,
        session: int,
        request: pb.StepRequest,
        answer: str,
        run: Callable[[_HostedRunner, pb.Command, pb.StepResponse], None],
    ) -> None:
        slots = self._sessions.get(session, {})
        response = pb.StepResponse()
        flushed = time.perf_counter()
        for command in request.commands:
            self._heartbeat.start()
            slot = slots.get(command.slot)
            if slot is None:  # the session was closed while this message was on its way
                response.results.append(_failed(command, Reason.WORKER_DIED, "the session is not open here"))
            else:
                run(slot, command, response)
            self._heartbeat.finish()
            now = time.perf_counter()
            if now - flushed > _FLUSH_SECONDS:
                self._send_results(answer, session, response)
                response = pb.StepResponse()
                flushed = now
        if response.results:
            self._send_results(answer, session, response)

    def _send_results(self, answer: str, session: int, response: pb.StepResponse) -> None:
        self._front.send({"is": answer, "session": session, "jobs": len(response.results)}, response)

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
    """Raises ContractError OPTIONS_INVALID, which names every wrong option and lists those that exist."""
    try:
        return env_class.options_model.model_validate_json(options_json or "{}")
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or 'options'}: {problem['msg']}" for problem in error.errors()[:5]
        )
        known = ", ".join(env_class.options_model.model_fields)
        raise ContractError(Reason.OPTIONS_INVALID, f"{env_class.spec.id}: {wrong} (options: {known})") from None


def _complete(spec: EnvSpec, options: Options) -> EnvSpec:
    """`spec` with the fields that the host fills in."""
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


def main() -> None:
    """Entry point of the process."""
    socket_fd, heartbeat_fd, capacity, *names = sys.argv[1:]
    die_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # they may reach the whole group; the front decides when to stop
    log.configure()
    front = pipe.Blocking(socket.socket(fileno=int(socket_fd)))
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the front is gone
        try:
            classes = catalogue.load(names)
            worker = Worker(front, HeartbeatFile(int(heartbeat_fd)), int(capacity), classes)
            info = worker.describe()
        except Exception as error:
            _logger.debug("loading %s", names, exc_info=True)
            front.send({"is": "unable", "why": f"{type(error).__name__}: {error}"})
            return
        front.send({"is": "ready"}, info)
        worker.serve()


if __name__ == "__main__":
    main()
