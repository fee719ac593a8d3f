"""From chat messages to tensors: prompts, each encoded once, and padded batches of prompts with their replies.

Everything is padded on the right; the attention mask hides it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from overworld_vlm.load import VLM

Message = dict[str, Any]
"""{"role", "content"}: the content a text, or a list of {"type": "text", "text": str} and {"type": "image", "image":
uint8 [height, width, 1 or 3]}."""


class PromptError(ValueError):
    """Messages that cannot become a prompt; the message says why."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Prompt:
    """An encoded prompt, on the CPU. L tokens, P patches, n images.

    ids        int64 [L]
    positions  int64 [3, L]: temporal, row and column position (M-RoPE)
    next       the position of the first token of the reply
    patches    [P, patch size] in the model's type, or None without images
    grids      int64 [n, 3]: each image's patches in time, rows, columns
    """

    ids: Tensor
    positions: Tensor
    next: int
    patches: Tensor | None
    grids: Tensor

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"Prompt({len(self)} tokens, {len(self.grids)} images)"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Batch:
    """B prompts, each followed by a reply or not, padded to L tokens, on the model's device.

    ids [B, L], mask bool [B, L], positions [3, B, L], patches [sum of P, patch size] or None, grids [sum of n, 3],
    prompt_lengths [B].
    """

    ids: Tensor
    mask: Tensor
    positions: Tensor
    patches: Tensor | None
    grids: Tensor
    prompt_lengths: Tensor

    def __repr__(self) -> str:
        rows, columns = self.ids.shape
        return f"Batch({rows} x {columns} tokens, {int(self.mask.sum())} of them not padding, {len(self.grids)} images)"


def encode(vlm: VLM, messages: Sequence[Message]) -> Prompt:
    """Encodes messages by the model's chat template, with the opening of the assistant's turn.

    Special tokens within texts lose their meaning. Raises PromptError.
    """
    images = [
        _rgb(part["image"])
        for message in messages
        if not isinstance(message["content"], str)
        for part in message["content"]
        if part["type"] == "image"
    ]
    plain = [{**message, "content": _without_specials(vlm, message["content"])} for message in messages]
    try:
        text = vlm.tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # templates are programs and raise what they like
        raise PromptError(f"the model's chat template does not take these messages: {error}") from error
    try:
        template_ids: list[int] = vlm.tokenizer(text, add_special_tokens=False)["input_ids"]
    except TypeError as error:  # half a surrogate pair, which JSON may hold
        raise PromptError("the messages are not valid Unicode") from error
    if template_ids.count(vlm.image_token_id) != len(images):
        raise PromptError("the model's chat template does not show all images")
    patches, grids = None, torch.zeros((0, 3), dtype=torch.int64)
    if images:
        try:
            processed = vlm.image_processor(images=images, return_tensors="pt", input_data_format="channels_last")
        except ValueError as error:
            raise PromptError(f"an image cannot be used: {error}") from error
        patches, grids = processed["pixel_values"].to(vlm.dtype), processed["image_grid_thw"]
    ids = torch.tensor(_expand(vlm, template_ids, grids))
    positions, following = _positions(vlm, ids, grids)
    return Prompt(ids=ids, positions=positions, next=following, patches=patches, grids=grids)


def collate(vlm: VLM, prompts: Sequence[Prompt], replies: Sequence[Tensor] | None = None) -> Batch:
    """A batch of prompts, each followed by its reply (int64 [T]) if there are replies."""
    replies = replies if replies is not None else [torch.empty(0, dtype=torch.int64)] * len(prompts)
    lengths = [len(prompt) + len(reply) for prompt, reply in zip(prompts, replies, strict=True)]
    size = len(prompts), max(lengths)
    ids = torch.full(size, int(vlm.tokenizer.pad_token_id), dtype=torch.int64)
    mask = torch.zeros(size, dtype=torch.bool)
    positions = torch.zeros((3, *size), dtype=torch.int64)
    for row, (prompt, reply, length) in enumerate(zip(prompts, replies, lengths, strict=True)):
        ids[row, : len(prompt)] = prompt.ids
        ids[row, len(prompt) : length] = reply
        mask[row, :length] = True
        positions[:, row, : len(prompt)] = prompt.positions
        positions[:, row, len(prompt) : length] = prompt.next + torch.arange(len(reply))
    patches = [prompt.patches for prompt in prompts if prompt.patches is not None]
    device = vlm.device
    return Batch(
        ids=ids.to(device),
        mask=mask.to(device),
        positions=positions.to(device),
        patches=torch.cat(patches).to(device) if patches else None,
        grids=torch.cat([prompt.grids for prompt in prompts]).to(device),
        prompt_lengths=torch.tensor([len(prompt) for prompt in prompts], device=device),
    )


def hidden_states(vlm: VLM, batch: Batch, cache: Any = None) -> Tensor:
    """The last layer's hidden states, [B, L, hidden]. Fills `cache` if it is given."""
    output = vlm.core.model(
        input_ids=batch.ids,
        attention_mask=batch.mask,
        position_ids=batch.positions,
        pixel_values=batch.patches,
        image_grid_thw=batch.grids if batch.patches is not None else None,
        past_key_values=cache,
        use_cache=cache is not None,
    )
    hidden: Tensor = output.last_hidden_state
    return hidden


def _rgb(image: Any) -> np.ndarray:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3):
        raise PromptError("an image must be uint8 [height, width, 1 or 3]")
    if not image.size:
        raise PromptError("an image must be uint8 [height, width, 1 or 3] with at least one pixel")
    return image if image.shape[2] == 3 else np.repeat(image, 3, 2)


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


def _expand(vlm: VLM, template_ids: list[int], grids: Tensor) -> list[int]:
    """Repeats each image's token once per patch group."""
    counts = iter((grids.prod(1) // vlm.image_processor.merge_size**2).tolist())
    ids: list[int] = []
    for token in template_ids:
        ids += [token] * (next(counts) if token == vlm.image_token_id else 1)
    return ids


def _positions(vlm: VLM, ids: Tensor, grids: Tensor) -> tuple[Tensor, int]:
    """The prompt's positions, [3, L], and that of the first token after it."""
    if not len(grids):
        return torch.arange(len(ids)).expand(3, -1), len(ids)
    positions, _ = vlm.core.model.get_rope_index(
        ids[None], mm_token_type_ids=(ids == vlm.image_token_id).int()[None], image_grid_thw=grids
    )
    return positions[:, 0], int(positions.max()) + 1
