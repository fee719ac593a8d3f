"""Qwen2-VL: images of any size, a token per 2 x 2 patches, positions in time, rows and columns (M-RoPE)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize

from overworld_vlm.families.family import Family, Layout, Processed


class Qwen2VL(Family):
    """https://arxiv.org/abs/2409.12191."""

    model_class = Qwen2VLForConditionalGeneration
    image_processor_class = Qwen2VLImageProcessorPil
    vision_lora_targets = r".*visual\.blocks\..*\.(qkv|proj|fc1|fc2)"
    vision = ("visual",)
    position_axes = 3

    def process(self, image: np.ndarray) -> Processed:
        """One image token per group of patches, as Qwen2VLProcessor has it."""
        processed = self.image_processor(images=[image], return_tensors="pt", input_data_format="channels_last")
        grid = processed["image_grid_thw"]
        media = {"pixel_values": processed["pixel_values"], "image_grid_thw": grid}
        return Processed(media, self.image_token, int(grid.prod()) // self.image_processor.merge_size**2)

    def _layout(self, height: int, width: int) -> Layout:
        """By arithmetic: large images are counted before they are read."""
        processor = self.image_processor
        if not processor.do_resize:
            return super()._layout(height, width)
        size, patch, merge = processor.size, processor.patch_size, processor.merge_size
        resized = smart_resize(
            height, width, patch * merge, min_pixels=size.shortest_edge, max_pixels=size.longest_edge
        )
        grid = torch.tensor([[1, resized[0] // patch, resized[1] // patch]])
        return Layout(self.image_token, int(grid.prod()) // merge**2, {"image_grid_thw": grid})

    def set_images(
        self, min_pixels: int | None = None, max_pixels: int | None = None, tiling: bool | None = None
    ) -> None:
        """Sets how large images are."""
        if tiling:
            raise ValueError(
                f"a {self.config.model_type} model takes images whole: leave tiling off and set max_pixels instead"
            )
        size = dict(self.image_processor.size)
        low = size.get("shortest_edge") if min_pixels is None else min_pixels
        high = size.get("longest_edge") if max_pixels is None else max_pixels
        if not (isinstance(low, int) and isinstance(high, int) and 0 < low <= high):
            raise ValueError(
                f"images are bounded by min_pixels = {low!r} and max_pixels = {high!r}, which must be whole numbers "
                "with 0 < min_pixels <= max_pixels: set both, or correct the size in preprocessor_config.json"
            )
        self.image_processor.size = type(self.image_processor.size)(shortest_edge=low, longest_edge=high)
        self.layout.cache_clear()

    def positions(self, model: Any, ids: Tensor, sizes: Mapping[str, Tensor]) -> tuple[Tensor, int]:
        """M-RoPE, by the model's own rule."""
        if not sizes:
            return super().positions(model, ids, sizes)
        positions, _ = model.model.get_rope_index(
            ids[None],
            mm_token_type_ids=(ids == self.image_token_id).int()[None],
            image_grid_thw=sizes["image_grid_thw"],
        )
        return positions[:, 0], int(positions.max()) + 1
