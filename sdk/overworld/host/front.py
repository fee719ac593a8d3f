"""The front: the contract's four calls. It owns the sessions, and the pool whose workers own the simulators."""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import re
import time
import uuid
from collections.abc import Callable, Sequence

from google.protobuf.duration_pb2 import Duration

from overworld.authoring.env import EnvSpec
from overworld.contract import checksum
from overworld.contract.frames import FrameFile, join_response
from overworld.contract.wire import CONTRACT_REVISION, spec_from_proto
from overworld.errors import ContractError, Reason
from overworld.host import callers
from overworld.host.metrics import ServerMetrics
from overworld.host.outline import Room
from overworld.host.pool import Pool
from overworld.host.session import HostedSession
from overworld.service import bounds
from overworld.v1 import env_pb2 as pb

_logger = logging.getLogger(__name__)

MAX_RESPONSE_BYTES = (1 << 31) - 1
"""protobuf's own limit."""
KEEPALIVE_SECONDS = 1
"""Between two pings of a client."""

_TRANSPORTS = (pb.TRANSPORT_SHARED_MEMORY, pb.TRANSPORT_INLINE, pb.TRANSPORT_INLINE_LZ4)
_DEFAULT_LEASE_SECONDS = 60.0
_REAP_SECONDS = 0.25
_SESSION_NAME = re.compile("[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")


class Front:
    """Implements EnvService. Each call raises ContractError for a refusal."""

    def __init__(
        self,
        envs: Sequence[str],
        *,
        slots: int,
        workers: int,
        step_timeout: float,
        slot_bytes: int,
        allow_expert: bool,
        metrics: ServerMetrics,
    ) -> None:
        self.draining = False
        self.instance = str(uuid.uuid4())
        self._slot_bytes = slot_bytes
        self._allow_expert = allow_expert
        self._features = (
            "prefix",
            "min_ready",
            "random_fallback",
            checksum.FEATURE,
            *(("expert",) if allow_expert else ()),
        )
        self._metrics = metrics
        self._sessions: dict[str, HostedSession] = {}
        self._keys = itertools.count()
        self._pool = Pool(
            envs, slots=slots, workers=workers, step_timeout=step_timeout, metrics=metrics, on_lost=self._end
        )
        self._info = pb.GetServerInfoResponse()  # no envs until the workers have loaded them
        self._reaper: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Front: {len(self._sessions)} sessions, {self._pool!r}>"

    async def start(self) -> None:
        """Starts the workers. Raises WorkerError if one cannot load its envs."""
        self._info = await self._pool.start()
        self._reaper = asyncio.create_task(self._reap())
        self._count()

    @property
    def failed(self) -> asyncio.Future[None]:
        """Gets a TransientError when a worker cannot be replaced, and whatever else goes wrong unforeseen."""
        return self._pool.failed

    @property
    def healthy(self) -> bool:
        """Whether each worker works."""
        return self._pool.healthy

    @property
    def envs(self) -> list[str]:
        """Ids of the envs."""
        return [env.id for env in self._info.envs]

    async def stop(self) -> None:
        """Ends sessions and workers."""
        if self._reaper is not None:
            self._reaper.cancel()
        for session in list(self._sessions.values()):
            self._end(session)
        await self._pool.stop()

    async def drain(self, grace: float) -> None:
        """Refuses new sessions and waits until the running ones are closed, `grace` seconds at most."""
        self.draining = True
        deadline = time.monotonic() + grace
        while self._sessions and time.monotonic() < deadline:
            await asyncio.sleep(0.05)

    async def get_server_info(self, request: pb.GetServerInfoRequest) -> pb.GetServerInfoResponse:
        """EnvService.GetServerInfo."""
        info = pb.GetServerInfoResponse(
            instance=self.instance,
            revision=CONTRACT_REVISION,
            features=self._features,
            transports=_TRANSPORTS,
            slots_total=self._pool.slots,
            slots_free=callers.current.get().free(self._pool.free),
            draining=self.draining,
            max_request_bytes=bounds.STEP_REQUEST,
            max_response_bytes=MAX_RESPONSE_BYTES,
            keepalive=Duration(seconds=KEEPALIVE_SECONDS),
        )
        info.MergeFrom(self._info)
        return info

    async def open(self, request: pb.OpenRequest) -> pb.OpenResponse:
        """EnvService.Open."""
        transport = _choose_transport(request)
        session = self._sessions.get(request.session)
        if session is None:
            session = self._begin(request)
        elif session.owner is not callers.current.get() or not _same_but_transports(session.request, request):
            raise ContractError(
                Reason.SESSION_CONFLICT,
                f"session {request.session} is open with another env, slots or options; choose another name",
            )
        # Shielded: a client that gives up waiting must not cancel what its next Open joins.
        opened = await asyncio.shield(session.opened)
        session.check_open()
        session.renew()
        session.transport = transport
        response = pb.OpenResponse(transport=transport)
        response.MergeFrom(opened)
        response.lease.FromMilliseconds(int(session.lease * 1000))
        if transport == pb.TRANSPORT_SHARED_MEMORY:
            frames = session.frames
            response.shared.CopyFrom(pb.SharedMemory(path=frames.path, size=frames.size, nonce=frames.nonce))
        return response

    async def step(self, request: pb.StepRequest, on_done: Callable[[Callable[[object], None]], None]) -> bytes:
        """EnvService.Step. The response comes serialised, so that its frames are copied only once.

        What `on_done` is given is to be called when the response has been sent, or is not needed any more.
        """
        session, _ = self._playing(request.session)
        transport = session.transport  # this call's client expects its frames there, whatever is negotiated meanwhile
        fresh = session.accept(request.commands)
        self._pool.step(session, fresh)
        if len(fresh) < len(request.commands):
            new = {command.slot for command in fresh}
            self._pool.repeated(session, [command for command in request.commands if command.slot not in new])
        slots = [session.slots[command.slot] for command in request.commands]
        await session.wait(slots, request.min_ready)
        await session.responses.acquire()
        on_done(lambda _: session.responses.release())
        size = session.frame_bytes(slots, transport)
        await session.owner.responses.take(size)
        on_done(lambda _: session.owner.responses.give_back(size))
        session.check_open()
        session.check_current(request.commands)
        response, frames = session.respond(slots, transport)
        response.draining = self.draining
        response.lease_left.FromMilliseconds(int(session.lease * 1000))
        data = join_response(response, frames)
        self._metrics.sent_bytes.inc(len(data))
        session.owner.sent.inc(len(data))
        return data

    async def close(self, request: pb.CloseRequest) -> pb.CloseResponse:
        """EnvService.Close."""
        session = self._sessions.get(request.session)
        if session is not None and session.owner is callers.current.get():
            self._end(session)
        return pb.CloseResponse()

    def room(self, name: str) -> Room:
        """How much the caller's session of this name takes at a time. Raises ContractError if there is none."""
        session, spec = self._playing(name)
        return Room(len(session.slots), spec.max_turns or bounds.PREFIX)

    def _playing(self, name: str) -> tuple[HostedSession, EnvSpec]:
        """The caller's session of this name, and its env. Raises ContractError if there is none."""
        session = self._sessions.get(name)
        if session is None or session.spec is None or session.owner is not callers.current.get():
            raise ContractError(
                Reason.SESSION_UNKNOWN,
                f"there is no session {name[:100]!r}: its lease ended, it was closed, or the server was restarted; "
                "open it again",
            )
        return session, session.spec

    def _begin(self, request: pb.OpenRequest) -> HostedSession:
        self._check(request)
        owner = callers.current.get()
        owner.take(request.slots)
        try:
            slots = self._pool.take(request.slots, request.env_id)
        except ContractError:
            owner.hold(-request.slots)
            raise
        try:
            frames = FrameFile(len(slots), self._slot_bytes)
        except OSError as error:
            self._pool.give_back(slots)
            owner.hold(-request.slots)
            raise ContractError(
                Reason.NO_FREE_SLOTS, f"the server has no memory or files for frames: {error}"
            ) from None
        lease = min(request.lease.seconds + request.lease.nanos / 1e9, bounds.LEASE)
        if not request.HasField("lease"):
            lease = _DEFAULT_LEASE_SECONDS
        session = HostedSession(
            key=next(self._keys),
            owner=owner,
            request=request,
            slots=slots,
            frames=frames,
            lease=lease,
            open=self._open,
        )
        self._sessions[request.session] = session
        self._count()
        return session

    async def _open(self, session: HostedSession) -> pb.OpenResponse:
        try:
            opened = await self._pool.open(session)
            session.spec = spec_from_proto(opened.spec)
        except BaseException:
            self._end(session)
            raise
        session.renew()
        name, slots = session.request.session, len(session.slots)
        _logger.info("session %s of %s: %d slots of %s", name, session.owner.name, slots, session.spec.id)
        return opened

    def _check(self, request: pb.OpenRequest) -> None:
        """Raises ContractError for a session that cannot be opened."""
        if self.draining:
            raise ContractError(Reason.DRAINING, "the server is shutting down; use another one")
        if not _SESSION_NAME.fullmatch(request.session):  # uuid.UUID takes much else, of any length
            raise ContractError(
                Reason.REQUEST_INVALID, f"a session's name is a UUID in text form, not {request.session[:100]!r}"
            )
        bounds.FEATURES.check(len(request.required_features))
        bounds.OPTIONS.check(len(request.options_json.encode()))
        envs = {env.id: env for env in self._info.envs}
        if request.env_id not in envs:
            raise ContractError(
                Reason.ENV_UNKNOWN, f"this server has no env {request.env_id[:100]!r}; it has {sorted(envs)}"
            )
        if not request.slots:
            raise ContractError(Reason.REQUEST_INVALID, "a session has at least 1 slot")
        if missing := sorted(set(request.required_features) - set(self._features)):
            raise ContractError(
                Reason.FEATURE_MISSING, f"this server lacks {str(missing)[:1000]}; it has {self._features}"
            )
        lease = request.lease
        if request.HasField("lease") and (min(lease.seconds, lease.nanos) < 0 or max(lease.seconds, lease.nanos) == 0):
            raise ContractError(Reason.REQUEST_INVALID, "a lease is longer than 0 seconds")
        if request.fallback != pb.FALLBACK_RANDOM and not math.isfinite(request.fallback_reward):
            raise ContractError(Reason.REQUEST_INVALID, f"fallback_reward is {request.fallback_reward}, not finite")
        if request.fallback not in pb.Fallback.values():
            raise ContractError(Reason.REQUEST_INVALID, f"there is no fallback {request.fallback}")
        if request.expert and not self._allow_expert:
            raise ContractError(
                Reason.EXPERT_NOT_ALLOWED, "this server gives no expert advice; start it with --allow-expert"
            )
        if request.expert and not envs[request.env_id].has_expert:
            raise ContractError(Reason.FEATURE_MISSING, f"{request.env_id} has no expert")

    def _end(self, session: HostedSession) -> None:
        if self._sessions.get(session.request.session) is session:
            del self._sessions[session.request.session]
            self._pool.close(session)
            session.close()
            session.owner.hold(-len(session.slots))
            self._count()

    def _count(self) -> None:
        self._metrics.sessions.set(len(self._sessions))
        self._metrics.slots_free.set(self._pool.free)

    async def _reap(self) -> None:
        """Ends sessions whose lease has run out."""
        while True:
            await asyncio.sleep(_REAP_SECONDS)
            for session in list(self._sessions.values()):
                if session.expired:
                    name, owner = session.request.session, session.owner.name
                    _logger.warning("session %s of %s: its lease of %g s ends", name, owner, session.lease)
                    self._end(session)


def _choose_transport(request: pb.OpenRequest) -> pb.Transport:
    """The first that the client wants and the server has. Raises ContractError."""
    for wanted in request.transports or (pb.TRANSPORT_INLINE,):
        if wanted in _TRANSPORTS:
            return wanted
    raise ContractError(
        Reason.FEATURE_MISSING, "none of these transports is offered; TRANSPORT_INLINE always is: add it"
    )


def _same_but_transports(one: pb.OpenRequest, other: pb.OpenRequest) -> bool:
    copies = []
    for request in (one, other):
        copy = pb.OpenRequest()
        copy.CopyFrom(request)
        copy.ClearField("transports")
        copies.append(copy)
    return copies[0] == copies[1]
