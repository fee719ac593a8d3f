"""Chat requests as harnesses send them, checked and turned into what the model takes."""

from __future__ import annotations

import base64
import binascii
import io
from typing import Any, Literal

import numpy as np
import PIL.Image
from overworld_vlm.batch import Message
from pydantic import BaseModel, ConfigDict, Field

from overworld_policy.config import PolicyServerConfig
from overworld_policy.errors import bad_request

_FORMATS = ("PNG", "JPEG", "WEBP")  # by their bytes: harnesses label PNGs as JPEGs


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


def read_messages(request: ChatRequest, config: PolicyServerConfig) -> list[Message]:
    """The messages with decoded images. Raises ApiError."""
    if not request.messages:
        raise bad_request("messages is empty; send at least one", param="messages")
    if len(request.messages) > config.max_messages:
        raise bad_request(
            f"{len(request.messages)} messages are too many, at most {config.max_messages} are taken: shorten them",
            code="too_many_messages",
            param="messages",
        )
    messages: list[Message] = []
    images = 0
    for number, message in enumerate(request.messages):
        role = "system" if message.role == "developer" else message.role
        if message.content is None or isinstance(message.content, str):
            content: Any = message.content or ""
        else:
            content = [
                _part(part, f"messages[{number}].content[{at}]", config) for at, part in enumerate(message.content)
            ]
            images += sum(part["type"] == "image" for part in content)
        if images > config.max_images:
            raise bad_request(
                f"more than {config.max_images} images; send fewer", code="too_many_images", param="messages"
            )
        messages.append({"role": role, "content": content})
    return messages


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
        return {"type": "image", "image": _image(url, where, config)}
    raise bad_request(
        f'{where} must be {{"type": "text", "text"}} or {{"type": "image_url", "image_url"}}', param=where
    )


def _image(url: str, where: str, config: PolicyServerConfig) -> np.ndarray:
    """An image from a data URL, uint8 [height, width, 3]."""
    head, comma, data = url.partition(",")
    if not head.startswith("data:") or not head.endswith(";base64") or not comma:
        raise bad_request(
            f"{where}: images are taken as data URLs (data:image/png;base64,...) only; nothing is fetched", param=where
        )
    try:
        with PIL.Image.open(io.BytesIO(base64.b64decode(data, validate=True)), formats=_FORMATS) as image:
            if image.width * image.height > config.max_image_pixels:
                raise bad_request(
                    f"{where}: an image of {image.width} x {image.height} pixels is too large, at most "
                    f"{config.max_image_pixels:,} pixels are taken",
                    code="image_too_large",
                    param=where,
                )
            return np.array(image.convert("RGB"))
    except (binascii.Error, OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError) as error:
        raise bad_request(
            f"{where} is not a readable {', '.join(_FORMATS)} image: {error}", code="invalid_image", param=where
        ) from None
