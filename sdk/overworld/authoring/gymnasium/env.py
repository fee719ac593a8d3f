"""An env of Gymnasium as an `Env`: its rendered frames as the picture, its observations as texts and tensors."""

from __future__ import annotations

import functools
import importlib
import math
import warnings
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, create_model

from overworld.authoring.env import Action, End, Env, EnvSpec, Image, Observation, Options, Transition, resolve
from overworld.authoring.gymnasium.actions import SENT_AS, Actions
from overworld.authoring.gymnasium.presets import Preset, preset_for
from overworld.errors import EnvUnknownError
from overworld.service.extras import needs_extra

with needs_extra("gymnasium"):
    import gymnasium

_HOMES = {"MiniGrid-": "minigrid", "BabyAI-": "minigrid", "ALE/": "ale_py"}
"""Modules that register envs when they are imported, by how the ids of these envs begin."""

_MAX_TURNS = 100_000

_DTYPES = ("bool", "uint8", "int32", "int64", "float32", "float64")
_NUMBERS = (bool, int, float, np.bool_, np.integer, np.floating)


class GymnasiumOptions(Options):
    """Options of an env of Gymnasium. The default of max_turns is the env's own time limit, where it has one."""

    actions: dict[str, int | float | list[Any]] = Field(
        default={},
        max_length=1024,
        description="the words for actions, each with the action as the env takes it, e.g. {'left': 0, 'right': 1} or "
        "{'left': [-1, 0], 'stop': [0, 0]}; empty: the preset's, else numbers",
    )
    tensor_actions: bool = Field(
        default=False, description="actions are tensors of the env's own space (Box and the like), rather than texts"
    )


class GymnasiumEnv(Env):
    """One env of Gymnasium; `from_gymnasium` makes a class for each."""

    options_model: ClassVar[type[Options]] = GymnasiumOptions
    options: GymnasiumOptions
    env_id: ClassVar[str]
    arguments: ClassVar[Mapping[str, Any]]
    preset: ClassVar[Preset]

    def __init__(self, options: Options | None = None) -> None:
        super().__init__(options)
        self._steps = 0  # of this episode
        self._env = _made(self.env_id, self.arguments)
        try:
            self._actions = _actions(self._env, self.options, self.preset)
        except ValueError:  # what clients ask for may be wrong, again and again
            self._env.close()
            raise
        self.spec = _spec(self.env_id, self.arguments, self.preset, self._actions)

    def reset(self, seed: int, split: str, task: int | None) -> Observation:
        """Resets the env with this seed."""
        self._steps = 0
        returned = self._env.reset(seed=seed)
        if not (isinstance(returned, tuple) and len(returned) == 2):
            raise ValueError(f"{self.env_id}: reset() gave {_kind(returned)}; expected (observation, info)")
        return self._look(returned[0])

    def step(self, action: str | NDArray[Any]) -> Transition:
        """Executes the action that a word, numbers or a tensor stand for."""
        returned = self._env.step(self._actions.action(action))
        self._steps += 1
        if not (isinstance(returned, tuple) and len(returned) == 5 and isinstance(returned[4], dict)):
            raise ValueError(
                f"{self.env_id}: step() gave {_kind(returned)}; "
                "expected (observation, reward, terminated, truncated, info), with a dict as info"
            )
        observation, reward, terminated, truncated, info = returned
        if not _is_number(reward):
            raise ValueError(f"{self.env_id}: the reward is {reward!r}; expected a finite number")
        # The host has the time limit, so that what the env itself cuts off is a rule of the env.
        end = End.TASK if terminated else End.RULE if truncated else None
        return Transition(
            self._look(observation),
            float(reward),
            end,
            None if end is None else self.preset.succeeded(bool(terminated), float(reward), info),
            {name: float(value) for name, value in info.items() if isinstance(name, str) and _is_number(value)},
        )

    def won(self) -> bool:
        """Whether lasting until the limit of turns was the task, and the env was stepped in each of them: it stands
        still in a turn that is skipped.
        """
        return self.preset.survival and self._steps == self.options.max_turns

    def close(self) -> None:
        """Closes the env."""
        self._env.close()

    def resolve(self, action: Action, observation: Observation) -> Action | None:
        """The word of the table, or the numbers of an action of the space, as `step` takes them."""
        found = resolve(self.spec.action, action, observation)
        return self._actions.executable(found) if isinstance(found, str) and not self.spec.action.vocabulary else found

    def _look(self, observation: Any) -> Observation:
        frame = self._env.render()
        if not (isinstance(frame, np.ndarray) and frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[2] == 3):
            raise ValueError(f"{self.env_id}: render() gave {_kind(frame)}; expected an array uint8 [height, width, 3]")
        canvas = self.canvas("view", *frame.shape[:2])
        canvas[...] = frame
        texts: list[str] = []
        tensors: dict[str, NDArray[Any]] = {}
        for name, value in _leaves("", observation):
            if isinstance(value, str):
                texts.append(f"{name}: {value}" if name else value)
            else:
                tensors[name or "observation"] = _tensor(self.env_id, name, value)
        return Observation((Image("view", canvas), *texts), tensors=tensors)


def from_gymnasium(env_id: str, preset: Preset | None = None, /, **arguments: Any) -> type[GymnasiumEnv]:
    """The class of an env of Gymnasium: `Lake = from_gymnasium("FrozenLake-v1", is_slippery=False)`.

    `env_id` and `arguments` are those of `gymnasium.make`; some known envs have a preset of their own. The env is made,
    reset and drawn once. Raises EnvUnknownError if there is no such env, ValueError for one that cannot be bridged, and
    what the env itself raises.
    """
    shown = preset or preset_for(_name(env_id))
    env = _made(env_id, arguments)
    try:
        actions = _actions(env, GymnasiumOptions(), shown)
        registered = env.unwrapped.spec
        steps = None if registered is None else gymnasium.spec(registered.id).max_episode_steps
        own = getattr(env.unwrapped, "max_steps", None)  # as MiniGrid's envs call it
        limit = min(steps or (own if isinstance(own, int) and own > 0 else _MAX_TURNS), _MAX_TURNS)
    finally:
        env.close()
    turns = (
        int,
        Field(default=limit, ge=1, le=_MAX_TURNS, description=Options.model_fields["max_turns"].description),
    )
    options = create_model("GymnasiumOptions", __base__=GymnasiumOptions, max_turns=turns)
    members = {
        "__doc__": f"{env_id} of Gymnasium.",
        "__module__": __name__,
        "options_model": options,
        "env_id": env_id,
        "arguments": arguments,
        "preset": shown,
        "spec": _spec(env_id, arguments, shown, actions),
    }
    found = type("GymnasiumEnv", (GymnasiumEnv,), members)
    tried = found()
    try:
        tried.reset(0, "endless", None)
    finally:
        tried.close()
    return found


def _made(env_id: str, arguments: Mapping[str, Any]) -> gymnasium.Env[Any, Any]:
    if env_id not in gymnasium.registry:
        for start, module in _HOMES.items():
            if env_id.startswith(start):
                try:
                    importlib.import_module(module)
                except ModuleNotFoundError as error:
                    raise EnvUnknownError(
                        f"{env_id} comes with the package {module.replace('_', '-')}, which is not installed: "
                        f"pip install {module.replace('_', '-')}"
                    ) from error
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*not in the possible render_modes")  # an error, below
            # Without the time limit, which the host has, and without the checker, whose complaints nobody would see.
            env = gymnasium.make(
                env_id, render_mode="rgb_array", max_episode_steps=-1, disable_env_checker=True, **arguments
            )
    except gymnasium.error.DependencyNotInstalled as error:
        raise EnvUnknownError(f"{env_id} needs packages that are not installed: {error}") from error
    except (gymnasium.error.Error, ModuleNotFoundError) as error:
        raise EnvUnknownError(f"gymnasium has no env {env_id!r}: {error}") from error
    if "rgb_array" not in (env.metadata.get("render_modes") or ()):
        env.close()
        raise ValueError(
            f"{env_id} does not render pictures: its render_modes are {env.metadata.get('render_modes')}, without "
            "'rgb_array'. Add render(), or wrap it in one that has it"
        )
    return env


def _actions(env: gymnasium.Env[Any, Any], options: GymnasiumOptions, shown: Preset) -> Actions:
    if options.tensor_actions:
        return Actions(env.action_space, options.actions, tensors=True)
    words = options.actions or shown.actions
    if not words and hasattr(env.unwrapped, "get_action_meanings"):
        meanings = env.unwrapped.get_action_meanings()
        words = {str(meaning).lower(): number for number, meaning in enumerate(meanings)}
    return Actions(env.action_space, words)


def _spec(env_id: str, arguments: Mapping[str, Any], shown: Preset, actions: Actions) -> EnvSpec:
    return EnvSpec(
        id=f"gymnasium/{_name(env_id).replace('/', '.')}",
        task=shown.task,
        success=shown.success,
        action=actions.spec,
        reward_min=shown.reward_min,
        reward_max=shown.reward_max,
        pixels_reproducible="same machine",
        provenance={"gymnasium": version("gymnasium"), "env": env_id, "arguments": repr(sorted(arguments.items()))},
    )


def _name(env_id: str) -> str:
    """The id without the module that registers it ("minigrid:MiniGrid-Empty-5x5-v0")."""
    return env_id.rpartition(":")[2]


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The parts of an observation, by names such as "position.x" and "0"; the whole has none."""
    if isinstance(value, Mapping | tuple):
        for key, inner in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _leaves(f"{name}.{key}" if name else str(key), inner)
    else:
        yield name, value


def _tensor(env_id: str, name: str, value: Any) -> NDArray[Any]:
    if isinstance(value, np.ndarray | np.generic | int | float):
        array = np.asarray(value)
        if (sent := _sent_as(array.dtype)) is not None:
            return array.astype(sent)  # a copy: the env may reuse its own
    described = getattr(value, "dtype", type(value).__name__)
    raise ValueError(
        f"{env_id}: the observation{f' {name!r}' if name else ''} is of type {described}; expected numbers, texts, and "
        "dicts and tuples of them. Wrap the env in a gymnasium.ObservationWrapper"
    )


@functools.cache  # names of element types are made each time, which takes 5 µs
def _sent_as(dtype: np.dtype[Any]) -> np.dtype[Any] | None:
    """The contract's element type for numbers of this one; None if there is none."""
    sent = np.dtype(SENT_AS.get(dtype.name, dtype))
    return sent if sent.name in _DTYPES else None


def _is_number(value: Any) -> bool:
    return isinstance(value, _NUMBERS) and math.isfinite(value)


def _kind(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)}"
    return f"a tuple of {len(value)}" if isinstance(value, tuple) else type(value).__name__
