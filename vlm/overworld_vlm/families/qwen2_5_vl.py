"""Qwen2.5-VL: as Qwen2-VL, with a vision tower that attends within windows."""

from __future__ import annotations

from transformers import Qwen2_5_VLForConditionalGeneration

from overworld_vlm.families.qwen2_vl import Qwen2VL


class Qwen25VL(Qwen2VL):
    """https://arxiv.org/abs/2502.13923."""

    model_class = Qwen2_5_VLForConditionalGeneration
    vision_lora_targets = r".*visual\.blocks\..*\.(qkv|proj|gate_proj|up_proj|down_proj)"
