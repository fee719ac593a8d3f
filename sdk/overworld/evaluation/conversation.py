"""The prompt recipe: observations and history to messages, the model's reply to an action.

Training, evaluation and playground build the same messages from the same `Recipe`, which each checkpoint carries along.
A prompt is one user message: the images of the last turns, oldest first, then one text with the task, the state in
words, the actions and the form of the reply. With `Recipe.chat` it is a chat in words of your own, so that a model can
be trained on the prompts of an evaluation harness.
"""

from __future__ import annotations

import base64
import io
import json
import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from string import Template
from typing import Any, Literal, Self

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from overworld.authoring.env import Action, ActionSpec, EnvSpec, Image, Observation, Pixels
from overworld.authoring.runner import Result
from overworld.errors import EvaluationError

Message = dict[str, Any]
"""{"role", "content"}, the content a list of {"type": "image", "image": Image} and {"type": "text", "text": str}."""

_MAX_REPLY_CHARS = 16_384
_MAX_OBJECTS = 64
_MAX_NUMBERS = 1024
_MAX_TEMPLATE_CHARS = 16_384
_NAMED = re.compile(r"([A-Za-z_]\w*): (.*)", re.DOTALL)


class Chat(BaseModel):
    """The messages of a prompt in words of your own.

    The first message is `opening`, by the user. Each of the last `Recipe.history` turns follows as a message of its
    own: `turn` and then its images, by the user, after the action that led there, by the assistant. Both texts are
    templates as in `string.Template`: `$task`, `$actions` (the words, with commas between them), `$text` (all of the
    observation's), `$turns_left`, and `$NAME` for a text of the observation that begins with "NAME: ".
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    opening: str = Field(max_length=_MAX_TEMPLATE_CHARS, description="text of the first message")
    turn: str = Field(max_length=_MAX_TEMPLATE_CHARS, description="text of each turn's message, before its images")

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name, text in (("opening", self.opening), ("turn", self.turn)):
            if not Template(text).is_valid():
                raise ValueError(f"{name}: a $ begins a name, as in $task; write $$ for the sign itself")
        return self


class Recipe(BaseModel):
    """How to prompt and how to read the reply."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    history: int = Field(default=1, ge=1, le=64, description="turns whose images the prompt shows")
    reply: Literal["action", "thoughts+action", "bare"] = Field(
        default="thoughts+action",
        description="JSON with an action, or with thoughts before it, or the bare action and nothing else",
    )
    turns_left: bool = Field(default=False, description="whether the prompt says how many turns the host still allows")
    chat: Chat | None = Field(default=None, description="the prompt in words of your own; null: one message")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.chat is not None and self.turns_left != ("turns_left" in Template(self.chat.turn).get_identifiers()):
            raise ValueError("turns_left goes with $turns_left in chat.turn: set both or neither")
        return self


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class CaptionedImage(Image):
    """An image that a prompt follows up with what it shows, in words. Only a diagnosis has such; envs do not."""

    caption: str = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """What could be read from a model's reply. `action` is None if it names none."""

    action: Action | None
    thoughts: str = ""


class Conversation:
    """One slot's prompt: told every result, it gives the messages for the next action."""

    def __init__(self, spec: EnvSpec, recipe: Recipe) -> None:
        self._spec = spec
        self._recipe = recipe
        self._turns: deque[_Turn] = deque(maxlen=recipe.history)

    def observe(self, result: Result) -> None:
        """Takes in a result. That of a reset begins a new history; that of a skipped turn adds nothing to it."""
        action = result.executed
        if result.outcome is None:
            self._turns.clear()
        elif result.executed is None and self._turns:
            action = self._turns.pop().action
        self._turns.append(_Turn(action, result.observation, result.turn))

    @property
    def latest(self) -> Observation:
        """What the agent sees now."""
        return self._turns[-1].observation

    def read(self, reply: str) -> Reply:
        """What the model's reply says; an action longer than the env takes is none."""
        return read_as(reply, self._spec.action, self._recipe)

    def messages(self) -> list[Message]:
        """The prompt. Raises EvaluationError where a template of `Recipe.chat` names what the env does not show."""
        if self._recipe.chat is not None:
            return self._chat(self._recipe.chat)
        text = prompt_text(self._spec, self.latest, self._turns[-1].number, self._recipe)
        images = [image for turn in self._turns for image in turn.observation.images]
        return [_message("user", text, images, text_first=False)]

    def _chat(self, chat: Chat) -> list[Message]:
        """The prompt as a chat."""
        messages = [_message("user", self._filled(chat.opening, self._turns[-1]))]
        for turn in self._turns:
            if turn.action is not None:
                messages.append(_message("assistant", _written({"action": _in_words(turn.action)}, self._recipe)))
            messages.append(_message("user", self._filled(chat.turn, turn), turn.observation.images))
        return messages

    def _filled(self, template: str, turn: _Turn) -> str:
        """A template of the recipe's with what a turn shows."""
        spec, observation = self._spec, turn.observation
        named = (_NAMED.fullmatch(part) for part in observation.parts if isinstance(part, str))
        names = {match[1]: match[2] for match in named if match} | {
            "task": spec.task,
            "actions": ", ".join(observation.admissible or spec.action.vocabulary),
            "text": observation.text,
            "turns_left": str(spec.max_turns - turn.number),
        }
        try:
            return Template(template).substitute(names)
        except KeyError as error:
            raise EvaluationError(
                f"recipe.chat names ${error.args[0]}, which {spec.id} does not show; it has "
                f"{', '.join(f'${name}' for name in sorted(names))}"
            ) from None


@dataclass(frozen=True, slots=True, eq=False)
class _Turn:
    """What the agent saw after `number` turns, and the action that led there: None after a reset."""

    action: Action | None
    observation: Observation
    number: int


def prompt_text(spec: EnvSpec, observation: Observation, turn: int, recipe: Recipe) -> str:
    """The text of a prompt of one message, after `turn` turns."""
    actions = observation.admissible or spec.action.vocabulary
    lines = [spec.task, observation.text]
    if actions:
        lines.append("Actions: " + ", ".join(json.dumps(action, ensure_ascii=False) for action in actions))
    elif spec.action.low is not None and spec.action.high is not None:
        lines.append("Action: " + _numbers_wanted(spec.action.low, spec.action.high))
    if recipe.turns_left and spec.max_turns:
        lines.append(f"Turns left: {spec.max_turns - turn}")
    lines.append("Reply: " + ("the action alone" if recipe.reply == "bare" else write_reply(recipe, "...", "...")))
    return "\n".join(line for line in lines if line)


def _numbers_wanted(low: NDArray[Any], high: NDArray[Any]) -> str:
    """What a tensor of numbers between `low` and `high` is, in words."""
    count = "1 number" if low.size == 1 else f"{low.size} numbers"
    bounds = list(dict.fromkeys(zip(low.flatten().tolist(), high.flatten().tolist(), strict=True)))
    if len(bounds) == 1:
        return f"{count} from {bounds[0][0]:g} to {bounds[0][1]:g}"
    smallest, largest = (" ".join(f"{number:g}" for number in array.flatten().tolist()) for array in (low, high))
    return f"{count} from {smallest} to {largest}"


def write_reply(recipe: Recipe, action: str, thoughts: str) -> str:
    """A reply in the recipe's form, as cloning teaches it."""
    form = {"thoughts": thoughts, "action": action} if recipe.reply == "thoughts+action" else {"action": action}
    return _written(form, recipe)


def read_as(text: str, spec: ActionSpec, recipe: Recipe) -> Reply:
    """What a reply says where actions are those of `spec`: a tensor where it has tensors. See `read_reply`."""
    reply = read_reply(text, spec.max_text_bytes or 4096, recipe)
    action = spec.read(reply.action) if isinstance(reply.action, str) else None
    return Reply(action, reply.thoughts)


def read_reply(text: str, max_action_bytes: int = 4096, recipe: Recipe | None = None) -> Reply:
    """Finds the action in a reply: in the last JSON object with an "action", or else after the last "action":.

    So it may stand in a code fence, amid other text, in single quotes, as a number, as an array of numbers (its text is
    the numbers with blanks in between), or in an object that is cut off. Where the `recipe` asks for the bare action,
    the action is the whole reply, but for white space around it.
    Never fails; looks at no more than the last 16,384 characters. A longer action than `max_action_bytes` is none.
    """
    if recipe is not None and recipe.reply == "bare":
        return Reply(_word(text, max_action_bytes))
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


def _message(role: str, text: str, images: Sequence[Image] = (), text_first: bool = True) -> Message:
    shown: list[dict[str, Any]] = []
    for image in images:
        shown.append({"type": "image", "image": image})
        if isinstance(image, CaptionedImage):
            shown.append({"type": "text", "text": image.caption})
    said: list[dict[str, Any]] = [{"type": "text", "text": text}]
    return {"role": role, "content": said + shown if text_first else shown + said}


def _in_words(action: Action) -> str:
    """An action as an agent writes it."""
    if isinstance(action, np.ndarray):
        return " ".join(f"{number:g}" for number in action.flatten().tolist())
    return str(action)


def _written(form: dict[str, str], recipe: Recipe) -> str:
    return form["action"] if recipe.reply == "bare" else json.dumps(form, ensure_ascii=False)


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
    """An action's text: that of a string, a number or an array of numbers; anything else is none."""
    if isinstance(value, list) and len(value) <= _MAX_NUMBERS:
        words = [_word(number, max_bytes) if isinstance(number, int | float) else None for number in value]
        value = None if None in words else " ".join(map(str, words))
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    word = str(value).strip()
    try:
        return word if 0 < len(word.encode()) <= max_bytes else None
    except UnicodeEncodeError:  # half a surrogate pair, which JSON may hold
        return None
