"""Between the SDK's words and the model's tokens: messages to prompts, replies to tokens and back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from overworld.evaluation.conversation import Message
from overworld_vlm.batch import Prompt, encode
from overworld_vlm.load import VLM
from torch import Tensor


def encode_messages(vlm: VLM, messages: Sequence[Message], previous: Prompt | None = None) -> Prompt:
    """The prompt that a conversation's messages make. Raises PromptError.

    `previous` is the conversation's latest prompt: the frames that it shows, too, are shared with it.
    """
    return encode(vlm, as_arrays(messages), previous.pictures if previous is not None else ())


def as_arrays(messages: Sequence[Message]) -> list[Message]:
    """A conversation's messages with plain pixel arrays, uint8 [height, width, 1 or 3], as the model takes them."""
    return [
        {
            **message,
            "content": [
                {"type": "image", "image": part["image"].pixels} if part["type"] == "image" else part
                for part in message["content"]
            ],
        }
        for message in messages
    ]


def encode_reply(vlm: VLM, reply: str) -> Tensor:
    """A reply as the model should write it, int64 [T]: the token that ends a turn is its last."""
    ids = vlm.tokenizer(reply, add_special_tokens=False)["input_ids"]
    return torch.tensor([*ids, vlm.end_id])


def decode_reply(vlm: VLM, tokens: Sequence[int]) -> str:
    """The text of a reply, without EOS."""
    text: str = vlm.tokenizer.decode(tokens, skip_special_tokens=True)
    return text


def count_thinking(vlm: VLM, tokens: Sequence[int]) -> int:
    """Tokens of a reply before the one in which the key "action" begins; all of them if there is none.

    Counted in the tokenizer's byte-level pieces.
    """
    pieces = vlm.tokenizer.convert_ids_to_tokens(tokens)
    at = "".join(pieces).rfind('"action"')
    if at < 0:
        return len(tokens)
    length = 0
    for index, piece in enumerate(pieces):
        length += len(piece)
        if length > at:
            return index
    return len(tokens)
