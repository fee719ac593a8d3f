"""What a single answer must be by the contract, whoever implemented the server: rules that one message can break.

The frames are checked where they are read (`contract.frames`, `client.results`), tensors and enums where they are
converted (`contract.wire`).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from overworld.v1 import env_pb2 as pb


def check_result(result: pb.SlotResult, vocabulary: Collection[str]) -> None:
    """Raises ValueError, which says what came and what was expected.

    `vocabulary` is that of the session's spec, empty for other kinds of actions.
    """
    try:
        if result.state == pb.SLOT_STATE_READY:
            _check_ready(result)
            _check_observation(result.observation, vocabulary)
        elif result.state == pb.SLOT_STATE_FAILED and not result.error.reason:
            raise ValueError("it failed without a reason; error.reason says why, e.g. ENV_ERROR")
    except ValueError as error:
        raise ValueError(f"slot {result.slot}, episode {result.episode}, turn {result.turn}: {error}") from None


def _check_ready(result: pb.SlotResult) -> None:
    if not result.HasField("observation"):
        raise ValueError("it is READY without an observation; a result that is not there yet is PENDING")
    if not math.isfinite(result.reward):
        raise ValueError(f"the reward is {result.reward}; a finite number was expected")
    for name, value in result.metrics.items():
        if not math.isfinite(value):
            raise ValueError(f"the metric {name!r} is {value}; a finite number was expected")
    if result.HasField("success") != bool(result.end):
        came = f"success is {result.success} and end not set" if not result.end else "end is set and success is not"
        raise ValueError(f"{came}; at an episode's end both are, before it neither")
    if result.HasField("expert") and result.expert.action.WhichOneof("value") != "text":
        raise ValueError(f"the expert's action is {result.expert.action.WhichOneof('value')}; a text was expected")


def _check_observation(observation: pb.Observation, vocabulary: Collection[str]) -> None:
    named = []
    for part in observation.parts:
        kind = part.WhichOneof("kind")
        if kind is None:
            raise ValueError("a part of the observation is empty; it is a text or the index of an image")
        if kind == "image":
            named.append(part.image)
    _check_images(named, len(observation.images))
    if vocabulary and observation.admissible:
        for text in observation.admissible:
            if text not in vocabulary:
                raise ValueError(f"the admissible action {text!r} is not in the vocabulary of the session's spec")


def _check_images(named: Sequence[int], count: int) -> None:
    """The parts must name each of `count` images once."""
    if len(named) == count and (not named or sorted(named) == list(range(count))):
        return
    for image in named:
        if image >= count:
            raise ValueError(f"a part names image {image} of {count}; the first image is 0")
        if named.count(image) > 1:
            raise ValueError(f"{named.count(image)} parts name image {image}; exactly one was expected")
    missing = min(set(range(count)) - set(named))
    raise ValueError(f"no part names image {missing} of {count}; exactly one was expected")
