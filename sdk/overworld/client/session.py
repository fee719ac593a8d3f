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
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from overworld.authoring.env import EnvSpec
from overworld.authoring.runner import Fallback, Result
from overworld.client.channel import Channel
from overworld.client.connection import Connection
from overworld.client.counts import ByServer
from overworld.client.ledger import Ledger
from overworld.client.moves import Moves, Reset
from overworld.client.results import Results
from overworld.service.credentials import Credentials
from overworld.v1 import env_pb2 as pb

_MAX_CALLS = 8


class Session:
    """N slots of one env on one server.

    address        "host:port".
    options        The env's options, as its options_schema says.
    token          Bearer token, if the server asks for one.
    credentials    Instead of the token: all that is needed for TLS, and for tokens that change.
    fallback       What happens to an action that cannot be executed; `fallback_reward` is the reward of a skipped turn.
    expert         Whether results carry the expert's advice.
    shared_memory  Whether frames may come through shared memory where that is possible.
    compress       Whether frames that do not come through shared memory are compressed: worth it on slow links.
    copy           Whether pixels are the caller's to keep, and checked to be the ones that the env drew. False saves
                   the time: then what comes through shared memory is valid until the slot's next move.
    lease          Seconds that the server keeps the session after this process is gone.
    retry_budget   Seconds for which a call is repeated when it gets lost or the server has no room.
    step_timeout   Seconds after which a call is given up that the server does not finish, though it answers others.
                   None: never, since only who runs the simulator knows how long a step may take, and an env server has
                   a limit of its own (`overworld serve --step-timeout`); a warning is logged every minute.

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
        credentials: Credentials | None = None,
        fallback: Fallback = Fallback.SKIP,
        fallback_reward: float = 0.0,
        expert: bool = False,
        shared_memory: bool = True,
        compress: bool = False,
        copy: bool = True,
        lease: float = 30.0,
        retry_budget: float = 120.0,
        step_timeout: float | None = None,
    ) -> None:
        self.name = str(uuid.uuid4())
        trusted = credentials or Credentials(token=token)
        self.fallback = fallback
        self.fallback_reward = fallback_reward
        self.expert = expert
        request = pb.OpenRequest(
            session=self.name,
            env_id=env_id,
            slots=slots,
            options_json=json.dumps(dict(options or {})),
            fallback=pb.Fallback.Name(fallback),
            fallback_reward=fallback_reward,
            expert=expert,
            required_features=("prefix",),
        )
        request.lease.FromMilliseconds(int(lease * 1000))
        self._ledger = Ledger(slots)
        self._connection = Connection(
            address,
            request,
            self._ledger,
            connect=lambda address: Channel(address, trusted, retry_budget, step_timeout),
            shared_memory=shared_memory,
            compress=compress,
            copy=copy,
        )
        self._submitted = ThreadPoolExecutor(_MAX_CALLS, f"session-{self.name[:8]}")  # starts threads on first use

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._ledger)

    def __repr__(self) -> str:
        state = "closed" if self._connection.closed else "shared memory" if self.shares_memory else "inline frames"
        return f"<Session: {len(self)} slots of {self.spec.id} on {self.address}, {state}>"

    @property
    def address(self) -> str:
        """Where the server is."""
        return self._connection.address

    @property
    def draining(self) -> bool:
        """Whether the server has said that it will stop soon."""
        return self._connection.draining

    @property
    def spec(self) -> EnvSpec:
        """The env with this session's options."""
        return self._connection.opened.spec

    @property
    def options(self) -> dict[str, Any]:
        """The complete options."""
        return self._connection.opened.options

    @property
    def shares_memory(self) -> bool:
        """Whether frames come through shared memory."""
        return self._connection.opened.shared is not None

    @property
    def counts(self) -> ByServer:
        """What became of all commands, by the servers' addresses: see `Counts`."""
        return self._ledger.counts

    def attempts(self, slot: int) -> int:
        """How often the slot's latest episode was begun: once, and once more each time that it was brought back."""
        return self._ledger.attempts(slot)

    def reset(self, seeds: Sequence[int]) -> Results:
        """Starts an episode with each of the seeds in slots 0, 1, ...; `step` takes `Reset`s for anything else."""
        return self.step([Reset(seed=seed) for seed in seeds])

    def step(self, moves: Moves) -> Results:
        """Moves slots and waits for all of them.

        A slot that failed inside the server has a result with `error`: reset it. Raises ContractError if the server
        refuses the moves (nothing was executed), ServerLostError if it cannot be reached and ServerStuckError if it did
        not finish within `step_timeout` (calling again with the same moves is safe after both), ServerChangedError if
        it came back different, ServerBrokenError if its answer makes no sense, CallFailedError if it failed in a way
        that the contract does not know.
        """
        return self._connection.execute(self._ledger.number(moves))

    def submit(self, moves: Moves) -> Future[Results]:
        """As `step`, but returns at once, so that the simulators step while the caller does something else.

        Up to 8 calls run at a time.
        """
        return self._submitted.submit(self._connection.execute, self._ledger.number(moves))

    def step_some(self, moves: Moves, min_ready: int) -> Results:
        """As `step`, but returns when `min_ready` slots are ready. The other results are `pending`: `collect` them."""
        return self._connection.execute(self._ledger.number(moves), min_ready)

    def collect(self, pending: Sequence[Result], min_ready: int = 0) -> Results:
        """Waits until `min_ready` (0: all) of results that were pending are ready."""
        return self._connection.execute(self._ledger.pending(pending), min_ready)

    def resume_point(self, slot: int) -> Reset:
        """The reset that brings a new slot to where this one is. Raises LookupError if no episode runs there."""
        return self._ledger.resume_point(slot)

    def move(self, address: str) -> None:
        """Rebuilds the session on another server and continues there.

        If that fails the session stays where it was. Raises as `step` does.
        """
        self._connection.move(address)

    def close(self) -> None:
        """Ends the session and frees its slots."""
        self._submitted.shutdown(wait=True, cancel_futures=True)
        self._connection.close()
