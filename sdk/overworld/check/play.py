"""Episodes of an env that is known by its spec alone: what to do, and what came of it."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from overworld.authoring.numbers import read_tensor
from overworld.contract.wire import tensor_from_proto, tensor_to_proto
from overworld.v1 import env_pb2 as pb

NO_ACTION = pb.Action()


@dataclass(slots=True)
class Episode:
    """A reset, the actions that followed, and all results: `results[n]` is that of turn n."""

    reset: pb.Reset
    options_json: str = ""
    actions: list[pb.Action] = field(default_factory=list)
    results: list[pb.SlotResult] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    """That the commands took, the first one is the reset's."""

    @property
    def ended(self) -> bool:
        """Whether it came to an end."""
        return bool(self.results and self.results[-1].end)

    @property
    def playable(self) -> int:
        """Number of actions that did not end it."""
        return len(self.actions) - self.ended

    @property
    def telling(self) -> int:
        """Number of turns whose observation differs from the one before."""
        looks = [result.observation for result in self.results]
        return sum(_seen(one) != _seen(other) for one, other in itertools.pairwise(looks))


def _seen(look: pb.Observation) -> tuple[list[int], list[str]]:
    return [image.xxh64 for image in look.images], [part.text for part in look.parts]


def choose(spec: pb.EnvSpec, result: pb.SlotResult, chance: random.Random, advised: float) -> pb.Action:
    """An action for the turn after `result`: one that is listed, or with the chance `advised` the expert's."""
    if result.HasField("expert") and chance.random() < advised:
        return advised_action(spec, result.expert)
    if spec.action.HasField("low"):
        return pb.Action(tensor=_tensor(spec.action, chance))
    texts = result.observation.admissible or spec.action.vocabulary
    if texts:
        return pb.Action(text=chance.choice(texts))
    read = " ".join(part.text for part in result.observation.parts)
    return pb.Action(text=free_text(spec.task, read, spec.action.max_text_bytes, chance))


def advised_action(spec: pb.EnvSpec, expert: pb.Expert) -> pb.Action:
    """The expert's advice, which is in words, as the env takes it; the words themselves if they name no such action."""
    text = expert.action.text
    tensor = read_tensor(text, tensor_from_proto(spec.action.low)) if spec.action.HasField("low") else None
    return pb.Action(text=text) if tensor is None else pb.Action(tensor=tensor_to_proto(tensor))


def _tensor(spec: pb.ActionSpec, chance: random.Random) -> pb.Tensor:
    return tensor_to_proto(drawn_tensor(tensor_from_proto(spec.low), tensor_from_proto(spec.high), chance))


def drawn_tensor(low: NDArray[Any], high: NDArray[Any], chance: random.Random) -> NDArray[Any]:
    """A tensor between `low` and `high`."""
    if low.dtype.kind == "f":
        span = np.clip(np.stack([low, high]), -1e6, 1e6)
        drawn: NDArray[Any] = span[0] + (span[1] - span[0]) * chance.random()
        between: NDArray[Any] = np.clip(drawn, low, high).astype(low.dtype)
        return between
    ends: NDArray[Any] = np.where([chance.random() < 0.5 for _ in range(low.size)], low.ravel(), high.ravel())
    return ends.reshape(low.shape)


def free_text(task: str, read: str, limit: int, chance: random.Random) -> str:
    """Words out of `read`, of `limit` bytes at most; `verb[words]` where the task mentions such."""
    words = re.findall(r"\w+", read)[:500] or ["look"]
    start = chance.randrange(len(words))
    text = " ".join(words[start : start + 3])
    if verbs := re.findall(r"\b(\w+)\[", task):
        text = f"{chance.choice(verbs)}[{text}]"
    return text.encode()[:limit].decode(errors="ignore") or "x"


def inadmissible(spec: pb.EnvSpec, choices: Sequence[str]) -> pb.Action | None:
    """An action that is within the bounds and not admissible; None where every text may be."""
    if spec.action.HasField("low"):
        return pb.Action(tensor=pb.Tensor(dtype=spec.action.low.dtype, shape=[0]))
    if not choices and not spec.action.vocabulary:
        return None
    limit = spec.action.max_text_bytes or 4096
    return pb.Action(text="no such action, says the checker"[:limit])
