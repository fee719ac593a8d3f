"""From chat messages to tensors: prompts, each encoded once, and padded batches of prompts with their replies.

Everything is padded on the right; the attention mask hides it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from overworld_vlm.families import Layout
from overworld_vlm.load import VLM
from overworld_vlm.vision import Picture, joined

Message = dict[str, Any]
"""{"role", "content"}: the content a text, or a list of {"type": "text", "text": str} and {"type": "image", "image":
uint8 [height, width, 1 or 3], or a `StoredImage`}."""


class PromptError(ValueError):
    """Messages that cannot become a prompt; the message says why."""


class PromptTooLongError(PromptError):
    """Messages that make a prompt of more tokens than are allowed."""

    def __init__(self, tokens: int, allowed: int) -> None:
        super().__init__(f"the prompt has {tokens} tokens or more, at most {allowed} are allowed")
        self.tokens = tokens


class StoredImage(ABC):
    """An image whose size is known and whose pixels are read when they are needed."""

    shape: tuple[int, int, int]

    @abstractmethod
    def read(self) -> np.ndarray:
        """Its pixels, uint8 of that shape."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Prompt:
    """An encoded prompt, on the CPU, of L tokens.

    ids        int64 [L]
    positions  int64 [axes, L]: one number per token, or temporal, row and column position (M-RoPE)
    next       the position of the first token of the reply
    pictures   its images in order
    """

    ids: Tensor
    positions: Tensor
    next: int
    pictures: tuple[Picture, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"Prompt({len(self)} tokens, {len(self.pictures)} images)"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Batch:
    """B prompts, each followed by a reply or not, padded to L tokens, on the model's device.

    ids [B, L], mask bool [B, L], positions [axes, B, L], pictures of all prompts in order, prompt_lengths [B].
    """

    ids: Tensor
    mask: Tensor
    positions: Tensor
    pictures: tuple[Picture, ...]
    prompt_lengths: Tensor

    def __repr__(self) -> str:
        rows, columns = self.ids.shape
        return f"Batch({rows} x {columns} tokens, {int(self.mask.sum())} of them not padding)"


def encode(
    vlm: VLM, messages: Sequence[Message], seen: Sequence[Picture] = (), *, max_tokens: int | None = None
) -> Prompt:
    """Encodes messages by the model's chat template, with the opening of the assistant's turn.

    Special tokens within texts lose their meaning. `seen` are pictures, an earlier prompt's say, that are used again
    where the messages show the same arrays. Raises PromptError, and PromptTooLongError for a prompt of more than
    `max_tokens`, before texts are tokenised if images alone make it so, and before stored images are read.
    """
    try:
        text = vlm.tokenizer.apply_chat_template(
            template_messages(vlm, messages), tokenize=False, add_generation_prompt=True
        )
    except Exception as error:  # templates are programs and raise what they like
        raise PromptError(f"the model's chat template does not take these messages: {error}") from error
    return encode_rendered(vlm, text, messages, seen, max_tokens=max_tokens)


def template_messages(vlm: VLM, messages: Sequence[Message]) -> list[Message]:
    """Messages as the model's chat template takes them: plain JSON, without pictures and with no special token."""
    plain = [{**message, "content": _without_specials(vlm, message["content"])} for message in messages]
    if vlm.family.content_as_parts:
        plain = [{**message, "content": _parts(message["content"])} for message in plain]
    return plain


def encode_rendered(
    vlm: VLM,
    text: str,
    messages: Sequence[Message],
    seen: Sequence[Picture] = (),
    *,
    max_tokens: int | None = None,
) -> Prompt:
    """As `encode`, of messages that the chat template has made a text of (`template_messages`)."""
    images = [
        _checked(part["image"])
        for message in messages
        if not isinstance(message["content"], str)
        for part in message["content"]
        if part["type"] == "image"
    ]
    pieces = text.split(vlm.family.placeholder)
    if len(pieces) != len(images) + 1:
        raise PromptError("the model's chat template does not show all images")
    try:
        layouts = [vlm.family.layout(*image.shape[:2]) for image in images]
    except ValueError as error:
        raise PromptError(f"an image cannot be used: {error}") from error
    _check_length(sum(layout.tokens(vlm.family.image_token) for layout in layouts), max_tokens)
    text = pieces[0] + "".join(layout.text + piece for layout, piece in zip(layouts, pieces[1:], strict=True))
    try:
        short_ids: list[int] = vlm.tokenizer(text, add_special_tokens=False)["input_ids"]
    except TypeError as error:  # half a surrogate pair, which JSON may hold
        raise PromptError("the messages are not valid Unicode") from error
    if not short_ids:
        raise PromptError("the model's chat template makes an empty prompt of these messages")
    ids = torch.tensor(_expand(vlm, short_ids, layouts))
    _check_length(len(ids), max_tokens)
    pictures = tuple(_picture(vlm, image, seen) for image in images)
    sizes = joined([layout.sizes for layout in layouts])
    positions, following = vlm.family.positions(vlm.core, ids, sizes)
    return Prompt(ids=ids, positions=positions, next=following, pictures=pictures)


def collate(
    vlm: VLM, prompts: Sequence[Prompt], replies: Sequence[Tensor] | None = None, *, multiple_of: int = 1
) -> Batch:
    """A batch of prompts, each followed by its reply (int64 [T]) if there are replies; L is a `multiple_of` that."""
    replies = replies if replies is not None else [torch.empty(0, dtype=torch.int64)] * len(prompts)
    lengths = [len(prompt) + len(reply) for prompt, reply in zip(prompts, replies, strict=True)]
    size = len(prompts), -(-max(lengths) // multiple_of) * multiple_of
    ids = torch.full(size, int(vlm.tokenizer.pad_token_id), dtype=torch.int64)
    mask = torch.zeros(size, dtype=torch.bool)
    positions = torch.zeros((vlm.family.position_axes, *size), dtype=torch.int64)
    for row, (prompt, reply, length) in enumerate(zip(prompts, replies, lengths, strict=True)):
        ids[row, : len(prompt)] = prompt.ids
        ids[row, len(prompt) : length] = reply
        mask[row, :length] = True
        positions[:, row, : len(prompt)] = prompt.positions
        positions[:, row, len(prompt) : length] = prompt.next + torch.arange(len(reply))
    device = vlm.device
    return Batch(
        ids=ids.to(device),
        mask=mask.to(device),
        positions=positions.to(device),
        pictures=tuple(picture for prompt in prompts for picture in prompt.pictures),
        prompt_lengths=torch.tensor([len(prompt) for prompt in prompts], device=device),
    )


def hidden_states(vlm: VLM, batch: Batch, cache: Any = None) -> Tensor:
    """The last layer's hidden states, [B, L, hidden]; fills the cache if there is one."""
    features = vlm.vision(batch.pictures)
    return vlm.family.hidden_states(vlm.core, batch.ids, batch.mask, batch.positions, features, cache)


def split(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Cuts rows of these lengths into batches of at most `tokens` tokens, padding included. Yields their indices.

    Rows of similar length share a batch, so that little is padded; equally long ones stay in order. A row that is
    longer than `tokens` gets a batch of its own.
    """
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: lengths[row]):
        if batch and lengths[row] * (len(batch) + 1) > tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _check_length(tokens: int, allowed: int | None) -> None:
    if allowed is not None and tokens > allowed:
        raise PromptTooLongError(tokens, allowed)


def _checked(image: Any) -> np.ndarray | StoredImage:
    if isinstance(image, StoredImage):
        return image
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3):
        raise PromptError("an image must be uint8 [height, width, 1 or 3]")
    if not image.size:
        raise PromptError("an image must be uint8 [height, width, 1 or 3] with at least one pixel")
    return image


def _without_specials(vlm: VLM, content: Any) -> Any:
    if isinstance(content, str):
        for special in vlm.special_texts:
            if special in content:  # a zero-width space keeps it readable and makes it ordinary text
                content = content.replace(special, special[0] + "\u200b" + special[1:])
        return content
    parts: list[dict[str, Any]] = []
    before, longest = "", max(map(len, vlm.special_texts), default=0)
    for part in content:
        if part["type"] != "text":
            parts.append({"type": "image"})
            before = ""
            continue
        text = _without_specials(vlm, part["text"])
        if any(special in before + text for special in vlm.special_texts):  # it spans several texts
            text = "\u200b" + text
        parts.append({**part, "text": text})
        before = (before + text)[-longest:]
    return parts


def _parts(content: Any) -> list[dict[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _picture(vlm: VLM, image: np.ndarray | StoredImage, seen: Sequence[Picture]) -> Picture:
    if isinstance(image, StoredImage):
        pixels = image.read()
        if pixels.shape != image.shape:
            raise PromptError(f"an image of {list(pixels.shape)} was said to be {list(image.shape)}")
        return Picture.of(pixels, vlm.family)
    return next((picture for picture in seen if picture.pixels is image), None) or Picture.of(image, vlm.family)


def _expand(vlm: VLM, short_ids: list[int], layouts: Sequence[Layout]) -> list[int]:
    """Repeats each image token as often as its picture's layout says."""
    family = vlm.family
    runs = [layout.run for layout in layouts for _ in range(layout.text.count(family.image_token))]
    if short_ids.count(family.image_token_id) != len(runs):
        raise PromptError("the model's chat template shows image tokens that belong to no image")
    following = iter(runs)
    ids: list[int] = []
    for token in short_ids:
        ids += [token] * (next(following) if token == family.image_token_id else 1)
    return ids
