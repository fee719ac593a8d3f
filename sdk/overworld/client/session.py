"""A session on an env server, as a client sees it.

    with Session("localhost:50051", "gym_cards/NumberLine", slots=4) as session:
        results = session.reset([1, 2, 3, 4])
        results = session.step(["+", "+", "-", "+"])
        results.frames()  # uint8 [4, height, width, 3]

The session repeats what was lost in transit (the contract makes that safe), keeps its lease alive, and after a restart
of the server opens itself again and replays its episodes.
"""

from __future__ import annotations

import json
import logging
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from overworld.authoring.env import EnvSpec
from overworld.authoring.runner import Fallback, Result
from overworld.client.channel import CallFailedError, CallLostError, Channel, ServerLostError
from overworld.client.gate import Gate
from overworld.client.ledger import Ledger
from overworld.client.moves import Moves, Reset
from overworld.client.opening import open_session
from overworld.client.results import Results, read_response, read_results
from overworld.errors import ContractError, Reason
from overworld.v1 import env_pb2 as pb

_logger = logging.getLogger(__name__)

_MAX_CALLS = 8
_CLOSE_SECONDS = 2.0


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
    lease          Seconds that the server keeps the session after this process is gone.
    retry_budget   Seconds for which a call is repeated when it gets lost or the server has no room.

    Raises what `step` raises if the session cannot be opened. Methods may be called from several threads at once, for
    different slots.
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
        self._shared_memory = shared_memory
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
        self._ledger = Ledger(slots)
        self._gate = Gate()  # steps pass; rebuilding the session closes the gate
        self._rebuilt = 0  # how often
        self._connect: Callable[[str], Channel] = lambda address: Channel(address, token, retry_budget)
        self._channel = self._connect(address)
        try:
            self._opened = open_session(self._channel, self._request, shared_memory=shared_memory, before=None)
        except BaseException:
            self._channel.close()
            raise
        self._submitted = ThreadPoolExecutor(_MAX_CALLS, f"session-{self.name[:8]}")  # starts threads on first use
        self._closed = threading.Event()
        threading.Thread(target=self._keep_lease, daemon=True, name=f"lease-{self.name[:8]}").start()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._ledger)

    def __repr__(self) -> str:
        state = "closed" if self._closed.is_set() else "shared memory" if self.shares_memory else "inline frames"
        return f"<Session: {len(self)} slots of {self.spec.id} on {self.address}, {state}>"

    @property
    def address(self) -> str:
        """Where the server is."""
        return self._channel.address

    @property
    def spec(self) -> EnvSpec:
        """The env with this session's options."""
        return self._opened.spec

    @property
    def options(self) -> dict[str, Any]:
        """The complete options."""
        return self._opened.options

    @property
    def shares_memory(self) -> bool:
        """Whether frames come through shared memory."""
        return self._opened.shared is not None

    def reset(self, seeds: Sequence[int]) -> Results:
        """Starts an episode with each of the seeds in slots 0, 1, ...; `step` takes `Reset`s for anything else."""
        return self.step([Reset(seed=seed) for seed in seeds])

    def step(self, moves: Moves) -> Results:
        """Moves slots and waits for all of them.

        A slot that failed inside the server has a result with `error`: reset it. Raises ContractError if the server
        refuses the moves (nothing was executed), ServerLostError if it cannot be reached (calling again with the same
        moves is safe), ServerChangedError if it came back different, ServerBrokenError if its answer makes no sense,
        CallFailedError if it failed in a way that the contract does not know.
        """
        return self._execute(self._ledger.number(moves))

    def submit(self, moves: Moves) -> Future[Results]:
        """As `step`, but returns at once, so that the simulators step while the caller does something else.

        Up to 8 calls run at a time.
        """
        return self._submitted.submit(self._execute, self._ledger.number(moves))

    def step_some(self, moves: Moves, min_ready: int) -> Results:
        """As `step`, but returns when `min_ready` slots are ready. The other results are `pending`: `collect` them."""
        return self._execute(self._ledger.number(moves), min_ready)

    def collect(self, pending: Sequence[Result], min_ready: int = 0) -> Results:
        """Waits until `min_ready` (0: all) of results that were pending are ready."""
        return self._execute(self._ledger.pending(pending), min_ready)

    def resume_point(self, slot: int) -> Reset:
        """The reset that brings a new slot to where this one is. Raises LookupError if no episode runs there."""
        return self._ledger.resume_point(slot)

    def move(self, address: str) -> None:
        """Rebuilds the session on another server and continues there.

        If that fails the session stays where it was. Raises as `step` does.
        """
        with self._gate.closed():
            left, arrived = self._channel, self._connect(address)
            try:
                self._rebuild(arrived)
            except BaseException:
                arrived.close()
                raise
            left.close()

    def close(self) -> None:
        """Ends the session and frees its slots."""
        if self._closed.is_set():
            return
        self._closed.set()
        self._submitted.shutdown(wait=True, cancel_futures=True)
        try:
            self._channel.call("Close", pb.CloseRequest(session=self.name), budget=_CLOSE_SECONDS)
        except (CallFailedError, ContractError, ServerLostError) as error:
            _logger.warning("session %s was not closed (%s); its lease ends soon", self.name, error)
        self._channel.close()

    def _execute(self, commands: Sequence[pb.Command], min_ready: int = 0) -> Results:
        """Sends numbered commands until their results are there, whatever happens to the server meanwhile."""
        backoff = self._channel.backoff("Step")
        while True:
            rebuilt = self._rebuilt
            try:
                with self._gate.passing():
                    rebuilt = self._rebuilt
                    return self._attempt(commands, min_ready)
            except CallLostError as error:
                if rebuilt == self._rebuilt:  # otherwise the session may be on another server by now
                    backoff.wait(error)
            except ContractError as error:
                if error.reason is not Reason.SESSION_UNKNOWN:
                    raise
                with self._gate.closed():
                    if rebuilt == self._rebuilt:  # otherwise another call has done so
                        _logger.warning("session %s: unknown to %s, opening it again", self.name, self.address)
                        self._rebuild(self._channel)

    def _attempt(self, commands: Sequence[pb.Command], min_ready: int) -> Results:
        """One Step. Nothing is noted before all of the answer has been understood."""
        losses = [self._ledger.loss(command) for command in commands]
        sent = [command for command, loss in zip(commands, losses, strict=True) if loss is None]
        data = self._channel.attempt("Step", self._step_request(sent, min_ready))
        with self._channel.reading("Step"):
            response, frames = read_response(data, sent)
            results = iter(read_results(response, frames, self._opened.shared, copy=self._copy))
        self.draining = response.draining
        for command, answer in zip(sent, response.results, strict=True):
            self._ledger.note(command, answer)
        return Results(
            [
                next(results)
                if loss is None
                else Result(slot=command.slot, episode=command.episode, turn=command.turn, error=loss)
                for command, loss in zip(commands, losses, strict=True)
            ]
        )

    def _rebuild(self, channel: Channel) -> None:
        """Opens the session again and replays its episodes; once more, if the server is restarted meanwhile."""
        backoff = channel.backoff("Step")
        replays = self._ledger.replays()
        while True:
            opened = open_session(channel, self._request, shared_memory=self._shared_memory, before=self._opened)
            try:
                data = channel.attempt("Step", self._step_request(replays))
                break
            except CallLostError as error:
                backoff.wait(error)
            except ContractError as error:
                if error.reason is not Reason.SESSION_UNKNOWN:
                    raise
                backoff.wait(error)
        with channel.reading("Step"):
            response, _ = read_response(data, replays)
        for answer in response.results:
            self._ledger.note_replayed(answer)
        self._channel, self._opened = channel, opened
        self._rebuilt += 1

    def _step_request(self, commands: Sequence[pb.Command] = (), min_ready: int = 0) -> pb.StepRequest:
        return pb.StepRequest(session=self.name, commands=commands, min_ready=min_ready)

    def _keep_lease(self) -> None:
        """Renews the lease while the caller is busy with other things."""
        while not self._closed.wait(self._opened.lease / 3):
            try:
                self._channel.attempt("Step", self._step_request(), timeout=self._opened.lease)
            except (CallFailedError, CallLostError, ContractError) as error:
                # The next step finds out for itself, and can do something about it.
                _logger.debug("session %s: lease not renewed: %s", self.name, error)
