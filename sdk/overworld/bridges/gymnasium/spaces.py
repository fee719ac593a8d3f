"""The spaces of an Overworld env, and what a result is in them.

An `EnvSpec` does not say what observations look like, so the observation space is that of a first observation: a Dict
of the images and tensors by name, and "text" where there is text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from overworld.authoring.env import ActionSpec, Observation
from overworld.authoring.runner import Result
from overworld.client.moves import Reset
from overworld.errors import CallFailedError, ContractError, Reason
from overworld.service.extras import needs_extra

with needs_extra("gymnasium"):
    from gymnasium import Space, spaces

_TEXT = "text"
_MAX_TEXT = 65_536


class FreeText(spaces.Text):
    """Texts of any characters; `sample` draws letters and digits."""

    def contains(self, x: Any) -> bool:
        """Whether `x` is a text that is not too long."""
        return isinstance(x, str) and len(x) <= self.max_length


def action_space(spec: ActionSpec) -> Space[Any]:
    """Discrete for a vocabulary, Box for tensors, else texts."""
    if spec.vocabulary:
        return spaces.Discrete(len(spec.vocabulary))
    if spec.low is not None and spec.high is not None:
        return spaces.Box(spec.low, spec.high, spec.low.shape, spec.low.dtype.type)
    return FreeText(spec.max_text_bytes // 4, min_length=1)  # at most four bytes a character


def observation_space(observation: Observation, name: str) -> Space[Any]:
    """The space of observations like this one, or of what `name` names in them.

    Raises ValueError if there is nothing of this name.
    """
    found = {name: _space(value) for name, value in _contents(observation).items()}
    if not name:
        return spaces.Dict(found)
    if name not in found:
        raise ValueError(f"observe={name!r}: an observation has {sorted(found)}; choose one of them, or '' for all")
    return found[name]


def start(seed: int, options: Mapping[str, Any] | None) -> Reset:
    """The start of an episode. Raises ValueError for options other than "split" and "task"."""
    unknown = sorted((options or {}).keys() - {"split", "task"})
    if unknown:
        raise ValueError(f"reset has no options {unknown}; it has 'split' and 'task'")
    return Reset(seed, **(options or {}))


def observed(observation: Observation, space: Space[Any], name: str) -> Any:
    """The observation in its space. Raises ValueError if it does not have the form of the first one."""
    contents = _contents(observation)
    if name == _TEXT or (isinstance(space, spaces.Dict) and _TEXT in space.spaces):
        contents.setdefault(_TEXT, "")  # a turn may have none
    if isinstance(space, spaces.Dict):
        fits = contents.keys() == space.keys() and all(_fits(contents[key], space[key]) for key in space)
    else:
        fits = name in contents and _fits(contents[name], space)
    if not fits:
        raise ValueError(
            f"the observation {observation!r} is not in {space}, the space of the first one; if only a part of it "
            "changes its form, choose another with observe=NAME"
        )
    return contents[name] if name else contents


def info(result: Result, spec: ActionSpec) -> dict[str, Any]:
    """What Gymnasium has no field for."""
    told: dict[str, Any] = {}
    if result.metrics:
        told["metrics"] = dict(result.metrics)
    if result.outcome is not None:
        told["outcome"] = result.outcome.name
    if result.end is not None:
        told |= {"end": result.end.name, "success": bool(result.success)}
    if result.expert is not None:
        told["expert"] = result.expert.action
    if spec.vocabulary:
        told["action_mask"] = _mask(spec.vocabulary, result.observation.admissible)
    elif result.observation.admissible:
        told["admissible"] = result.observation.admissible
    return told


def ready(result: Result) -> Result:
    """The result. Raises ContractError or CallFailedError if the slot failed inside the server."""
    if result.error is None:
        return result
    reason = Reason.__members__.get(result.error.reason)
    message = f"slot {result.slot}, turn {result.turn}: {result.error.message}; call reset"
    raise ContractError(reason, message) if reason else CallFailedError(f"{result.error.reason}: {message}")


def _mask(vocabulary: Sequence[str], admissible: Sequence[str]) -> NDArray[np.int8]:
    """Which words are admissible; where none is listed, all of them."""
    if not admissible:
        return np.ones(len(vocabulary), np.int8)
    listed = set(admissible)
    return np.array([text in listed for text in vocabulary], np.int8)


def _contents(observation: Observation) -> dict[str, Any]:
    contents: dict[str, Any] = {image.name: image.pixels for image in observation.images}
    if any(isinstance(part, str) for part in observation.parts):
        contents[_TEXT] = observation.text
    for name, tensor in observation.tensors.items():
        contents[name if name not in contents else f"tensors.{name}"] = np.asarray(tensor)
    return contents


def _fits(value: str | NDArray[Any], space: Space[Any]) -> bool:
    """Whether the value is in the space, which allows all numbers of its element type: so none is looked at."""
    if isinstance(value, str):
        return value in space
    return (value.shape, value.dtype) == (space.shape, space.dtype)


def _space(value: str | NDArray[Any]) -> Space[Any]:
    if isinstance(value, str):
        return FreeText(_MAX_TEXT, min_length=0)
    if value.dtype == bool:
        return spaces.Box(0, 1, value.shape, np.bool_)
    if value.dtype.kind == "f":
        return spaces.Box(-np.inf, np.inf, value.shape, value.dtype.type)
    bounds = np.iinfo(value.dtype)
    return spaces.Box(bounds.min, bounds.max, value.shape, value.dtype.type)
