"""Checkpoints of tiny models, and adapters that do something."""

from pathlib import Path
from typing import Any

import torch
from overworld_vlm import checkpoint
from overworld_vlm.checkpoint import Manifest
from overworld_vlm.load import VLM
from peft import LoraConfig, get_peft_model

TEXTS = ['{"thoughts": "The target is 3 and the current number is 5.", "action": "+"}', "Say something. " * 3] * 40


def write(folder: Path, vlm: VLM, update: int, base: Path | None = None) -> Manifest:
    return checkpoint.write(
        folder,
        vlm,
        run=folder.parents[1].name,
        update=update,
        env_steps=update * 100,
        base=base,
        critic=None,
        write_trainer=None,
        recipe={"history": 2, "reply": "action", "turns_left": False},
        config={"envs": [{"id": "gym_cards/NumberLine", "options": {"size": 56}}]},
        provenance={"gym_cards/NumberLine": {"rules": "test"}},
        used_expert=False,
    )


def with_adapter(vlm: VLM, seed: int, **settings: Any) -> VLM:
    """The model with an adapter that does something; `settings` are PEFT's."""
    defaults = {"r": 4, "lora_alpha": 64, "target_modules": vlm.family.lora_targets, "init_lora_weights": False}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return VLM(
            get_peft_model(vlm.model, LoraConfig(**defaults | settings)).eval(), vlm.tokenizer, vlm.image_processor
        )
