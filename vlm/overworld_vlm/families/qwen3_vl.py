"""Qwen3-VL (dense): as Qwen2-VL, with patches of 16 pixels that also enter the language model's first layers.

The model adds those deeper features (DeepStack) itself, from the same inputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen3VLForConditionalGeneration

from overworld_vlm.families.family import rows
from overworld_vlm.families.qwen2_vl import Qwen2VL


class Qwen3VL(Qwen2VL):
    """https://arxiv.org/abs/2511.21631."""

    model_class = Qwen3VLForConditionalGeneration
    vision_lora_targets = r".*visual\.blocks\..*\.(qkv|proj|linear_fc1|linear_fc2)"

    def features(self, model: Any, media: Mapping[str, Tensor]) -> Tensor:
        """A level for each layer that DeepStack feeds, after the embeddings."""
        output = model.model.get_image_features(**media, return_dict=True)
        return torch.stack([rows(output.pooler_output), *map(rows, output.deepstack_features)])

    def read_features(self, model: Any, ids: Tensor, features: Tensor, shared: Mapping[str, Any]) -> Tensor:
        """The deeper levels go to the language model, past the forward that would compute them."""
        embeddings = self.embeddings(model, ids, features)
        output = model.model.language_model(
            inputs_embeds=embeddings,
            visual_pos_masks=ids == self.image_token_id,
            deepstack_visual_embeds=list(features[1:].to(embeddings)),
            **shared,
        )
        hidden: Tensor = output.last_hidden_state
        return hidden
