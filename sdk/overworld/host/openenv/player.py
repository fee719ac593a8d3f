"""A client of OpenEnv as a client of the front: one slot, one episode after another."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import secrets
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from PIL import Image as Pictures

from overworld.authoring.env import Action, EnvSpec, Image
from overworld.authoring.runner import Result, choose_task
from overworld.client.ledger import Ledger
from overworld.client.moves import Act, Move, Reset
from overworld.client.results import read_response, read_results
from overworld.contract.wire import spec_from_proto
from overworld.errors import ContractError, Reason
from overworld.host.front import Front
from overworld.host.openenv.messages import (
    ActionData,
    ImageContent,
    ObservationData,
    ResetData,
    ResultData,
    StateData,
    TensorData,
    TextContent,
)
from overworld.v1 import env_pb2 as pb

_LEASE_SECONDS = 60.0
_MAX_SEED = 2**53
"""Of seeds that are drawn here: a number that all JSON parsers read exactly."""


class Player:
    """Plays `env_id` on behalf of one client, who is `callers.current`. Its slot is taken at the first reset.

    Not for use by several tasks at a time. Its calls raise ContractError.
    """

    def __init__(self, front: Front, env_id: str) -> None:
        self._front = front
        self._env_id = env_id
        self._session = ""
        self._options: Mapping[str, Any] = {}
        self._spec: EnvSpec | None = None
        self._ledger = Ledger(1)
        self._keeping: asyncio.Task[None] | None = None
        self.state = StateData(env=env_id)

    def __repr__(self) -> str:
        return f"<Player of {self._env_id}: {'session ' + self._session if self._session else 'no slot'}>"

    @property
    def seated(self) -> bool:
        """Whether it holds a slot."""
        return bool(self._session)

    async def reset(self, data: ResetData) -> str:
        """Starts an episode; the answer as JSON. A session with other options is closed, and one with these opened."""
        if self._session and data.options != self._options:
            await self.close()
        if not self._session:
            await self._open(data.options)
        assert self._spec is not None
        seed = secrets.randbelow(_MAX_SEED) if data.seed is None else data.seed
        result = await self._move(Reset(seed, data.split, data.task))
        split, task = choose_task(self._spec.splits, data.split or self._spec.default_split, data.task, seed)
        self.state = self.state.model_copy(
            update={
                "episode_id": data.episode_id or str(uuid.uuid4()),
                "step_count": 0,
                "seed": seed,
                "split": split,
                "task": task,
            }
        )
        start = {"seed": seed, "split": split, "task": task, "instruction": self._spec.task}
        return await asyncio.to_thread(_observed, result, start)

    async def step(self, data: ActionData) -> str:
        """Acts; the answer as JSON."""
        if self._spec is None or not self._session:
            raise ContractError(Reason.NOT_RESET, "this connection plays no episode; send a reset first")
        result = await self._move(Act(data.action(self._spec.action), data.reply))
        self.state = self.state.model_copy(update={"step_count": result.turn})
        return await asyncio.to_thread(_observed, result, {})

    async def close(self) -> None:
        """Gives the slot back. May be called again."""
        if self._keeping is not None:
            self._keeping.cancel()
            self._keeping = None
        if self._session:
            name, self._session = self._session, ""
            await self._front.close(pb.CloseRequest(session=name))

    async def _open(self, options: Mapping[str, Any]) -> None:
        self._session = name = str(uuid.uuid4())
        request = pb.OpenRequest(
            session=name,
            env_id=self._env_id,
            slots=1,
            options_json=json.dumps(dict(options)),
            transports=[pb.TRANSPORT_INLINE],
            fallback=pb.FALLBACK_SKIP,
        )
        request.lease.FromMilliseconds(int(_LEASE_SECONDS * 1000))
        try:
            opened = await self._front.open(request)
        except BaseException:
            await self.close()
            raise
        self._options, self._spec, self._ledger = options, spec_from_proto(opened.spec), Ledger(1)
        self.state = StateData(env=self._env_id, options=json.loads(opened.options_json))
        self._keeping = asyncio.create_task(self._keep_lease(name))

    async def _move(self, move: Move) -> Result:
        """The result. Raises ContractError for a refusal, and for a slot that failed."""
        assert self._spec is not None
        commands = self._ledger.number({0: move})
        releases: list[Callable[[object], None]] = []
        try:
            data = await self._front.step(pb.StepRequest(session=self._session, commands=commands), releases.append)
        except ContractError as error:
            if error.reason is not Reason.SESSION_UNKNOWN:
                raise
            await self.close()
            message = "the env could not be brought back after its process died; send a reset"
            raise ContractError(Reason.SESSION_UNKNOWN, message) from None
        finally:
            for release in releases:
                release(None)
        response, frames = read_response(data, commands, self._spec.action.vocabulary, checked=True)
        (result,) = read_results(response, frames, None, compressed=False, copy=True)
        self._ledger.note(commands[0], response.results[0])
        if result.error is not None:
            raise ContractError(Reason[result.error.reason], f"{result.error.message}; send a reset")
        return result

    async def _keep_lease(self, name: str) -> None:
        """The session lasts as long as the connection, however long its client thinks."""
        with contextlib.suppress(ContractError):  # it was lost: the next step says so
            while True:
                await asyncio.sleep(_LEASE_SECONDS / 3)
                releases: list[Callable[[object], None]] = []
                await self._front.step(pb.StepRequest(session=name), releases.append)
                for release in releases:
                    release(None)


def _observed(result: Result, start: Mapping[str, Any]) -> str:
    """A result as OpenEnv's JSON. Compresses the images."""
    observation = result.observation
    metadata = {**start, **_metadata(result)}
    seen = ObservationData(
        content=[_picture(part) if isinstance(part, Image) else TextContent(text=part) for part in observation.parts],
        admissible=list(observation.admissible),
        tensors={
            name: TensorData(dtype=array.dtype.name, values=array.tolist())
            for name, array in observation.tensors.items()
        },
        metadata=metadata,
    )
    reward = result.reward if result.turn else None
    return ResultData(observation=seen, reward=reward, done=result.end is not None, metadata=metadata).model_dump_json()


def _metadata(result: Result) -> dict[str, Any]:
    """What OpenEnv has no field for."""
    told: dict[str, Any] = {"turn": result.turn}
    if result.metrics:
        told["metrics"] = dict(result.metrics)
    if result.outcome is not None:
        told |= {"outcome": result.outcome.name, "executed": _plain(result.executed)}
    if result.end is not None:
        told |= {
            "end": result.end.name,
            "success": result.success,
            "terminated": result.terminated,
            "truncated": result.truncated,
        }
    return told


def _plain(action: Action | None) -> Any:
    return action.tolist() if isinstance(action, np.ndarray | np.generic) else action


def _picture(image: Image) -> ImageContent:
    pixels = image.pixels
    stream = io.BytesIO()
    picture = Pictures.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    picture.save(stream, "PNG", compress_level=1)  # half the time of the default, and a tenth more bytes
    data = base64.b64encode(stream.getvalue()).decode()
    return ImageContent(name=image.name, data=data, xxh64=f"{image.xxh64 or 0:016x}")
