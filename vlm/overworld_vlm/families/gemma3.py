"""Gemma 3: square images of a fixed number of tokens that attend to one another both ways; most layers see a window."""

from __future__ import annotations

import numpy as np
from torch import Tensor
from transformers import Gemma3ForConditionalGeneration
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

from overworld_vlm.families.family import Family, Processed, tiles

_PAN_AND_SCAN = {
    "pan_and_scan_min_crop_size": 256,
    "pan_and_scan_max_num_crops": 4,
    "pan_and_scan_min_ratio_to_activate": 1.2,
}
"""Gemma3Processor's settings, where the image processor has none."""


class Gemma3(Family):
    """https://arxiv.org/abs/2503.19786."""

    model_class = Gemma3ForConditionalGeneration
    image_processor_class = Gemma3ImageProcessorPil
    vision_lora_targets = r".*vision_tower.*\.(q_proj|k_proj|v_proj|out_proj|fc1|fc2)"
    vision = ("vision_tower", "multi_modal_projector")
    end_of_turn = "<end_of_turn>"
    causal = False
    tiling_switch = "do_pan_and_scan"

    @property
    def placeholder(self) -> str:
        """The token that begins an image."""
        return str(self.tokenizer.convert_ids_to_tokens(self.config.boi_token_id))

    def process(self, image: np.ndarray) -> Processed:
        """The image, then crops of it if tiling is on, with Gemma3Processor's words around them."""
        processed = self.image_processor(images=[image], return_tensors="pt", input_data_format="channels_last")
        pixels = tiles(processed, self.config.vision_config.image_size)
        end = self.tokenizer.convert_ids_to_tokens(self.config.eoi_token_id)
        text = whole = f"\n\n{self.placeholder}{self.image_token}{end}\n\n"
        crops = len(pixels) - 1
        if crops:
            text = (
                f"Here is the original image {whole} and here are some crops to help you see better "
                f"{' '.join([whole] * crops)}"
            )
        return Processed({"pixel_values": pixels}, text, self.config.mm_tokens_per_image)

    def set_images(
        self, min_pixels: int | None = None, max_pixels: int | None = None, tiling: bool | None = None
    ) -> None:
        """Sets whether wide and tall images are cropped, too (pan and scan)."""
        super().set_images(min_pixels, max_pixels, tiling)
        for name, value in _PAN_AND_SCAN.items():
            if getattr(self.image_processor, name, None) is None:
                setattr(self.image_processor, name, value)

    def arguments(self, ids: Tensor) -> dict[str, Tensor]:
        """Image tokens are marked: from them the model makes its masks."""
        return {"token_type_ids": (ids == self.image_token_id).long()}
