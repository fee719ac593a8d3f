"""A worker: the process that owns envs and runs them, on the lanes that their classes allow.

Started by the front as `python -m overworld.host.worker <socket fd> <heartbeat fd> <envs per worker> <env names...>`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import json
import logging
import mmap
import signal
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Sequence

from pydantic import ValidationError

from overworld.authoring import catalogue
from overworld.authoring.concurrency import Concurrency, concurrency, start_loop
from overworld.authoring.env import Env, EnvSpec, Options
from overworld.authoring.runner import Fallback, Runner
from overworld.contract.frames import Region, map_for_writing
from overworld.contract.wire import provenance_digest, spec_to_proto
from overworld.errors import ContractError, Reason
from overworld.host import pipe
from overworld.host.env_cache import EnvCache
from overworld.host.heartbeat import HeartbeatFile
from overworld.host.hosted_runner import HostedRunner, failed
from overworld.host.lane import AsyncLane, InlineLane, Lane, LoopInbox, ThreadLane, Turns, lane_count
from overworld.host.outbox import Outbox
from overworld.service import log
from overworld.service.process import die_with_parent
from overworld.v1 import env_pb2 as pb

_FLUSH_SECONDS = 0.005
"""Results of a lane are sent together for this long: a message per result would cost more than a fast step."""

_logger = logging.getLogger(__name__)

_Run = Callable[[HostedRunner, pb.Command, pb.StepResponse], Awaitable[None]]


class _Session:
    """A session's slots on this worker. Each lane touches its own slots only."""

    def __init__(self, header: pipe.Header, request: pb.OpenRequest) -> None:
        self.key: int = header["session"]
        self.client: str = header["client"]
        self.request = request
        self.slots: dict[int, list[int]] = {}  # by lane
        for slot, lane in header["slots"]:
            self.slots.setdefault(lane, []).append(slot)
        self.runners: dict[int, HostedRunner] = {}  # by slot, once they are made
        self.error: list[str] | None = None
        self._header = header
        self._memory: mmap.mmap | None = None
        self._opening = len(self.slots)
        self._lock = threading.Lock()

    def region(self, slot: int) -> Region:
        """Where the slot's frames go. Raises OSError if the session's file is gone."""
        with self._lock:
            if self._memory is None:
                self._memory = map_for_writing(self._header["frames"], bytes.fromhex(self._header["nonce"]))
        return Region(self._memory, slot, self._header["stride"])

    def made(self, error: list[str] | None) -> bool:
        """Notes that a lane has made its envs, or why it could not. Returns whether it was the last one."""
        with self._lock:
            self.error = self.error or error
            self._opening -= 1
            return self._opening == 0


class Worker:
    """Has its lanes do the front's jobs."""

    def __init__(
        self, front: pipe.Blocking, heartbeats: HeartbeatFile, capacity: int, classes: dict[str, type[Env]]
    ) -> None:
        self._front = front
        self._outbox = Outbox(front)
        self._heartbeats = heartbeats
        self._classes = classes
        self._capacity = capacity
        self._sessions: dict[int, _Session] = {}
        self._lanes: dict[int, Lane] = {}
        self._turns = Turns()  # of a lane on the thread that serves

    def describe(self) -> pb.GetServerInfoResponse:
        """Envs with default options, and versions."""
        info = pb.GetServerInfoResponse(versions=catalogue.versions(self._classes.values()))
        for env_class in self._classes.values():
            info.envs.append(spec_to_proto(_complete(env_class.spec, env_class.options_model())))
        return info

    def concurrency(self) -> dict[str, Concurrency]:
        """How the instances of each env may be run."""
        return {env_id: concurrency(env_class) for env_id, env_class in self._classes.items()}

    def serve(self) -> None:
        """Runs until the front is gone."""
        # Threads that wait for the interpreter's lock wake up this often. What a lane does between waits takes less.
        sys.setswitchinterval(0.05)
        while (received := self._receive()) is not None:
            header, body = received
            match header["do"]:
                case "open":
                    self._open(header, pb.OpenRequest.FromString(body))
                case "step":
                    self._step(header, pb.StepRequest.FromString(body), "results", HostedRunner.run)
                case "replay":
                    self._step(header, pb.StepRequest.FromString(body), "replayed", HostedRunner.replay)
                case "close":
                    self._close(header["session"])
                case "ping":
                    lane = self._lane(0)
                    lane.submit(self._pong(lane), "")
        self._turns.drop()

    def _receive(self) -> tuple[pipe.Header, bytes] | None:
        """The next message; until there is one, jobs are done."""
        while self._turns and not self._front.waiting:
            self._turns.take()
        return self._front.receive()

    def _lane(self, number: int) -> Lane:
        """The lane of this number; it is made when it is first used."""
        lane: Lane | None = self._lanes.get(number)
        if lane is None:
            beats, envs = self._heartbeats.line(number), EnvCache(1 if number else self._capacity)
            if number > self._capacity:
                lane = AsyncLane(number, beats, envs, self._inbox)
            elif number > 0 or any(self.concurrency().values()):  # nothing may hold up this thread, which serves all
                lane = ThreadLane(number, beats, envs)
            else:
                lane = InlineLane(number, beats, envs, self._turns)
            self._lanes[number] = lane
        return lane

    @functools.cached_property
    def _inbox(self) -> LoopInbox:
        return LoopInbox(start_loop("async-lanes"))

    async def _pong(self, lane: Lane) -> None:
        lane.beats.start(None, None)
        lane.beats.finish()
        self._front.send({"is": "pong", "lanes": [lane.number]})

    def _open(self, header: pipe.Header, request: pb.OpenRequest) -> None:
        session = self._sessions[header["session"]] = _Session(header, request)
        for number, slots in session.slots.items():
            lane = self._lane(number)
            lane.submit(self._make(session, slots, lane), session.client)

    async def _make(self, session: _Session, slots: Sequence[int], lane: Lane) -> None:
        """Makes the envs of one lane. The last lane to be done answers the front."""
        env_id = session.request.env_id
        error = None
        try:
            options = parse_options(self._classes[env_id], session.request.options_json)
            for position, slot in enumerate(slots):
                if position:
                    await lane.end_turn()
                lane.beats.start(session.key, None)
                await self._make_runner(session, slot, options, lane)
                lane.beats.finish()
        except ContractError as refusal:
            error = [refusal.reason.name, refusal.message]
        except Exception as failure:
            _logger.exception("opening %s", env_id)
            error = [Reason.ENV_FAILED.name, f"{env_id}: {type(failure).__name__}: {failure}"]
        lane.beats.finish()
        if session.made(error):
            self._answer(session)

    async def _make_runner(self, session: _Session, slot: int, options: Options, lane: Lane) -> None:
        request, region = session.request, session.region(slot)
        env = await lane.envs.take(self._classes[request.env_id], options)
        try:
            runner = Runner(
                env,
                fallback=Fallback(request.fallback or Fallback.SKIP),
                fallback_reward=request.fallback_reward,
                expert=request.expert,
                slot=slot,
            )
        except BaseException:
            lane.envs.give_back(env)
            raise
        session.runners[slot] = HostedRunner(runner, region, lane.beats.beat)

    def _answer(self, session: _Session) -> None:
        """Answers an open."""
        response = pb.OpenResponse()
        if session.error is None:
            env = next(iter(session.runners.values())).env
            options_json = env.options.model_dump_json()
            spec = _complete(env.spec, env.options)
            response.spec.CopyFrom(spec_to_proto(spec))
            response.options_json = options_json
            response.provenance_digest = provenance_digest(spec.provenance, options_json)
        else:
            self._close(session.key)
        lanes = list(session.slots)
        self._front.send({"is": "opened", "session": session.key, "lanes": lanes, "error": session.error}, response)

    def _step(self, header: pipe.Header, request: pb.StepRequest, answer: str, run: _Run) -> None:
        session = self._sessions.get(header["session"])
        runners, client = ({}, "") if session is None else (session.runners, session.client)
        by_lane: dict[int, list[pb.Command]] = {}
        for command, number in zip(request.commands, header["lanes"], strict=True):
            by_lane.setdefault(number, []).append(command)
        for number, commands in by_lane.items():
            lane = self._lane(number)
            lane.submit(self._execute(header["session"], runners, commands, lane, answer, run), client)

    async def _execute(
        self,
        session: int,
        runners: dict[int, HostedRunner],
        commands: Sequence[pb.Command],
        lane: Lane,
        answer: str,
        run: _Run,
    ) -> None:
        """Executes the commands of one lane."""
        response = pb.StepResponse()
        sent = time.perf_counter()
        for position, command in enumerate(commands):
            if position:
                await lane.end_turn()
            lane.beats.start(session, command.slot)
            runner = runners.get(command.slot)
            if runner is None:  # the session was closed while this message was on its way
                response.results.append(failed(command, Reason.WORKER_DIED, "the session is not open here"))
            else:
                await run(runner, command, response)
            lane.beats.finish()
            now = time.perf_counter()
            if now - sent > _FLUSH_SECONDS or lane.contended:
                self._outbox.send(answer, session, lane, response)
                response = pb.StepResponse()
                sent = now
        if response.results:
            self._outbox.send(answer, session, lane, response)

    def _close(self, key: int) -> None:
        session = self._sessions.pop(key, None)
        if session is not None:
            for number, slots in session.slots.items():
                lane = self._lane(number)
                lane.submit(self._retire(session, slots, lane), session.client)

    async def _retire(self, session: _Session, slots: Sequence[int], lane: Lane) -> None:
        for slot in slots:
            runner = session.runners.pop(slot, None)
            if runner is not None:  # it could be made
                runner.env.draw_on(None)  # lets go of the session's file
                lane.envs.give_back(runner.env)


def parse_options(env_class: type[Env], options_json: str) -> Options:
    """Raises ContractError OPTIONS_INVALID, which names every wrong option and lists those that exist."""
    try:
        return env_class.options_model.model_validate_json(options_json or "{}")
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or 'options'}: {problem['msg']}" for problem in error.errors()[:5]
        )
        known = ", ".join(env_class.options_model.model_fields)
        raise ContractError(Reason.OPTIONS_INVALID, f"{env_class.spec.id}: {wrong[:1000]} (options: {known})") from None


def _complete(spec: EnvSpec, options: Options) -> EnvSpec:
    """`spec` with the fields that the host fills in."""
    schema = json.dumps(type(options).model_json_schema(), separators=(",", ":"))
    return dataclasses.replace(spec, max_turns=options.max_turns, options_schema=schema)


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
            heartbeats = HeartbeatFile(int(heartbeat_fd), lane_count(int(capacity)))
            worker = Worker(front, heartbeats, int(capacity), classes)
            info = worker.describe()
        except Exception as error:
            _logger.debug("loading %s", names, exc_info=True)
            front.send({"is": "unable", "why": f"{type(error).__name__}: {error}"})
            return
        gc.freeze()  # what stays need not be looked at while somebody waits for a step
        front.send({"is": "ready", "concurrency": worker.concurrency()}, info)
        worker.serve()


if __name__ == "__main__":
    main()
