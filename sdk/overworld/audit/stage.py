"""Where an audit plays: slots of an env on a server, or of an `Env` class in this process."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from overworld.authoring.env import Env, EnvSpec
from overworld.authoring.runner import Fallback, Result, Runner, SlotError
from overworld.check.author import Alarm, CallTimeoutError, disturb_global_chance
from overworld.client.channel import ServerInfo
from overworld.client.moves import Act, Move, Reset
from overworld.client.session import Session
from overworld.errors import Reason
from overworld.service.credentials import Credentials

_RETRY_SECONDS = 20.0


class Stage(Protocol):
    """Slots of one env. Skipped turns earn nothing but what the env itself gives."""

    spec: EnvSpec
    options: dict[str, Any]
    slots: int

    def step(self, moves: Mapping[int, Move]) -> dict[int, Result]:
        """Slot -> result. A slot that failed has a result with `error`."""
        ...

    def close(self) -> None:
        """Ends the episodes."""
        ...


class Place(Protocol):
    """A server or a class, on which stages are opened."""

    subject: str
    slots: int
    """That may be open at a time."""
    expert: bool
    """Whether advice is to be had."""

    def open(self, slots: int, *, expert: bool = False, options: Mapping[str, Any] | None = None) -> Stage:
        """New slots, in which nothing has been played."""
        ...

    def processes(self) -> list[int]:
        """Those that run the env, as far as they can be seen from here."""
        ...


class _ServerStage:
    def __init__(self, session: Session) -> None:
        self._session = session
        self.spec, self.options, self.slots = session.spec, session.options, len(session)

    def step(self, moves: Mapping[int, Move]) -> dict[int, Result]:
        return {result.slot: result for result in self._session.step(moves)}

    def close(self) -> None:
        self._session.close()


class ServerPlace:
    """An env of the server at "host:port", whose number as a `process` of this machine may be known.

    A step may take `timeout` seconds.
    """

    def __init__(
        self,
        address: str,
        info: ServerInfo,
        env_id: str,
        *,
        options: Mapping[str, Any],
        credentials: Credentials,
        timeout: float,
        process: int = 0,
    ) -> None:
        self.subject = address
        self.slots = info.slots_free
        self.expert = info.envs[env_id].has_expert and "expert" in info.features
        self._env_id, self._options, self._credentials, self._timeout = env_id, options, credentials, timeout
        self._process = process

    def open(self, slots: int, *, expert: bool = False, options: Mapping[str, Any] | None = None) -> Stage:
        """A session. Raises what `Session` raises."""
        return _ServerStage(
            Session(
                self.subject,
                self._env_id,
                slots,
                options={**self._options, **(options or {})},
                credentials=self._credentials,
                expert=expert,
                retry_budget=_RETRY_SECONDS,
                step_timeout=self._timeout,
            )
        )

    def processes(self) -> list[int]:
        """The server and its workers; none where the server's process is not known."""
        return list(_family(self._process)) if self._process else []


class _ClassStage:
    def __init__(self, runners: list[Runner], timeout: float) -> None:
        self._runners, self._timeout = runners, timeout
        self.spec, self.slots = runners[0].spec, len(runners)
        self.options = runners[0].env.options.model_dump()
        # A server says in its specs when the host ends an episode; `EnvSpec` of a class need not.
        self.spec = replace(self.spec, max_turns=runners[0].env.options.max_turns)

    def step(self, moves: Mapping[int, Move]) -> dict[int, Result]:
        results: dict[int, Result] = {}
        while len(results) < len(moves):
            with suppress(CallTimeoutError), Alarm(self._timeout):  # one for all: setting it takes as long as a step
                for slot, move in moves.items():
                    if slot not in results:
                        results[slot] = self._move(slot, move)
        return results

    def _move(self, slot: int, move: Move) -> Result:
        runner = self._runners[slot]
        try:
            if isinstance(move, Reset):
                return runner.reset(move.seed, split=move.split, task=move.task, prefix=move.prefix)
            return runner.step(move.action if isinstance(move, Act) else move)
        except Exception as error:  # whatever an author's code raises: a server gives these reasons
            reason = Reason.STEP_TIMEOUT if isinstance(error, CallTimeoutError) else Reason.ENV_ERROR
            told = SlotError(reason.name, f"{type(error).__name__}: {error}")
            return Result(slot=slot, episode=0, turn=0, error=told)

    def close(self) -> None:
        for runner in self._runners:
            runner.close()


class ClassPlace:
    """An `Env` class in this process. A step of all slots may take `timeout` seconds."""

    slots = 4

    def __init__(self, subject: str, env_class: type[Env], *, options: Mapping[str, Any], timeout: float) -> None:
        self.subject = subject
        self.expert = env_class.spec.has_expert
        self._class, self._options, self._timeout = env_class, options, timeout
        self._opened = itertools.count(1)

    def open(self, slots: int, *, expert: bool = False, options: Mapping[str, Any] | None = None) -> Stage:
        """Instances; the global generators of Python and NumPy are in another state than before."""
        disturb_global_chance(next(self._opened))
        chosen = {**self._options, **(options or {})}
        return _ClassStage([self._runner(chosen, expert) for _ in range(slots)], self._timeout)

    def processes(self) -> list[int]:
        """This one."""
        return [os.getpid()]

    def _runner(self, options: Mapping[str, Any], expert: bool) -> Runner:
        env = self._class(self._class.options_model(**options))
        return Runner(env, fallback=Fallback.SKIP, expert=expert)


def _family(process: int) -> Iterator[int]:
    yield process
    for task in Path(f"/proc/{process}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield from _family(int(child))
