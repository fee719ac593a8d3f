"""Slots of one env spread over many servers, used like those of one session."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

from overworld.authoring.env import EnvSpec
from overworld.authoring.runner import Fallback, Result
from overworld.client.channel import ServerInfo, server_info
from overworld.client.counts import ByServer, together
from overworld.client.moves import Move, Moves, Reset
from overworld.client.results import Results
from overworld.client.session import Session
from overworld.errors import (
    CallFailedError,
    ContractError,
    OverworldError,
    Reason,
    ServerBrokenError,
    ServerError,
    ServerLostError,
    ServerStuckError,
    ServerUntrustedError,
)
from overworld.registry import Announced, Registry, StaticRegistry
from overworld.service import bounds
from overworld.service.credentials import Credentials

_logger = logging.getLogger(__name__)

_MAX_CALLS = 8
_FAILOVER_SECONDS = 15.0
_PAUSE_SECONDS = 1.0
_ASK_SECONDS = 2.0
_PASSED_OVER = (
    CallFailedError, ContractError, ServerBrokenError, ServerLostError, ServerStuckError, ServerUntrustedError,
)  # fmt: skip


@dataclasses.dataclass(slots=True)
class _Part:
    """A session and the number of its first slot in the fleet."""

    session: Session
    first: int
    moving: threading.Lock = dataclasses.field(default_factory=threading.Lock)
    moves: int = 0  # how often it moved to another server, or found that its own is back
    unclaimed: dict[int, tuple[Move, Result]] = dataclasses.field(default_factory=dict)


class Fleet:
    """`slots` slots of one env on the servers that `servers` names.

    When a server has not answered for 15 seconds, its slots are moved to another one, or rebuilt on it if it comes back
    first; their episodes are replayed. If no server has room for them within `retry_budget` seconds, or at the start
    for all slots, ServerLostError (no server answers) or ContractError NO_FREE_SLOTS (they are full) is raised. With
    `fallback_reward` None a skipped turn earns the `silence_reward` of the spec. The other arguments are those of
    `Session`.
    """

    def __init__(
        self,
        servers: Registry | Sequence[str],
        env_id: str,
        slots: int,
        *,
        token: str = "",
        credentials: Credentials | None = None,
        retry_budget: float = 120.0,
        fallback_reward: float | None = 0.0,
        **arguments: Any,
    ) -> None:
        if slots < 1:
            raise ValueError(f"a fleet has 1 or more slots, not {slots}")
        self._registry = servers if isinstance(servers, Registry) else StaticRegistry(servers)
        self._env_id = env_id
        self._slots = slots
        self._credentials = credentials or Credentials(token=token)
        self._budget = retry_budget
        self._arguments = {
            **arguments,
            "credentials": self._credentials,
            "retry_budget": min(retry_budget, _FAILOVER_SECONDS),
        }
        self._failures: dict[str, OverworldError] = {}
        """Why servers did not answer when they were asked the last time."""
        self._parts = self._open(fallback_reward)
        self._submitted = ThreadPoolExecutor(_MAX_CALLS, "fleet")  # starts threads on first use
        self._steps = ThreadPoolExecutor(_MAX_CALLS * len(self._parts), "fleet-part")

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return self._slots

    def __repr__(self) -> str:
        return f"<Fleet: {len(self)} slots of {self._env_id} on {', '.join(self.addresses)}>"

    @property
    def spec(self) -> EnvSpec:
        """The env with this fleet's options."""
        return self._parts[0].session.spec

    @property
    def specs(self) -> dict[str, EnvSpec]:
        """The env as each server in use describes it, by address: their provenance may differ."""
        return {part.session.address: part.session.spec for part in self._parts}

    @property
    def options(self) -> dict[str, Any]:
        """The complete options."""
        return self._parts[0].session.options

    @property
    def fallback(self) -> Fallback:
        """As `Session.fallback`."""
        return self._parts[0].session.fallback

    @property
    def fallback_reward(self) -> float:
        """As `Session.fallback_reward`."""
        return self._parts[0].session.fallback_reward

    @property
    def expert(self) -> bool:
        """As `Session.expert`."""
        return self._parts[0].session.expert

    @property
    def addresses(self) -> list[str]:
        """The servers in use."""
        return [part.session.address for part in self._parts]

    @property
    def counts(self) -> ByServer:
        """As `Session.counts`."""
        return together(part.session.counts for part in self._parts)

    def attempts(self, slot: int) -> int:
        """As `Session.attempts`."""
        index, local = self._locate(slot)
        return self._parts[index].session.attempts(local)

    def step(self, moves: Moves) -> Results:
        """As `Session.step`. If it raises, some servers may have moved their slots: call again with the same moves, and
        they give the results that they gave before.
        """
        moves = moves if isinstance(moves, Mapping) else dict(enumerate(moves))
        shares: dict[int, dict[int, Move]] = {}
        for slot, move in moves.items():
            index, local = self._locate(slot)
            shares.setdefault(index, {})[local] = move
        running = {index: self._steps.submit(self._step_part, self._parts[index], shares[index]) for index in shares}
        wait(running.values())
        failed = next((error for future in running.values() if (error := future.exception()) is not None), None)
        if failed is not None:
            for index, future in running.items():
                if future.exception() is None:
                    kept = {slot: (shares[index][slot], result) for slot, result in future.result().items()}
                    self._parts[index].unclaimed.update(kept)
            raise failed
        results = {
            self._parts[index].first + local: result
            for index, future in running.items()
            for local, result in future.result().items()
        }
        return Results([dataclasses.replace(results[slot], slot=slot) for slot in moves])

    def submit(self, moves: Moves) -> Future[Results]:
        """As `Session.submit`."""
        return self._submitted.submit(self.step, moves)

    def resume_point(self, slot: int) -> Reset:
        """As `Session.resume_point`."""
        index, local = self._locate(slot)
        return self._parts[index].session.resume_point(local)

    def close(self) -> None:
        """Ends the sessions."""
        self._submitted.shutdown(cancel_futures=True)
        self._steps.shutdown(cancel_futures=True)
        for part in self._parts:
            part.session.close()

    def _locate(self, slot: int) -> tuple[int, int]:
        if not 0 <= slot < self._slots:
            raise IndexError(f"there is no slot {slot}; the fleet has 0 to {self._slots - 1}")
        index = max(index for index, part in enumerate(self._parts) if part.first <= slot)
        return index, slot - self._parts[index].first

    def _step_part(self, part: _Part, share: Mapping[int, Move]) -> dict[int, Result]:
        """The results, by the slots' numbers within the part."""
        results, moves = {}, dict(share)
        for slot, move in share.items():
            kept = part.unclaimed.pop(slot, None)
            if kept is not None and (kept[0] is move or (isinstance(move, str) and kept[0] == move)):
                results[slot] = kept[1]
                del moves[slot]
        while moves:
            seen = part.moves
            try:
                results |= {result.slot: result for result in part.session.step(moves)}
                break
            except ServerLostError as error:
                _logger.warning("%s", error)
                self._move(part, seen)
        return results

    def _move(self, part: _Part, seen: int) -> None:
        """Moves a part to a server that has room for it, unless its own one is back. Raises ServerLostError."""
        with part.moving:
            deadline = time.monotonic() + self._budget
            lost = part.session.address
            while part.moves == seen:  # otherwise another call has moved it
                if self._ask(lost) is not None:  # if it does not have the session any more, the session rebuilds itself
                    part.moves += 1
                    return
                for address, free in self._free().items():
                    if address == lost or free < len(part.session):
                        continue
                    try:
                        part.session.move(address)
                    except _PASSED_OVER as error:
                        _logger.warning("%s: %s", address, error)
                        continue
                    _logger.info("%d slots moved from %s to %s", len(part.session), lost, address)
                    part.moves += 1
                    return
                if time.monotonic() > deadline:
                    raise ServerLostError(f"{lost} was lost and no other server has room for its slots")
                time.sleep(_PAUSE_SECONDS)

    def _open(self, fallback_reward: float | None) -> list[_Part]:
        deadline = time.monotonic() + self._budget
        waiting = False
        while True:
            free = self._free()
            if sum(free.values()) >= self._slots:
                break
            if not waiting:
                waiting = True
                _logger.warning(
                    "%s: %d free slots are needed, there are %s; waiting for up to %g s",
                    self._env_id, self._slots, free or self._why_unavailable(), self._budget,
                )  # fmt: skip
            if time.monotonic() > deadline:
                if not free:
                    raise ServerLostError(
                        f"within {self._budget:g} s no server offered {self._env_id}: {self._why_unavailable()}; "
                        f"correct the env's name, or start a server with: overworld serve {self._env_id}"
                    )
                raise ContractError(
                    Reason.NO_FREE_SLOTS, f"{self._slots} slots are needed, free are {free}: ask for fewer slots"
                )
            time.sleep(_PAUSE_SECONDS)
        shares = _shares(free, self._slots)
        if fallback_reward is None:
            # Options may change the bounds of rewards, and only a session's own spec knows of its options.
            with Session(next(iter(shares)), self._env_id, 1, **self._arguments) as session:
                fallback_reward = session.spec.silence_reward
        arguments = {**self._arguments, "fallback_reward": fallback_reward}
        parts: list[_Part] = []
        try:
            for address, share in shares.items():
                first = sum(len(part.session) for part in parts)
                parts.append(_Part(Session(address, self._env_id, share, **arguments), first))
        except BaseException:
            for part in parts:
                part.session.close()
            raise
        return parts

    def _why_unavailable(self) -> str:
        if addresses := self._registry.servers(self._env_id):
            why = "".join(f"; {address}: {error}" for address, error in self._failures.items())
            return f"none of {addresses} answers and has free slots{why}"
        if known := self._registry.known_envs():
            return f"no server has announced it; the envs that have been announced are {known}"
        return "no server is known at all"

    def _free(self) -> dict[str, int]:
        """Free slots of each server that answers and hosts the env.

        Raises ContractError ENV_UNKNOWN if servers answer and none hosts it, or if one refuses.
        """
        addresses = self._registry.servers(self._env_id)
        self._failures.clear()
        with ThreadPoolExecutor(bounds.ASKED, "fleet-ask") as asking:  # at once: those that are gone take their time
            answers = list(zip(addresses, asking.map(self._ask, addresses), strict=True))
        infos = {address: info for address, info in answers if info is not None}
        hosting = {address: info for address, info in infos.items() if self._env_id in info.envs}
        if len(infos) == len(set(addresses)) and infos and not hosting:
            hosted = sorted({env for info in infos.values() for env in info.envs})
            raise ContractError(Reason.ENV_UNKNOWN, f"no server has {self._env_id!r}; {list(infos)} have {hosted}")
        return {address: info.slots_free for address, info in hosting.items() if info.slots_free and not info.draining}

    def _ask(self, address: str) -> ServerInfo | None:
        """What the server says about itself; None if it does not answer, or in a way that makes no sense."""
        try:
            return server_info(address, retry_budget=min(self._budget, _ASK_SECONDS), credentials=self._credentials)
        except ServerError as error:
            _logger.warning("%s", error)
            self._failures[address] = error
        except ContractError as error:
            if not isinstance(address, Announced):
                raise
            _logger.warning("%s refuses: %s", address, error)  # not who is in charge of a registry is in charge here
            self._failures[address] = error
        return None


def _shares(free: Mapping[str, int], slots: int) -> dict[str, int]:
    """Spreads slots evenly, as far as there is room."""
    shares: dict[str, int] = {}
    for left, address in zip(range(len(free), 0, -1), sorted(free, key=lambda address: free[address]), strict=True):
        share = min(free[address], -(-(slots - sum(shares.values())) // left))
        if share:
            shares[address] = share
    return shares
