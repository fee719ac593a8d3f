"""The prompt recipe: observations and history to messages, the model's reply to an action.

Training, evaluation and playground build the same messages from the same `Recipe`, which each checkpoint carries along.
A prompt is one user message: the images of the last turns, oldest first, then one text with the task, the state in
words, the actions and the form of the reply.
"""

from __future__ import annotations

import base64
import io
import json
import re
from collections import deque
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import PIL.Image
from pydantic import BaseModel, ConfigDict, Field

from overworld.authoring.env import EnvSpec, Image, Observation, Pixels
from overworld.authoring.runner import Result

Message = dict[str, Any]
"""{"role", "content"}, the content a list of {"type": "image", "image": Image} and {"type": "text", "text": str}."""

_MAX_REPLY_CHARS = 16_384
_MAX_OBJECTS = 64


class Recipe(BaseModel):
    """How to prompt and how to read the reply."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    history: int = Field(default=1, ge=1, le=64, description="turns whose images the prompt shows")
    reply: Literal["action", "thoughts+action"] = Field(
        default="thoughts+action", description="whether the model is asked to think before it acts"
    )
    turns_left: bool = Field(default=False, description="whether the prompt says how many turns the host still allows")


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class CaptionedImage(Image):
    """An image that a prompt follows up with what it shows, in words. Only a diagnosis has such; envs do not."""

    caption: str = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """What could be read from a model's reply. `action` is None if it names none."""

    action: str | None
    thoughts: str = ""


class Conversation:
    """One slot's prompt: told every result, it gives the messages for the next action."""

    def __init__(self, spec: EnvSpec, recipe: Recipe) -> None:
        self._spec = spec
        self._recipe = recipe
        self._turns: deque[Observation] = deque(maxlen=recipe.history)
        self._turn = 0

    def observe(self, result: Result) -> None:
        """Takes in a result. That of a reset begins a new history; that of a skipped turn adds nothing to it."""
        if result.outcome is None:
            self._turns.clear()
        elif result.executed is None and self._turns:
            self._turns.pop()
        self._turns.append(result.observation)
        self._turn = result.turn

    @property
    def latest(self) -> Observation:
        """What the agent sees now."""
        return self._turns[-1]

    def read(self, reply: str) -> Reply:
        """What the model's reply says; an action longer than the env takes is none."""
        return read_reply(reply, self._spec.action.max_text_bytes or 4096)

    def messages(self) -> list[Message]:
        """The prompt."""
        content: list[dict[str, Any]] = []
        for turn in self._turns:
            for image in turn.images:
                content.append({"type": "image", "image": image})
                if isinstance(image, CaptionedImage):
                    content.append({"type": "text", "text": image.caption})
        content.append({"type": "text", "text": prompt_text(self._spec, self.latest, self._turn, self._recipe)})
        return [{"role": "user", "content": content}]


def prompt_text(spec: EnvSpec, observation: Observation, turn: int, recipe: Recipe) -> str:
    """The text of the prompt after `turn` turns."""
    actions = observation.admissible or spec.action.vocabulary
    lines = [spec.task, observation.text]
    if actions:
        lines.append("Actions: " + ", ".join(json.dumps(action, ensure_ascii=False) for action in actions))
    if recipe.turns_left and spec.max_turns:
        lines.append(f"Turns left: {spec.max_turns - turn}")
    form = {"thoughts": "...", "action": "..."} if recipe.reply == "thoughts+action" else {"action": "..."}
    lines.append("Reply: " + json.dumps(form))
    return "\n".join(line for line in lines if line)


def write_reply(recipe: Recipe, action: str, thoughts: str) -> str:
    """A reply in the recipe's form, as cloning teaches it."""
    form = {"thoughts": thoughts, "action": action} if recipe.reply == "thoughts+action" else {"action": action}
    return json.dumps(form, ensure_ascii=False)


def read_reply(text: str, max_action_bytes: int = 4096) -> Reply:
    """Finds the action in a reply: in the last JSON object with an "action", or else after the last "action":.

    So it may stand in a code fence, amid other text, in single quotes, as a number, or in an object that is cut off.
    Never fails; looks at no more than the last 16,384 characters. A longer action than `max_action_bytes` is none.
    """
    text = text[-_MAX_REPLY_CHARS:]
    starts = [match.start() for match in re.finditer(r"\{", text)][-_MAX_OBJECTS:]
    objects = (_json_object(text, start) for start in reversed(starts))
    fields = next((fields for fields in objects if "action" in fields), None)
    if fields is None:
        fields = {key: _unquoted(value) for key, value in _MEMBER.findall(text)}
    action = _word(fields.get("action"), max_action_bytes)
    thoughts = fields.get("thoughts")
    return Reply(action, thoughts.encode(errors="replace").decode() if isinstance(thoughts, str) else "")


def to_openai(messages: list[Message]) -> list[Message]:
    """The messages as an OpenAI-compatible server takes them: images as PNG data URLs."""
    converted = []
    for message in messages:
        content = []
        for part in message["content"]:
            if part["type"] == "image":
                image: Image = part["image"]
                part = {"type": "image_url", "image_url": {"url": data_url(image.pixels)}}
            content.append(part)
        converted.append({"role": message["role"], "content": content})
    return converted


def data_url(pixels: Pixels) -> str:
    """An image as a PNG data URL; lossless."""
    return "data:image/png;base64," + base64.b64encode(png(pixels)).decode()


def png(pixels: Pixels) -> bytes:
    """An image, uint8 [height, width, 1 or 3], as PNG."""
    buffer = io.BytesIO()
    PIL.Image.fromarray(np.squeeze(pixels, 2) if pixels.shape[2] == 1 else pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _json_object(text: str, start: int) -> dict[str, Any]:
    """The JSON object that begins at `start`; empty if there is none."""
    try:
        fields, _ = json.JSONDecoder(strict=False).raw_decode(text, start)
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


# The strings of a member may not hold line ends, so that a stray quote costs no more than its line.
_STRING = r"\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)*'"
_MEMBER = re.compile(rf"[\"']?\b(thoughts|action)[\"']?\s*:\s*({_STRING}|[^\s,\"'{{}}\[\]]+)")


def _unquoted(text: str) -> str:
    if text[0] not in "\"'":
        return text
    return re.sub(r"\\(.)", lambda match: {"n": "\n", "t": "\t"}.get(match[1], match[1]), text[1:-1], flags=re.DOTALL)


def _word(value: Any, max_bytes: int) -> str | None:
    """An action's text: that of a string or a number; anything else is none."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    word = str(value).strip()
    try:
        return word if 0 < len(word.encode()) <= max_bytes else None
    except UnicodeEncodeError:  # half a surrogate pair, which JSON may hold
        return None
