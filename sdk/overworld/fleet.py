"""Slots of one env spread over many servers, used like those of one session."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from overworld.channel import ServerLostError, server_info
from overworld.client import Move, Moves, Reset, Results, Session
from overworld.env import EnvSpec
from overworld.errors import ContractError, Reason
from overworld.registry import Registry, StaticRegistry
from overworld.runner import Result

_logger = logging.getLogger(__name__)

_MAX_CALLS = 8
_FAILOVER_SECONDS = 15.0
_PAUSE_SECONDS = 1.0


@dataclasses.dataclass(slots=True)
class _Part:
    """A session and the number of its first slot in the fleet."""

    session: Session
    first: int
    moving: threading.Lock = dataclasses.field(default_factory=threading.Lock)


class Fleet:
    """`slots` slots of one env on the servers that `servers` names.

    A server that is lost for 15 seconds is left: its slots go on elsewhere, or on it once it is back, their episodes
    replayed. `retry_budget` is for how many seconds room is sought before ServerLostError (no server answers) or
    ContractError NO_FREE_SLOTS (they are full) is raised. The other arguments are those of `Session`.
    """

    def __init__(
        self,
        servers: Registry | Sequence[str],
        env_id: str,
        slots: int,
        *,
        token: str = "",
        retry_budget: float = 120.0,
        **arguments: Any,
    ) -> None:
        self._registry = servers if isinstance(servers, Registry) else StaticRegistry(servers)
        self._env_id = env_id
        self._slots = slots
        self._token = token
        self._budget = retry_budget
        self._arguments = {**arguments, "token": token, "retry_budget": min(retry_budget, _FAILOVER_SECONDS)}
        self._parts = self._open()
        self._calls = ThreadPoolExecutor(_MAX_CALLS, "fleet")
        self._steps = ThreadPoolExecutor(_MAX_CALLS * len(self._parts), "fleet-part")

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return self._slots

    @property
    def spec(self) -> EnvSpec:
        """The env with this fleet's options."""
        return self._parts[0].session.spec

    @property
    def options(self) -> dict[str, Any]:
        """The complete options."""
        return self._parts[0].session.options

    @property
    def addresses(self) -> list[str]:
        """The servers in use."""
        return [part.session.address for part in self._parts]

    def step(self, moves: Moves) -> Results:
        """As `Session.step`."""
        moves = moves if isinstance(moves, Mapping) else dict(enumerate(moves))
        shares: dict[int, dict[int, Move]] = {}
        for slot, move in moves.items():
            index, local = self._locate(slot)
            shares.setdefault(index, {})[local] = move
        running = [self._steps.submit(self._step_part, self._parts[index], share) for index, share in shares.items()]
        results = {result.slot: result for future in running for result in future.result()}
        return Results([results[slot] for slot in moves])

    def submit(self, moves: Moves) -> Future[Results]:
        """As `Session.submit`."""
        return self._calls.submit(self.step, moves)

    def resume_point(self, slot: int) -> Reset:
        """As `Session.resume_point`."""
        index, local = self._locate(slot)
        return self._parts[index].session.resume_point(local)

    def close(self) -> None:
        """Ends the sessions."""
        self._calls.shutdown()
        self._steps.shutdown()
        for part in self._parts:
            part.session.close()

    def _locate(self, slot: int) -> tuple[int, int]:
        if not 0 <= slot < self._slots:
            raise IndexError(f"there is no slot {slot}; the fleet has 0 to {self._slots - 1}")
        index = max(index for index, part in enumerate(self._parts) if part.first <= slot)
        return index, slot - self._parts[index].first

    def _step_part(self, part: _Part, moves: Mapping[int, Move]) -> list[Result]:
        while True:
            address = part.session.address
            try:
                results = part.session.step(moves)
                break
            except ServerLostError as error:
                _logger.warning("%s", error)
                self._move(part, address)
        if part.first == 0:
            return list(results)
        return [dataclasses.replace(result, slot=part.first + result.slot) for result in results]

    def _move(self, part: _Part, lost: str) -> None:
        """Takes a part to a server that has room for it."""
        with part.moving:
            deadline = time.monotonic() + self._budget
            while part.session.address == lost:
                for address, free in self._free().items():
                    if free < len(part.session):
                        continue
                    try:
                        part.session.move(address)
                        _logger.info("%d slots went from %s to %s", len(part.session), lost, address)
                        return
                    except (ServerLostError, ContractError) as error:
                        _logger.warning("%s: %s", address, error)
                if time.monotonic() > deadline:
                    raise ServerLostError(f"{lost} was lost and no other server has room for its slots")
                time.sleep(_PAUSE_SECONDS)

    def _open(self) -> list[_Part]:
        deadline = time.monotonic() + self._budget
        while True:
            free = self._free()
            if sum(free.values()) >= self._slots:
                break
            if time.monotonic() > deadline:
                if not free:
                    raise ServerLostError(
                        f"within {self._budget:g} s no server offered {self._env_id}, of "
                        f"{self._registry.servers(self._env_id)}; start one with: overworld serve {self._env_id}"
                    )
                raise ContractError(Reason.NO_FREE_SLOTS, f"{self._slots} slots are needed, free are {free}")
            time.sleep(_PAUSE_SECONDS)
        parts: list[_Part] = []
        try:
            for address, share in _shares(free, self._slots).items():
                first = sum(len(part.session) for part in parts)
                parts.append(_Part(Session(address, self._env_id, share, **self._arguments), first))
        except BaseException:
            for part in parts:
                part.session.close()
            raise
        return parts

    def _free(self) -> dict[str, int]:
        """Free slots of each server that answers and hosts the env."""
        free: dict[str, int] = {}
        others: set[str] = set()
        for address in self._registry.servers(self._env_id):
            try:
                info = server_info(address, self._token)
            except ServerLostError as error:
                _logger.warning("%s", error)
                continue
            if self._env_id not in info.envs:
                others.update(info.envs)
            elif info.slots_free and not info.draining:
                free[address] = info.slots_free
        if others and not free:
            _logger.warning("no server with free slots for %s; those that answer host %s", self._env_id, sorted(others))
        return free


def _shares(free: Mapping[str, int], slots: int) -> dict[str, int]:
    """Spreads slots evenly, as far as there is room."""
    shares: dict[str, int] = {}
    for left, address in zip(range(len(free), 0, -1), sorted(free, key=lambda address: free[address]), strict=True):
        share = min(free[address], -(-(slots - sum(shares.values())) // left))
        if share:
            shares[address] = share
    return shares
