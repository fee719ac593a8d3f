"""What OpenEnv's clients send, checked, and what they are answered: the protocol's messages as models.

Its envs define actions and observations of their own; ours, of all envs, are `ActionData` and `ObservationData`.
"""

from __future__ import annotations

import enum
import math
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr, model_validator

from overworld.authoring.env import Action, ActionSpec, EnvSpec
from overworld.errors import ContractError, Reason

_UInt32 = Annotated[StrictInt, Field(ge=0, lt=2**32)]
_UInt64 = Annotated[StrictInt, Field(ge=0, lt=2**64)]


class ErrorCode(enum.StrEnum):
    """OpenEnv's codes."""

    INVALID_JSON = "INVALID_JSON"
    UNKNOWN_TYPE = "UNKNOWN_TYPE"
    VALIDATION_ERROR = "VALIDATION_ERROR"
    EXECUTION_ERROR = "EXECUTION_ERROR"
    CAPACITY_REACHED = "CAPACITY_REACHED"
    SESSION_ERROR = "SESSION_ERROR"


class _Received(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ResetData(_Received):
    """How an episode starts. OpenEnv knows `seed` and `episode_id`; the others are ours."""

    seed: _UInt64 | None = Field(default=None, description="the same seed, split and task: the same episode")
    episode_id: StrictStr | None = Field(default=None, max_length=255, description="a name for the client's own use")
    split: StrictStr = Field(default="", max_length=255, description="split of the tasks; empty: the env's default")
    task: _UInt64 | None = Field(default=None, description="number of the task in the split; null: the seed chooses")
    options: dict[str, Any] = Field(default={}, description="the env's options; those left out have their defaults")


class ActionData(_Received):
    """An action: one of text, index and tensor. With none of them it says that no action could be read."""

    text: StrictStr | None = Field(default=None, description="the action in words")
    index: _UInt32 | None = Field(default=None, description="number of the action in the vocabulary")
    tensor: list[Any] | StrictInt | float | None = Field(default=None, description="numbers, as nested lists")
    reply: StrictStr = Field(default="", description="the model's whole reply, for the record; cut to 65,536 bytes")
    metadata: dict[str, Any] = Field(default={}, description="as in all of OpenEnv's actions; not read")

    @model_validator(mode="after")
    def _check(self) -> ActionData:
        if sum(value is not None for value in (self.text, self.index, self.tensor)) > 1:
            raise ValueError("an action has only one of text, index and tensor")
        return self

    def action(self, spec: ActionSpec) -> Action | None:
        """As the contract has it. Raises ContractError for a tensor that cannot be one of the env's."""
        if self.tensor is not None:
            return _tensor(self.tensor, spec)
        return self.text if self.text is not None else self.index


class ResetMessage(_Received):
    """Starts an episode."""

    type: Literal["reset"]
    data: ResetData = ResetData()


class StepMessage(_Received):
    """Acts."""

    type: Literal["step"]
    data: ActionData


class StateMessage(_Received):
    """Asks where the episode is."""

    type: Literal["state"]


class CloseMessage(_Received):
    """Ends the connection."""

    type: Literal["close"]


MESSAGES: dict[str, type[ResetMessage | StepMessage | StateMessage | CloseMessage]] = {
    "reset": ResetMessage,
    "step": StepMessage,
    "state": StateMessage,
    "close": CloseMessage,
}


class _Sent(BaseModel):
    model_config = ConfigDict(ser_json_inf_nan="strings")


class TextContent(_Sent):
    """A text, as a content block of MCP."""

    type: Literal["text"] = "text"
    text: str


class ImageContent(_Sent):
    """An image, as a content block of MCP."""

    type: Literal["image"] = "image"
    name: str
    mimeType: str = "image/png"  # noqa: N815 - MCP's name
    data: str = Field(description="the PNG in base64")
    xxh64: str = Field(description="XXH64, seed 0, of the raw pixels, in hex")


class TensorData(_Sent):
    """Numbers."""

    dtype: str
    values: Any = Field(description="nested lists; what is not finite is 'NaN', 'Infinity' or '-Infinity'")


class ObservationData(_Sent):
    """What the agent sees in one turn."""

    content: list[TextContent | ImageContent] = Field(description="texts and images, in order")
    admissible: list[str] = Field(description="the actions of this turn; empty: all of the vocabulary, if there is one")
    tensors: dict[str, TensorData]
    metadata: dict[str, Any] = Field(description="what OpenEnv has no field for: outcome, metrics, end, success, ...")


class ResultData(_Sent):
    """The answer to a reset or a step.

    The metadata stands twice, as in OpenEnv's own answers: its typed clients read one place, its generic one the other.
    """

    observation: ObservationData
    reward: float | None = Field(description="null after a reset")
    done: bool
    metadata: dict[str, Any]


class StateData(_Sent):
    """Where an episode is."""

    episode_id: str | None = None
    step_count: int = 0
    env: str
    seed: int | None = None
    split: str | None = None
    task: int | None = None
    options: dict[str, Any] | None = None


def action_schema(spec: EnvSpec) -> dict[str, Any]:
    """The JSON schema of an env's actions."""
    schema = ActionData.model_json_schema()
    properties, action = schema["properties"], spec.action
    if action.vocabulary:
        unused = ["tensor"]
        properties["text"]["examples"] = list(action.vocabulary)
        properties["index"]["maximum"] = len(action.vocabulary) - 1
    elif action.low is not None and action.high is not None:
        unused = ["text", "index"]
        properties["tensor"]["description"] = (
            f"{action.low.dtype} {list(action.low.shape)}, from {action.low.tolist()} to {action.high.tolist()}"
        )
    else:
        unused = ["tensor", "index"]
        properties["text"]["description"] += f", {action.max_text_bytes:,} bytes at most"
    for name in unused:
        del properties[name]
    return schema


def _tensor(numbers: Any, spec: ActionSpec) -> NDArray[Any]:
    """The numbers in the dtype and shape of the env's actions. Whether they are within the bounds is the env's word."""
    if spec.low is None:
        raise ContractError(Reason.REQUEST_INVALID, "this env takes no tensors; send text")
    dtype, shape = spec.low.dtype, spec.low.shape
    try:
        given = np.asarray(numbers)
        if given.shape == shape and given.dtype.kind in "biuf":
            with np.errstate(over="ignore", invalid="ignore"):
                array = given.astype(dtype)
            if dtype.kind == "f" or np.array_equal(array, given):
                return array
    except (OverflowError, ValueError):  # of lists of different lengths, say
        pass
    raise ContractError(
        Reason.REQUEST_INVALID, f"the tensor must be {dtype} {list(shape)}, {math.prod(shape)} numbers in nested lists"
    )
