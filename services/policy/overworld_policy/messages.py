"""Chat requests as harnesses send them, checked and turned into what the model takes."""

from __future__ import annotations

import base64
import binascii
import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import PIL.Image
from overworld_vlm.batch import Message, StoredImage
from pydantic import BaseModel, ConfigDict, Field, model_validator

from overworld_policy.config import PolicyServerConfig
from overworld_policy.errors import bad_request

_FORMATS = ("PNG", "JPEG", "WEBP")  # by their bytes: harnesses label PNGs as JPEGs

_MAX_PARTS = 1024


class _Lenient(BaseModel):
    """Fields that are not known are ignored, as OpenAI-compatible servers do."""

    model_config = ConfigDict(extra="ignore")


class ChatMessage(_Lenient):
    """A message. Its content is a text or a list of parts, which `read_messages` checks."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[dict[str, Any]] | None = None


class StreamOptions(_Lenient):
    """Options of a stream."""

    include_usage: bool = False


class JsonSchema(_Lenient):
    """A schema that the reply is to follow."""

    schema_: dict[str, Any] = Field(alias="schema")


class ResponseFormat(_Lenient):
    """OpenAI's way to ask for JSON."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StructuredOutputs(BaseModel):
    """vLLM's way to ask for one of several texts, or for JSON of a schema."""

    model_config = ConfigDict(extra="forbid")

    choice: list[Annotated[str, Field(min_length=1, max_length=1000)]] | None = Field(
        default=None, min_length=1, max_length=1000
    )
    json_: dict[str, Any] | None = Field(default=None, alias="json")


_StopText = Annotated[str, Field(max_length=256)]


class ChatRequest(BaseModel):
    """The body of /v1/chat/completions: fields of OpenAI's API, and of vLLM's additions to it.

    See `fields` for those that are not offered.
    """

    model_config = ConfigDict(extra="allow")

    model: str
    messages: list[ChatMessage]
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1, description="comes before max_tokens")
    min_tokens: int | None = Field(default=None, ge=0, description="the reply does not end before")
    temperature: float | None = Field(default=None, ge=0, le=10, description="0: greedy; null: 1")
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1, description="0 and -1: all tokens")
    min_p: float | None = Field(default=None, ge=0, le=1, description="of the likeliest token's probability")
    repetition_penalty: float | None = Field(default=None, gt=0, le=100)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    logit_bias: dict[Annotated[int, Field(ge=0)], Annotated[float, Field(ge=-100, le=100)]] | None = Field(
        default=None, max_length=1024
    )
    seed: int | None = Field(default=None, description="the same seed, the same noise")
    n: int | None = Field(default=None, ge=1, le=32, description="replies; their prompt is read once")
    stop: _StopText | Annotated[list[_StopText], Field(max_length=16)] | None = Field(
        default=None, description="the reply ends before any of these texts"
    )
    stop_token_ids: list[int] | None = Field(
        default=None, max_length=64, description="the reply ends with any of these"
    )
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: bool | None = Field(default=None, description="of the policy itself, whatever the settings left of it")
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    return_token_ids: bool | None = Field(
        default=None, description="token_ids and prompt_token_ids, end token included"
    )
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    strict: bool | None = Field(
        default=None, description="refuse fields that nobody knows; without it a header names them"
    )

    @model_validator(mode="after")
    def _check(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        return self

    @property
    def stops(self) -> list[str]:
        """Texts that end the reply; an empty one would end it before it begins."""
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return [stop for stop in stops if stop]


class SentImage(StoredImage):
    """An image from a data URL. Its header has been read and its size checked. `read` raises ApiError."""

    def __init__(self, url: str, where: str, config: PolicyServerConfig) -> None:
        head, comma, data = url.partition(",")
        if not head.startswith("data:") or not head.endswith(";base64") or not comma:
            raise bad_request(
                f"{where}: images are taken as data URLs (data:image/png;base64,...) only; nothing is fetched",
                param=where,
            )
        self._where = where
        with self._refusing():
            self._image = PIL.Image.open(io.BytesIO(base64.b64decode(data, validate=True)), formats=_FORMATS)
        width, height = self._image.size
        self.shape = height, width, 3
        if self.pixels > config.max_image_pixels:
            raise bad_request(
                f"{where}: an image of {width} x {height} pixels is too large, at most "
                f"{config.max_image_pixels:,} pixels are taken",
                code="image_too_large",
                param=where,
            )

    @property
    def pixels(self) -> int:
        """Height x width."""
        return self.shape[0] * self.shape[1]

    def read(self) -> np.ndarray:
        """uint8 [height, width, 3]. Can be called once: the decoded image is not kept besides."""
        with self._refusing(), contextlib.closing(self._image) as image:
            return np.array(image if image.mode == "RGB" else image.convert("RGB"))

    @contextlib.contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except PIL.Image.DecompressionBombError as error:
            raise bad_request(
                f"{self._where} is too large: {error}", code="image_too_large", param=self._where
            ) from None
        except (binascii.Error, OSError, SyntaxError, ValueError) as error:
            # Its text: the error itself would be kept by this frame, and this frame by its traceback, with the image.
            reason = "it is of another format" if isinstance(error, PIL.UnidentifiedImageError) else str(error)
            raise bad_request(
                f"{self._where} is not a readable {', '.join(_FORMATS)} image: {reason}",
                code="invalid_image",
                param=self._where,
            ) from None


@dataclass(frozen=True, slots=True)
class ReadMessages:
    """A request's messages, their images with headers read and pixels unread.

    characters  of all texts
    pixels      of all images
    """

    messages: list[Message]
    characters: int
    pixels: int


def read_messages(request: ChatRequest, config: PolicyServerConfig) -> ReadMessages:
    """Checks messages, cheap bounds first. Raises ApiError."""
    _check_counts(request, config)
    messages: list[Message] = []
    characters = pixels = 0
    for number, message in enumerate(request.messages):
        role = "system" if message.role == "developer" else message.role
        if message.content is None or isinstance(message.content, str):
            content: Any = message.content or ""
            characters += len(content)
        else:
            content = []
            for at, sent in enumerate(message.content):
                part = _part(sent, f"messages[{number}].content[{at}]", config)
                content.append(part)
                if part["type"] == "text":
                    characters += len(part["text"])
                else:
                    pixels += part["image"].pixels
                if pixels > config.max_total_pixels:
                    raise bad_request(
                        f"the images have more than {config.max_total_pixels:,} pixels together; send fewer or "
                        "smaller ones",
                        code="images_too_large",
                        param="messages",
                    )
        messages.append({"role": role, "content": content})
    return ReadMessages(messages, characters, pixels)


def _check_counts(request: ChatRequest, config: PolicyServerConfig) -> None:
    if not request.messages:
        raise bad_request("messages is empty; send at least one", param="messages")
    if len(request.messages) > config.max_messages:
        raise bad_request(
            f"{len(request.messages)} messages are too many, at most {config.max_messages} are taken: shorten them",
            code="too_many_messages",
            param="messages",
        )
    parts = [part for message in request.messages if isinstance(message.content, list) for part in message.content]
    if sum(part.get("type") == "image_url" for part in parts) > config.max_images:
        raise bad_request(f"more than {config.max_images} images; send fewer", code="too_many_images", param="messages")
    if len(parts) > _MAX_PARTS:
        raise bad_request(
            f"{len(parts)} parts of messages are too many, at most {_MAX_PARTS} are taken; join texts",
            code="too_many_parts",
            param="messages",
        )


def _part(part: dict[str, Any], where: str, config: PolicyServerConfig) -> dict[str, Any]:
    kind = part.get("type")
    if kind == "text" and isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    if kind == "image_url":
        url = part.get("image_url")
        if isinstance(url, dict):
            url = url.get("url")
        if not isinstance(url, str):
            raise bad_request(f"{where} has no image_url.url", param=where)
        return {"type": "image", "image": SentImage(url, where, config)}
    raise bad_request(
        f'{where} must be {{"type": "text", "text"}} or {{"type": "image_url", "image_url"}}', param=where
    )
