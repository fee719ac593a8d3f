"""Chat requests as harnesses send them, checked and turned into what the model takes."""

from __future__ import annotations

import base64
import binascii
import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import PIL.Image
from overworld_vlm.batch import Message, StoredImage
from pydantic import BaseModel, ConfigDict, Field

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


class ChatRequest(_Lenient):
    """The body of /v1/chat/completions."""

    model: str
    messages: list[ChatMessage]
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=10)
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = None
    n: int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: bool | None = None


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
        """uint8 [height, width, 3]."""
        with self._refusing(), self._image as image:
            return np.array(image.convert("RGB"))

    @contextlib.contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except PIL.Image.DecompressionBombError as error:
            raise bad_request(
                f"{self._where} is too large: {error}", code="image_too_large", param=self._where
            ) from None
        except (binascii.Error, OSError, SyntaxError, ValueError) as error:
            reason = "it is of another format" if isinstance(error, PIL.UnidentifiedImageError) else error
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
