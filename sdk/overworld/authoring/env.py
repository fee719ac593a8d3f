"""What the author of an env writes: an `Env` with its `EnvSpec`, giving `Observation`s and `Transition`s.

An env knows one simulator and nothing of networks, slots or prompts:

    class Coin(Env):
        spec = EnvSpec(id="games/Coin", task="Guess the coin.", action=ActionSpec(("heads", "tails")), ...)

        def reset(self, seed, split, task):
            self._coin = random.Random(seed).choice(("heads", "tails"))
            return Observation(("The coin is thrown.",))

        def step(self, action):
            won = action == self._coin
            return Transition(Observation((f"It shows {self._coin}.",)), reward=float(won), end=End.TASK, success=won)

`overworld.make` runs it in process, `overworld serve` on a server.
"""

from __future__ import annotations

import enum
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from overworld.authoring.numbers import read_tensor

Action = str | int | np.integer[Any] | NDArray[Any]
"""An action: a text, an index into the vocabulary, or a tensor. "No action could be read" is None."""

Pixels = NDArray[np.uint8]
"""An image: uint8 [height, width, channels], 1 (grey) or 3 (RGB) channels."""


_REPR_CHARS = 60


class End(enum.IntEnum):
    """Why an episode ended; numbers as in the contract. Only TIME_LIMIT is bootstrapped."""

    TASK = 1
    """The task is over, well or badly."""
    RULE = 2
    """A rule of the env itself cut the episode off."""
    TIME_LIMIT = 3
    """The host's limit of turns."""


class Outcome(enum.IntEnum):
    """What became of an action; numbers as in the contract."""

    EXECUTED = 1
    NO_ACTION = 2
    NOT_ADMISSIBLE = 3


@dataclass(frozen=True, slots=True)
class ActionSpec:
    """Which actions an env understands: a vocabulary, else free text, else tensors between `low` and `high`."""

    vocabulary: tuple[str, ...] = ()
    max_text_bytes: int = 0
    low: NDArray[Any] | None = None
    high: NDArray[Any] | None = None

    def __post_init__(self) -> None:
        kinds = (bool(self.vocabulary), self.max_text_bytes > 0, self.low is not None)
        if sum(kinds) != 1:
            raise ValueError("an ActionSpec has exactly one of: a vocabulary, max_text_bytes > 0, low and high")
        if len(set(self.vocabulary)) != len(self.vocabulary):
            raise ValueError(f"the vocabulary {self.vocabulary} names an action twice")
        if (self.low is None) != (self.high is None):
            raise ValueError("low and high go together")
        low, high = self.low, self.high
        if low is not None and high is not None and (low.dtype, low.shape) != (high.dtype, high.shape):
            raise ValueError("low and high must have one dtype and one shape")

    def read(self, text: str) -> Action | None:
        """The action that an agent, or an expert, names in words.

        Where actions are tensors: that of the numbers in "0.5 -1" or "[0.5, -1]", in C order, which may be out of
        bounds; None if these are not as many as it has elements, or do not fit its type. Else the text itself.
        """
        return text if self.low is None else read_tensor(text, self.low)


@dataclass(frozen=True, slots=True, repr=False)
class EnvSpec:
    """What an env is. The fields are those of the contract's EnvSpec, where they are described."""

    id: str
    task: str
    success: str
    action: ActionSpec
    reward_min: float = 0.0
    reward_max: float = 0.0
    max_turns: int = 0
    options_schema: str = ""
    splits: Mapping[str, int] = field(default_factory=lambda: {"endless": 0})
    default_split: str = "endless"
    has_expert: bool = False
    pixels_reproducible: str = "always"
    provenance: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.default_split not in self.splits:
            raise ValueError(f"{self.id}: default_split {self.default_split!r} is not one of {sorted(self.splits)}")

    @property
    def reward_scale(self) -> float:
        """The size of a turn's reward: the larger of the bounds' magnitudes; 1 where they are unknown."""
        return max(abs(self.reward_min), abs(self.reward_max)) or 1.0

    @property
    def silence_reward(self) -> float:
        """What a turn without an admissible action is to earn, so that silence does not pay: less than any action.

        min(reward_min, 0) less a tenth of the reward scale. Where this is 0 and mistakes are punished, a learner soon
        finds out that it is best to say nothing.
        """
        return min(self.reward_min, 0.0) - 0.1 * self.reward_scale

    def __repr__(self) -> str:
        action = self.action
        if action.vocabulary:
            actions = f"{len(action.vocabulary)} actions"
        elif action.low is not None:
            actions = f"actions {action.low.dtype}{list(action.low.shape)}"
        else:
            actions = "actions in free text"
        return f"EnvSpec({self.id!r}, {actions}, splits={dict(self.splits)}, max_turns={self.max_turns})"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Image:
    """An image of an observation. `xxh64` (XXH64, seed 0, of the pixels) is filled in by the host."""

    name: str
    pixels: Pixels
    xxh64: int | None = None

    def __post_init__(self) -> None:
        pixels = self.pixels
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or 0 in pixels.shape:
            raise ValueError(
                f"image {self.name!r} must be uint8 [height, width, 1 or 3], not {pixels.dtype} {list(pixels.shape)}"
            )

    def __repr__(self) -> str:
        return f"Image({self.name!r}, {list(self.pixels.shape)})"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Observation:
    """What the agent sees in one turn, in order, without anything from earlier turns.

    `admissible` narrows the vocabulary for this turn, `tensors` are numbers for agents that are not language models.
    """

    parts: tuple[str | Image, ...] = ()
    admissible: tuple[str, ...] = ()
    tensors: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def __repr__(self) -> str:
        shown = [repr(part) if isinstance(part, Image) else _shortened(part) for part in self.parts]
        if self.admissible:
            shown.append(f"{len(self.admissible)} admissible")
        shown += [f"{name}: {array.dtype}{list(array.shape)}" for name, array in self.tensors.items()]
        return f"Observation({', '.join(shown)})"

    @property
    def text(self) -> str:
        """The text parts, one per line."""
        return "\n".join(part for part in self.parts if isinstance(part, str))

    @property
    def images(self) -> list[Image]:
        """The images, in order."""
        return [part for part in self.parts if isinstance(part, Image)]


@dataclass(frozen=True, slots=True)
class Expert:
    """What an expert would do next, and its reasoning about what the observation shows.

    `caption` is filled in by the host, from `Env.caption`.
    """

    action: str
    thoughts: str
    caption: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Transition:
    """What an action led to. At an end, `success` says whether the task was achieved."""

    observation: Observation
    reward: float
    end: End | None = None
    success: bool | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not math.isfinite(self.reward):
            raise ValueError(f"the reward must be finite, not {self.reward}")
        if (self.end is None) != (self.success is None):
            raise ValueError("success goes with an end, and an end with success")


class Options(BaseModel):
    """Options that every env has. An env adds its own in a subclass with one `Field(description=...)` each."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_turns: int = Field(
        default=300, ge=1, le=100_000, description="turns after which the host ends an episode (TIME_LIMIT)"
    )


class Env(ABC):
    """A simulator and its task. One instance plays one episode after another, always on one thread.

    `spec` is a class attribute, with default options; an instance whose options change it sets its own.

    A server runs the instances of one process one after another. A simulator that mostly waits (for a socket, a
    subprocess, a browser) can be run many at once: set `thread_safe`, or write `reset` and `step`, and `expert`,
    `caption`, `won` and `close` where they have to wait, with `async def`: then all instances share one event loop,
    which none of them may block.
    """

    options_model: ClassVar[type[Options]] = Options
    lists_admissible: ClassVar[bool] = False
    """For actions in free text: whether each observation lists all that are admissible."""
    thread_safe: ClassVar[bool] = False
    """Whether instances are independent of each other, so that each may run on a thread of its own at the same time as
    the others. One instance stays on one thread, from `__init__` to `close`."""
    draws_on_demand: ClassVar[bool] = False
    """Whether `reset` and `step` leave pictures undrawn while `pictures_wanted` is False. They must draw them whole
    when it is True again."""
    pictures_wanted: bool = True
    """For the host: whether anybody sees the pictures of the next observation. Those within a prefix nobody does."""
    spec: EnvSpec

    def __init__(self, options: Options | None = None) -> None:
        self.options = self.options_model() if options is None else options
        self._canvases: dict[str, Pixels] = {}
        self._allocate: Callable[[int, int], Pixels] = _private_canvas

    @abstractmethod
    def reset(self, seed: int, split: str, task: int | None) -> Observation | Coroutine[Any, Any, Observation]:
        """Starts an episode. Same seed, split and task: the same episode, whatever was played before.

        `split` is a key of `spec.splits`; `task` a number in it, or None where the split is endless and `seed` makes
        the task.
        """

    @abstractmethod
    def step(self, action: Any) -> Transition | Coroutine[Any, Any, Transition]:
        """Executes an action that `resolve` gave: a text of the vocabulary or free text (str), or a tensor."""

    def skip(self, observation: Observation, metrics: Mapping[str, float]) -> Transition:
        """The transition of a turn in which nothing is executed, after one that gave `observation` and `metrics`.

        The simulator must stay as it is, pictures too; the session's fallback reward is added.
        """
        return Transition(observation, 0.0, metrics=metrics)

    def expert(self) -> Expert | Coroutine[Any, Any, Expert]:
        """What to do next, in the current state. Called only if `spec.has_expert`, never after an end."""
        raise NotImplementedError(f"{self.spec.id} has no expert")

    def caption(self) -> str | Coroutine[Any, Any, str]:
        """What the pictures of the current observation show, in words: what perfect eyes would read there.

        Optional, and privileged like the expert, with which it travels: `overworld diagnose` tells by it whether an
        agent fails because of its eyes. Say all that a decision can need of the pictures, whether the text says it too
        or not; nothing that they do not show, nothing of earlier turns, no advice. Empty if there are no pictures.
        Called after `expert`, in the same state.
        """
        return ""

    def won(self) -> bool | Coroutine[Any, Any, bool]:
        """Whether the task counts as achieved now; asked when the host's limit of turns ends an episode."""
        return False

    def close(self) -> Coroutine[Any, Any, None] | None:  # noqa: B027 - most envs have nothing to free
        """Frees the env's resources. Called once."""

    def resolve(self, action: Action, observation: Observation) -> Action | None:
        """The admissible action that `action` means in the turn of `observation`, or None.

        Texts are compared whole, but for case and white space.
        """
        return resolve(self.spec.action, action, observation)

    def canvas(self, name: str, height: int, width: int) -> Pixels:
        """An RGB array uint8 [height, width, 3] to draw image `name` into, the same one in each turn of an episode.

        On a server it lies in the memory that clients read, so that drawing into it saves a copy. Its content is kept
        from turn to turn; a reset must draw all of it. Ask for it in `reset` and `step`, not in `__init__`.
        """
        canvas = self._canvases.get(name)
        if canvas is None or canvas.shape != (height, width, 3):
            canvas = self._canvases[name] = self._allocate(height, width)
        return canvas

    def draw_on(self, allocate: Callable[[int, int], Pixels] | None) -> None:
        """For the host: takes canvases from `allocate(height, width)` from the next reset on; None: private ones."""
        self._canvases.clear()
        self._allocate = allocate or _private_canvas


def resolve(spec: ActionSpec, action: Action, observation: Observation) -> Action | None:
    """The admissible action that `action` means where `spec` says which there are, or None; see `Env.resolve`."""
    if spec.low is not None and spec.high is not None:
        tensor = action if isinstance(action, np.ndarray) else None
        fits = tensor is not None and (tensor.dtype, tensor.shape) == (spec.low.dtype, spec.low.shape)
        return tensor if fits and np.all((spec.low <= tensor) & (tensor <= spec.high)) else None
    if isinstance(action, int | np.integer):
        action = spec.vocabulary[action] if 0 <= action < len(spec.vocabulary) else ""
    if not isinstance(action, str):
        return None
    admissible = observation.admissible or spec.vocabulary
    if not admissible:
        return action if action.strip() else None
    if action in admissible:
        return action
    wanted = _folded(action)
    return next((text for text in admissible if _folded(text) == wanted), None)


def _private_canvas(height: int, width: int) -> Pixels:
    return np.zeros((height, width, 3), np.uint8)


def _shortened(text: str) -> str:
    return repr(text if len(text) <= _REPR_CHARS else text[: _REPR_CHARS - 3] + "...")


def _folded(text: str) -> str:
    return " ".join(text.split()).casefold()
