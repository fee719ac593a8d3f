"""The connection of a session: sends its commands, repeats what was lost, rebuilds the session, keeps its lease."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Collection, Sequence

from overworld.authoring.runner import Result
from overworld.client.channel import CallLostError, Channel
from overworld.client.gate import Gate
from overworld.client.ledger import Ledger
from overworld.client.opening import open_session
from overworld.client.results import Results, read_response, read_results
from overworld.errors import ContractError, Reason, Retry, ServerError
from overworld.v1 import env_pb2 as pb

_logger = logging.getLogger(__name__)

_CLOSE_SECONDS = 2.0
_SKIPPING = (pb.OUTCOME_NO_ACTION, pb.OUTCOME_NOT_ADMISSIBLE)
_FRAMING_BYTES = 6  # a field's number, and a length of up to 32 bits
_ROUNDING = 1e-6  # of simulators that count in float32


class Connection:
    """Opens the session that `request` describes at `address` and keeps it open until `close`.

    `connect(address)` makes a channel. The other arguments are those of `Session`, whose methods say what is raised.
    """

    def __init__(
        self,
        address: str,
        request: pb.OpenRequest,
        ledger: Ledger,
        *,
        connect: Callable[[str], Channel],
        shared_memory: bool,
        compress: bool,
        copy: bool,
    ) -> None:
        self.draining = False
        self._request = request
        self._ledger = ledger
        self._connect = connect
        self._open = functools.partial(open_session, shared_memory=shared_memory, compress=compress)
        self._copy = copy
        self._gate = Gate()  # steps pass; rebuilding the session closes the gate
        self._rebuilt = 0  # how often
        self._warned = False  # of a reward outside of its bounds
        self._closed = threading.Event()
        self._channel = connect(address)
        ledger.server = address
        try:
            self.opened = self._open(self._channel, request, before=None)
            """What the server granted, the last time that the session was opened."""
        except BaseException:
            self._channel.close()
            raise
        threading.Thread(target=self._keep_lease, daemon=True, name=f"lease-{request.session[:8]}").start()

    def __repr__(self) -> str:
        return f"<Connection to {self.address}{', closed' if self.closed else ''}>"

    @property
    def address(self) -> str:
        """Where the server is."""
        return self._channel.address

    @property
    def closed(self) -> bool:
        """Whether the session was closed."""
        return self._closed.is_set()

    def execute(self, commands: Sequence[pb.Command], min_ready: int = 0) -> Results:
        """Sends numbered commands until their results are there, whatever happens to the server meanwhile."""
        backoff = self._channel.backoff("Step")
        while True:
            rebuilt = self._rebuilt
            try:
                with self._gate.passing():
                    rebuilt = self._rebuilt
                    return self._attempt(commands, min_ready, backoff.patience)
            except CallLostError as error:
                if rebuilt == self._rebuilt:  # otherwise the session may be on another server by now
                    backoff.wait(error)
            except ContractError as error:
                if error.reason.retry is Retry.LATER:
                    backoff.wait(error)
                    continue
                if error.reason is not Reason.SESSION_UNKNOWN:
                    raise
                with self._gate.closed():
                    if rebuilt == self._rebuilt:  # otherwise another call has rebuilt it
                        _logger.warning(
                            "session %s: unknown to %s, opening it again", self._request.session, self.address
                        )
                        self._rebuild(self._channel)

    def move(self, address: str) -> None:
        """Rebuilds the session on another server. If that fails it stays where it was."""
        with self._gate.closed():
            left, arrived = self._channel, self._connect(address)
            try:
                self._rebuild(arrived)
            except BaseException:
                self._hang_up(arrived, budget=0.0)  # it may not even be there
                raise
            left.close()

    def close(self) -> None:
        """Stops renewing the lease, ends the session and hangs up. May be called again."""
        if self._closed.is_set():
            return
        self._closed.set()
        self._hang_up(self._channel)

    def _hang_up(self, channel: Channel, budget: float = _CLOSE_SECONDS) -> None:
        """Ends the session on a server, if that can be done, and the connection to it."""
        try:
            channel.call("Close", pb.CloseRequest(session=self._request.session), budget=budget)
        except (ContractError, ServerError) as error:
            _logger.warning("session %s was not closed (%s); its lease ends soon", self._request.session, error)
        channel.close()

    def _attempt(self, commands: Sequence[pb.Command], min_ready: int, timeout: float) -> Results:
        """One Step. Nothing is noted before all of the answer has been understood."""
        losses = [self._ledger.loss(command) for command in commands]
        sent = [command for command, loss in zip(commands, losses, strict=True) if loss is None]
        self._ledger.send(sent)
        data = self._channel.attempt("Step", self._step_request(sent, min_ready), timeout)
        with self._channel.reading("Step"):
            checked = self._channel.checksums
            response, frames = read_response(data, sent, self.opened.vocabulary, min_ready, checked=checked)
            opened = self.opened
            results = iter(read_results(response, frames, opened.shared, compressed=opened.compressed, copy=self._copy))
        self.draining = response.draining
        self._watch_rewards(response)
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

    def _watch_rewards(self, response: pb.StepResponse) -> None:
        """Warns once of a reward that the simulator gave outside of the bounds of its spec."""
        spec = self.opened.spec
        if self._warned or not spec.reward_min < spec.reward_max:
            return
        for result in response.results:
            if not result.turn or result.outcome in _SKIPPING or result.state != pb.SLOT_STATE_READY:
                continue  # fallback_reward knows no bounds
            slack = _ROUNDING * max(abs(spec.reward_min), abs(spec.reward_max))
            if not spec.reward_min - slack <= result.reward <= spec.reward_max + slack:
                self._warned = True
                _logger.warning(
                    "%s: %s gave the reward %g (slot %d, episode %d, turn %d), which is outside of the bounds that its "
                    "spec declares, %g to %g; this is said once per session",
                    self.address, spec.id, result.reward, result.slot, result.episode, result.turn,
                    spec.reward_min, spec.reward_max,
                )  # fmt: skip
                return

    def _rebuild(self, channel: Channel) -> None:
        """Opens the session again and replays its episodes; once more, if the server is restarted meanwhile."""
        backoff = channel.backoff("Step")
        replays = self._ledger.replays()
        while True:
            opened = self._open(channel, self._request, before=self.opened)
            limit = opened.max_request_bytes - self._step_request().ByteSize()
            fitting = [replay for replay in replays if _size(replay) <= limit]
            parts = _parts(fitting, limit)
            try:
                responses = [self._replay(channel, part, opened.vocabulary, backoff.patience) for part in parts]
                break
            except CallLostError as error:
                backoff.wait(error)
            except ContractError as error:
                if error.reason is not Reason.SESSION_UNKNOWN and error.reason.retry is not Retry.LATER:
                    raise
                backoff.wait(error)
        self._ledger.server = channel.address
        for response in responses:
            for answer in response.results:
                self._ledger.note_replayed(answer)
        for replay in replays:
            if _size(replay) > limit:
                self._ledger.give_up(
                    replay, f"its replay takes {_size(replay):,} bytes, and {channel.address} accepts {limit:,}"
                )
        self._channel, self.opened = channel, opened
        self._rebuilt += 1

    def _replay(
        self, channel: Channel, commands: Sequence[pb.Command], vocabulary: Collection[str], timeout: float
    ) -> pb.StepResponse:
        data = channel.attempt("Step", self._step_request(commands), timeout)
        with channel.reading("Step"):
            return read_response(data, commands, vocabulary, checked=channel.checksums)[0]

    def _step_request(self, commands: Sequence[pb.Command] = (), min_ready: int = 0) -> pb.StepRequest:
        return pb.StepRequest(session=self._request.session, commands=commands, min_ready=min_ready)

    def _keep_lease(self) -> None:
        """Renews the lease while the caller is busy with other things."""
        while not self._closed.wait(self.opened.lease / 3):
            try:
                self._channel.attempt("Step", self._step_request(), timeout=self.opened.lease)
            except (CallLostError, ContractError) as error:
                # The next step finds out for itself, and can do something about it.
                _logger.debug("session %s: lease not renewed: %s", self._request.session, error)


def _size(command: pb.Command) -> int:
    """Bytes that the command takes in a request, at most."""
    return command.ByteSize() + _FRAMING_BYTES


def _parts(commands: Sequence[pb.Command], limit: int) -> list[list[pb.Command]]:
    """The commands, none of which exceeds `limit` bytes, in lists that do not either; at least one list."""
    parts: list[list[pb.Command]] = [[]]
    filled = 0
    for command in commands:
        if filled + _size(command) > limit:
            parts.append([])
            filled = 0
        parts[-1].append(command)
        filled += _size(command)
    return parts
