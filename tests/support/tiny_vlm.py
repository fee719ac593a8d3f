"""A small model, pictures and prompts for the tests of model and trainer."""

import numpy as np
import torch
from overworld.authoring.env import Pixels
from overworld_vlm.batch import Message, Prompt, encode
from overworld_vlm.load import VLM
from overworld_vlm.tiny import make_tiny
from overworld_vlm.tiny_config import TinyConfig
from overworld_vlm.vision import joined, rgb

TEXTS = [
    f'Count to three.\ncount {count}\nActions: "up", "down", "raise"\nReply: {{"thoughts": "...", "action": "..."}}'
    for count in range(3)
] + ['{"thoughts": "The count is 1.", "action": "up"}', "The target is 3 and the current number is 2: go up."]

SIZES = TinyConfig(hidden_size=32, intermediate_size=64, vision_layers=1, vocab_size=340)


def make_vlm(seed: int = 0) -> VLM:
    return make_tiny(TEXTS, SIZES, seed)


def picture(seed: int, height: int = 28, width: int = 28, channels: int = 3) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def user(*parts: str | Pixels) -> Message:
    """A user message with these texts and pictures."""
    content = [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": part} for part in parts
    ]
    return {"role": "user", "content": content}


MIXED = [
    user("Go."),
    user(picture(1), "count 1"),
    user(picture(2, 56, 30), picture(3, 28, 84), "The target is 3."),
    user("count 2", picture(4, 60, 60, 1), "or", picture(5), picture(6, 30, 90), "Reply: up, down or something else"),
    user(picture(7, 84, 28)),
    user("a much longer text without any picture, " * 4),
]
"""Prompts of many lengths, with no, one and several pictures of several sizes."""


def mixed_prompts(vlm: VLM) -> list[Prompt]:
    return [encode(vlm, [message]) for message in MIXED]


def media(vlm: VLM, prompt: Prompt) -> dict[str, torch.Tensor]:
    """What the vision tower sees of a prompt's pictures, by the names of the model's arguments."""
    return joined([vlm.family.process(rgb(one.pixels)).media for one in prompt.pictures])


def pixels(vlm: VLM, prompt: Prompt) -> torch.Tensor:
    """The pixels among them."""
    return media(vlm, prompt)["pixel_values"]
