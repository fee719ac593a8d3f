"""Conversions between the contract's messages and the SDK's types."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from overworld.authoring.env import Action, ActionSpec, End, EnvSpec, Expert, Image, Observation, Outcome, Pixels
from overworld.authoring.runner import Result, SlotError
from overworld.service import bounds
from overworld.v1 import env_pb2 as pb

CONTRACT_REVISION = 1

_DTYPES = {name: np.dtype(name) for name in ("bool", "uint8", "int32", "int64", "float32", "float64")}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}  # `dtype.name` is made each time, which takes 5 µs


def tensor_to_proto(array: NDArray[np.generic]) -> pb.Tensor:
    """`array` as a message. Raises ValueError for an element type that the contract lacks."""
    name = _NAMES.get(array.dtype.newbyteorder("="))
    if name is None:
        raise ValueError(f"a tensor has the element type {array.dtype}; the contract knows {', '.join(_DTYPES)}")
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return pb.Tensor(dtype=name, shape=array.shape, data=little.tobytes())


def tensor_from_proto(tensor: pb.Tensor) -> NDArray[np.generic]:
    """The tensor as an array of its shape and dtype. Raises ValueError for a tensor that contradicts itself."""
    native = _DTYPES.get(tensor.dtype)
    if native is None:
        raise ValueError(f"a tensor has the element type {tensor.dtype!r}; the contract knows {', '.join(_DTYPES)}")
    dtype = native.newbyteorder("<")
    shape = tuple(tensor.shape)
    if len(shape) > 32 or math.prod(shape) * dtype.itemsize != len(tensor.data):
        raise ValueError(f"a tensor {list(shape)} of {tensor.dtype} cannot have {len(tensor.data)} bytes of data")
    return np.frombuffer(tensor.data, dtype).astype(native, copy=False).reshape(shape)


def action_to_proto(action: Action | None, reply: str = "") -> pb.Action:
    """The action as a message; `reply` is cut to its bound."""
    message = pb.Action()
    if isinstance(action, str):
        message.text = action
    elif isinstance(action, int | np.integer):
        message.index = int(action)
    elif action is not None:
        message.tensor.CopyFrom(tensor_to_proto(action))
    if reply:
        message.reply = reply.encode(errors="replace")[: bounds.REPLY].decode(errors="ignore")
    return message


def action_from_proto(message: pb.Action) -> Action | None:
    """The action, None if it holds none. Raises ValueError for a tensor that contradicts itself."""
    kind = message.WhichOneof("value")
    if kind == "text":
        return message.text
    if kind == "index":
        return message.index
    return tensor_from_proto(message.tensor) if kind == "tensor" else None


def spec_to_proto(spec: EnvSpec) -> pb.EnvSpec:
    """`spec` as a message."""
    action = pb.ActionSpec(vocabulary=spec.action.vocabulary, max_text_bytes=spec.action.max_text_bytes)
    if spec.action.low is not None and spec.action.high is not None:
        action.low.CopyFrom(tensor_to_proto(spec.action.low))
        action.high.CopyFrom(tensor_to_proto(spec.action.high))
    return pb.EnvSpec(
        id=spec.id,
        task=spec.task,
        success=spec.success,
        action=action,
        max_turns=spec.max_turns,
        reward_min=spec.reward_min,
        reward_max=spec.reward_max,
        options_schema=spec.options_schema,
        splits=spec.splits,
        default_split=spec.default_split,
        has_expert=spec.has_expert,
        pixels_reproducible=spec.pixels_reproducible,
        provenance=spec.provenance,
    )


def spec_from_proto(message: pb.EnvSpec) -> EnvSpec:
    """The spec in a message. Raises ValueError for a spec that contradicts itself."""
    action = message.action
    return EnvSpec(
        id=message.id,
        task=message.task,
        success=message.success,
        action=ActionSpec(
            tuple(action.vocabulary),
            action.max_text_bytes,
            tensor_from_proto(action.low) if action.HasField("low") else None,
            tensor_from_proto(action.high) if action.HasField("high") else None,
        ),
        max_turns=message.max_turns,
        reward_min=message.reward_min,
        reward_max=message.reward_max,
        options_schema=message.options_schema,
        splits=dict(message.splits),
        default_split=message.default_split,
        has_expert=message.has_expert,
        pixels_reproducible=message.pixels_reproducible,
        provenance=dict(message.provenance),
    )


def provenance_digest(provenance: Mapping[str, str], options_json: str) -> str:
    """SHA-256 in hex over the provenance, sorted by key, and the options."""
    digest = hashlib.sha256()
    for text in (*(part for pair in sorted(provenance.items()) for part in pair), options_json):
        encoded = text.encode()
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.hexdigest()


def observation_to_proto(observation: Observation) -> pb.Observation:
    """`observation` as a message, without the places of its images: the sender fills in block and index."""
    message = pb.Observation(admissible=observation.admissible)
    for part in observation.parts:
        if isinstance(part, str):
            message.parts.add(text=part)
        else:
            message.parts.add(image=len(message.images))
            message.images.add(name=part.name, xxh64=part.xxh64 or 0)
    for name, array in observation.tensors.items():
        message.tensors[name].CopyFrom(tensor_to_proto(array))
    return message


def result_to_proto(result: Result) -> pb.SlotResult:
    """A READY result as a message, without the places of its images."""
    end: Any = result.end or pb.END_UNSPECIFIED
    outcome: Any = result.outcome or pb.OUTCOME_UNSPECIFIED
    message = pb.SlotResult(
        slot=result.slot,
        episode=result.episode,
        turn=result.turn,
        state=pb.SLOT_STATE_READY,
        observation=observation_to_proto(result.observation),
        reward=result.reward,
        terminated=result.terminated,
        truncated=result.truncated,
        end=end,
        outcome=outcome,
        metrics=result.metrics,
        micros=result.micros,
    )
    if result.success is not None:
        message.success = result.success
    if result.executed is not None:
        message.executed.CopyFrom(action_to_proto(result.executed))
    if result.expert is not None:
        message.expert.action.text = result.expert.action
        message.expert.thoughts = result.expert.thoughts
        message.expert.caption = result.expert.caption
    return message


def result_from_proto(message: pb.SlotResult, frame: Callable[[pb.Image], Pixels]) -> Result:
    """The result in a message; `frame` gives the pixels of an image.

    Raises ValueError for a result that contradicts itself.
    """
    if message.state == pb.SLOT_STATE_PENDING:
        return Result(slot=message.slot, episode=message.episode, turn=message.turn, pending=True)
    if message.state == pb.SLOT_STATE_FAILED:
        error = SlotError(message.error.reason, message.error.message, message.error.reset_helps)
        return Result(slot=message.slot, episode=message.episode, turn=message.turn, error=error)
    if message.state != pb.SLOT_STATE_READY:
        raise ValueError(f"slot state {message.state} is unknown")
    observed = message.observation
    images = [Image(image.name, frame(image), image.xxh64) for image in observed.images]
    tensors, metrics = observed.tensors, message.metrics
    return Result(
        slot=message.slot,
        episode=message.episode,
        turn=message.turn,
        observation=Observation(
            _parts(observed.parts, images),
            tuple(observed.admissible),
            {name: tensor_from_proto(tensors[name]) for name in tensors},  # `items` of a map takes three times as long
        ),
        reward=message.reward,
        end=End(message.end) if message.end else None,
        success=message.success if message.HasField("success") else None,
        outcome=Outcome(message.outcome) if message.outcome else None,
        executed=action_from_proto(message.executed) if message.HasField("executed") else None,
        metrics={name: metrics[name] for name in metrics},
        expert=_expert_from_proto(message.expert) if message.HasField("expert") else None,
        micros=message.micros,
    )


def _expert_from_proto(message: pb.Expert) -> Expert:
    return Expert(message.action.text, message.thoughts, message.caption)


def _parts(parts: Sequence[pb.Part], images: Sequence[Image]) -> tuple[str | Image, ...]:
    return tuple(images[part.image] if part.WhichOneof("kind") == "image" else part.text for part in parts)
