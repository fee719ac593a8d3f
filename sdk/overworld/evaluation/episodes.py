"""The records of an episode as docs/episodes.md specifies them, format version 1.

Turn n of an episode is the decision that was taken after n actions: what was observed then, the reply to it, and what
came of that. So `Episode.reset_at(n)` is the reset that leads to where turn n was decided. Every record checks its
bounds when it is made or read; what breaks them raises pydantic's ValidationError, which is a ValueError.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

import numpy as np
from google.protobuf import json_format
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from overworld.authoring.env import Action, EnvSpec, Image, Observation
from overworld.client.moves import Reset
from overworld.contract.frames import pixels_hash
from overworld.contract.wire import spec_from_proto, spec_to_proto, tensor_from_proto, tensor_to_proto
from overworld.evaluation.conversation import CaptionedImage, Recipe
from overworld.v1 import env_pb2 as pb

VERSION = 1

MAX_FRAME_BYTES = 64 << 20
"""Bound of a picture's raw pixels."""
MAX_INLINE_BYTES = 4096
"""Observation tensors of more bytes than this are recorded by their hash."""

_MAX_TURNS = 100_000
_MAX_TENSOR_BYTES = 1 << 20
_MAX_NESTING = 20

Uint64 = Annotated[int, Field(ge=0, lt=2**64)]
Name = Annotated[str, Field(max_length=1024)]
Text = Annotated[str, Field(max_length=1 << 20)]
Xxh64 = Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
Shape = Annotated[tuple[Annotated[int, Field(ge=0, lt=2**32)], ...], Field(max_length=32, fail_fast=True, strict=False)]
_FIRST = Field(union_mode="left_to_right")  # no value fits two of the types, so the first that fits is the one
Side = Annotated[int, Field(ge=1, le=65_536)]


def at_most(count: int) -> BeforeValidator:
    """Bounds a map before its members are looked at."""

    def check(members: Any) -> Any:
        if isinstance(members, dict) and len(members) > count:
            raise ValueError(f"there are {len(members):,} members; the bound is {count:,}")
        return members

    return BeforeValidator(check)


class Record(BaseModel):
    """Base of the records: immutable, without unknown fields; types are not converted, numbers are finite.

    Pydantic collects all errors, at a kilobyte each. So that a line of millions of wrong things costs no more than one
    of right ones, lists fail at the first error and unknown fields are taken in and refused at once.
    """

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False, hide_input_in_errors=True)

    @model_validator(mode="after")
    def _refuse_unknown(self) -> Self:
        if self.model_extra:
            name = next(iter(self.model_extra))
            raise ValueError(f"the field {name[:100]!r} is unknown")
        return self


class TensorRecord(Record):
    """A tensor of the contract, whole."""

    dtype: Literal["bool", "uint8", "int32", "int64", "float32", "float64"]
    shape: Shape
    data: Annotated[str, Field(max_length=_MAX_TENSOR_BYTES * 4 // 3 + 4)]
    """Its elements in C order, little-endian, as base64."""

    @model_validator(mode="after")
    def _check(self) -> TensorRecord:
        self.array()
        return self

    @classmethod
    def of(cls, array: NDArray[Any]) -> TensorRecord:
        """Raises ValueError for an element type that the contract lacks, and for a tensor that is too large."""
        message = tensor_to_proto(array)
        data = base64.b64encode(message.data).decode()
        return cls.model_validate({"dtype": message.dtype, "shape": tuple(message.shape), "data": data})

    def array(self) -> NDArray[Any]:
        """The tensor."""
        try:
            data = base64.b64decode(self.data, validate=True)
        except binascii.Error as error:
            raise ValueError(f"the data of a tensor is not base64: {error}") from None
        return tensor_from_proto(pb.Tensor(dtype=self.dtype, shape=self.shape, data=data))


class TensorDigest(Record):
    """A large tensor of an observation, by the XXH64 of what TensorRecord.data would encode. A replay gives it back."""

    dtype: Literal["bool", "uint8", "int32", "int64", "float32", "float64"]
    shape: Shape
    xxh64: Xxh64


ActionRecord = Annotated[
    Annotated[str, Field(max_length=1 << 20)] | Annotated[int, Field(ge=0, lt=2**32)] | TensorRecord, _FIRST
]
"""A text, an index into the vocabulary, or a tensor."""

TaskKey = tuple[int, str, int | None, tuple[ActionRecord | None, ...]]
"""(seed, split, task, prefix)."""


class ImageRecord(Record):
    """A picture. `frames/<xxh64>.png` holds its pixels, uint8 [height, width, channels].

    `caption` is what a diagnosis told the agent of it; empty: nothing.
    """

    name: Name
    xxh64: Xxh64
    height: Side
    width: Side
    channels: Literal[1, 3]
    caption: Text = ""

    @model_validator(mode="after")
    def _check(self) -> ImageRecord:
        if self.size > MAX_FRAME_BYTES:
            raise ValueError(f"the picture has {self.size:,} bytes; the bound is {MAX_FRAME_BYTES:,}")
        return self

    @classmethod
    def of(cls, image: Image) -> ImageRecord:
        """Hashes the pixels, whatever the image says of itself."""
        height, width, channels = image.pixels.shape
        fields = {"name": image.name, "xxh64": f"{pixels_hash(image.pixels):016x}"}
        if isinstance(image, CaptionedImage):
            fields["caption"] = image.caption
        return cls.model_validate(fields | {"height": height, "width": width, "channels": channels})

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return self.height, self.width, self.channels

    @property
    def size(self) -> int:
        """Bytes of the raw pixels."""
        return self.height * self.width * self.channels


Parts = Annotated[tuple[Annotated[Text | ImageRecord, _FIRST], ...], Field(max_length=256, fail_fast=True)]


class ObservationRecord(Record):
    """What an env showed: texts and pictures in order, the admissible actions if listed, tensors by name."""

    parts: Parts = ()
    admissible: Annotated[
        tuple[Annotated[str, Field(max_length=65_536)], ...], Field(max_length=65_536, fail_fast=True)
    ] = ()
    tensors: Annotated[dict[Name, Annotated[TensorRecord | TensorDigest, _FIRST]], at_most(256)] = {}

    @classmethod
    def of(cls, observation: Observation) -> ObservationRecord:
        """Raises ValueError."""
        tensors = {name: _tensor_record(array) for name, array in observation.tensors.items()}
        parts = tuple(ImageRecord.of(part) if isinstance(part, Image) else part for part in observation.parts)
        return cls(parts=parts, admissible=observation.admissible, tensors=tensors)

    @property
    def images(self) -> list[ImageRecord]:
        """The pictures, in order."""
        return [part for part in self.parts if isinstance(part, ImageRecord)]


class Turn(Record):
    """One decision: what was observed, the reply to it, and what came of that.

    shown          What the agent was shown instead of the observation's parts; None: those.
    actor          Who chose the action.
    reply          The agent's reply, raw. Empty where the action was not read from one.
    thoughts       What the reply says before its action, as it was read.
    action         The action that was sent to the env; None: none could be read.
    executed       The action that the simulator executed, as it understood it; None: it was not stepped.
    outcome        "failed" if the slot failed in this turn: then the episode broke off.
    reward         Of this action.
    metrics        Sub-scores after this action.
    cut            Whether the reply reached its limit of tokens.
    fingerprint    The weights that replied, as their server names them; empty: unknown.
    sampling_seed  Names the noise that the reply was sampled with.
    tokens         The reply's token ids, and of each
    logprobs       the log-probability with which it was sampled, natural logarithm.
    value          The critic's estimate of the return from here.
    """

    observation: ObservationRecord
    shown: Parts | None = None
    actor: Literal["model", "expert", "random", "person"] = "model"
    reply: Text = ""
    thoughts: Text = ""
    action: ActionRecord | None = None
    executed: ActionRecord | None = None
    outcome: Literal["executed", "no_action", "not_admissible", "failed"]
    reward: float
    metrics: Annotated[dict[Name, float], at_most(1024)] = {}
    cut: bool = False
    fingerprint: Name = ""
    sampling_seed: Uint64 | None = None
    tokens: Annotated[tuple[Uint64, ...], Field(max_length=1 << 20, fail_fast=True)] | None = None
    logprobs: Annotated[tuple[float, ...], Field(max_length=1 << 20, fail_fast=True)] | None = None
    value: float | None = None

    @model_validator(mode="after")
    def _check(self) -> Turn:
        if self.logprobs is not None and (self.tokens is None or len(self.logprobs) != len(self.tokens)):
            raise ValueError("there must be one of logprobs for each of tokens")
        return self

    @property
    def seen(self) -> tuple[str | ImageRecord, ...]:
        """The texts and pictures that the agent was shown."""
        return self.observation.parts if self.shown is None else self.shown


class Episode(Record):
    """One episode as it was played.

    `split` is empty for the env's default, `task` None where the seed chooses it, `prefix` what was replayed before the
    first turn, `sample` tells several plays of one task apart. `final` is what was observed at the end. `error` says
    why the episode broke off; then it has neither an end nor a final observation, and counts as a failure.
    """

    seed: Uint64
    split: Name = ""
    task: Uint64 | None = None
    prefix: Annotated[tuple[ActionRecord | None, ...], Field(max_length=_MAX_TURNS, fail_fast=True)] = ()
    sample: Uint64 = 0
    turns: Annotated[tuple[Turn, ...], Field(max_length=_MAX_TURNS, fail_fast=True)]
    final: ObservationRecord | None = None
    end: Literal["TASK", "RULE", "TIME_LIMIT"] | None = None
    success: bool = False
    error: Text = ""

    @model_validator(mode="after")
    def _check(self) -> Episode:
        if bool(self.error) == (self.end is not None) or (self.end is None) != (self.final is None):
            raise ValueError("an episode has either an end and a final observation, or an error")
        if self.success and self.error:
            raise ValueError("an episode that broke off is not a success")
        failed = [number for number, turn in enumerate(self.turns) if turn.outcome == "failed"]
        if failed and (not self.error or failed != [len(self.turns) - 1]):
            raise ValueError(f"turn {failed[0]} failed: then it must be the last one, and the episode have an error")
        return self

    @property
    def total_reward(self) -> float:
        """The sum of the rewards, undiscounted, added up in the order of the turns in double precision."""
        total = 0.0
        for turn in self.turns:  # sum() compensates rounding from Python 3.12 on
            total += turn.reward
        return total

    @property
    def metrics(self) -> dict[str, float]:
        """Those of the last turn."""
        return self.turns[-1].metrics if self.turns else {}

    @property
    def task_key(self) -> TaskKey:
        """What all plays of the same task have in common."""
        return self.seed, self.split, self.task, self.prefix

    @property
    def key(self) -> tuple[Any, ...]:
        """What two plays of the same episode have in common."""
        return *self.task_key, self.sample

    @property
    def images(self) -> Iterator[ImageRecord]:
        """Every picture that the env drew or the agent was shown, as often as it was."""
        for turn in self.turns:
            yield from turn.observation.images
            yield from (part for part in turn.shown or () if isinstance(part, ImageRecord))
        if self.final is not None:
            yield from self.final.images

    def to_line(self) -> bytes:
        """One line of JSON in UTF-8: keys sorted, fields that have their default left out."""
        fields = self.model_dump(exclude_defaults=True)
        text = json.dumps(fields, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode() + b"\n"

    def reset_at(self, turn: int) -> Reset:
        """The reset that leads to where turn number `turn` was decided; the number of turns: to the end.

        Replaying it needs a session with the header's options and fallback. Raises IndexError.
        """
        if not 0 <= turn <= len(self.turns):
            raise IndexError(f"there is no turn {turn}; the episode has the turns 0 to {len(self.turns)}")
        actions = (*self.prefix, *(one.action for one in self.turns[:turn]))
        return Reset(self.seed, self.split, self.task, [action_of(action) for action in actions])


class ModelRecord(Record):
    """What replied, and how it was sampled: temperature 0 is greedy."""

    name: Name
    temperature: float
    max_tokens: int | None = None


class Header(Record):
    """What all episodes of a folder have in common.

    env           The contract's EnvSpec in proto3's JSON, with the names of env.proto.
    options       The env's options, complete.
    fallback      What happens to an action that cannot be executed, and
    fallback_reward  what a skipped turn earns. A replay needs a session with both.
    expert        Whether the session gave an expert's advice.
    recipe        How the observations became prompts.
    substitution  What the agent was shown instead of what it should see, in a word; empty: nothing.
    versions      Of the software that wrote the folder.
    """

    format: Literal["overworld episodes"] = "overworld episodes"
    version: Literal[1] = 1
    env: dict[str, Any]
    options: dict[str, Any]
    fallback: Literal["SKIP", "RANDOM"]
    fallback_reward: float
    expert: bool
    recipe: Recipe
    model: ModelRecord | None = None
    substitution: Name = ""
    versions: Annotated[dict[Name, Name], at_most(256)]

    @model_validator(mode="after")
    def _check(self) -> Header:
        json.dumps(self.options, allow_nan=False)
        self.spec()
        return self

    def to_json(self) -> bytes:
        """As it stands in the file: JSON in UTF-8, keys sorted."""
        text = json.dumps(self.model_dump(), sort_keys=True, ensure_ascii=False, allow_nan=False, indent=1)
        return text.encode() + b"\n"

    def spec(self) -> EnvSpec:
        """The env."""
        try:
            message = json_format.ParseDict(self.env, pb.EnvSpec(), max_recursion_depth=_MAX_NESTING)
        except json_format.ParseError as error:
            raise ValueError(f"env is not an EnvSpec of the contract: {error}") from None
        return spec_from_proto(message)


def env_record(spec: EnvSpec) -> dict[str, Any]:
    """An EnvSpec as `Header.env`."""
    fields: dict[str, Any] = json_format.MessageToDict(spec_to_proto(spec), preserving_proto_field_name=True)
    return fields


def problem(error: ValueError) -> str:
    """What is wrong with a record, and where."""
    if not isinstance(error, ValidationError):
        return str(error)
    errors = error.errors(include_url=False, include_context=False, include_input=False)
    # Of what may be a text or an object, the object's own error says more than that it is not a text.
    worst = max(errors, key=lambda one: len(one["loc"]))
    # Pydantic names the type, too, where it tried several.
    where = ".".join(str(part) for part in worst["loc"] if not str(part).startswith(("function-", "constrained-")))
    return f"{where}: {worst['msg']}" if where else worst["msg"]


def action_record(action: Action | None) -> ActionRecord | None:
    """An action as a record. Raises ValueError."""
    if isinstance(action, np.integer):
        return int(action)
    return TensorRecord.of(action) if isinstance(action, np.ndarray) else action


def action_of(record: ActionRecord | None) -> Action | None:
    """The inverse of `action_record`."""
    return record.array() if isinstance(record, TensorRecord) else record


def _tensor_record(array: NDArray[Any]) -> TensorRecord | TensorDigest:
    if array.nbytes <= MAX_INLINE_BYTES:
        return TensorRecord.of(array)
    message = tensor_to_proto(array)
    digest = pixels_hash(np.frombuffer(message.data, np.uint8))
    fields = {"dtype": message.dtype, "shape": tuple(message.shape), "xxh64": f"{digest:016x}"}
    return TensorDigest.model_validate(fields)
