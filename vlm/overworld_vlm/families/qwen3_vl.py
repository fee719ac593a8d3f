"""Qwen3-VL (dense): as Qwen2-VL, with patches of 16 pixels that also enter the language model's first layers.

The model adds those deeper features (DeepStack) itself, from the same inputs.
"""

from __future__ import annotations

from transformers import Qwen3VLForConditionalGeneration

from overworld_vlm.families.qwen2_vl import Qwen2VL


class Qwen3VL(Qwen2VL):
    """https://arxiv.org/abs/2511.21631."""

    model_class = Qwen3VLForConditionalGeneration
    vision_lora_targets = r".*visual\.blocks\..*\.(qkv|proj|linear_fc1|linear_fc2)"
