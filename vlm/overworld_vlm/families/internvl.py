"""InternVL, from version 3, as ported to Hugging Face: square images, with tiling followed by a thumbnail."""

from __future__ import annotations

import numpy as np
from transformers import InternVLForConditionalGeneration
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

from overworld_vlm.families.family import Family, Processed, tiles


class InternVL(Family):
    """https://arxiv.org/abs/2504.10479."""

    model_class = InternVLForConditionalGeneration
    image_processor_class = GotOcr2ImageProcessorPil
    vision_lora_targets = r".*vision_tower.*\.(q_proj|k_proj|v_proj|projection_layer|fc1|fc2)"
    vision = ("vision_tower", "multi_modal_projector")
    tiling_switch = "crop_to_patches"

    def process(self, image: np.ndarray) -> Processed:
        """All tiles' tokens between one start and one end, as InternVLProcessor has it."""
        processed = self.image_processor(images=[image], return_tensors="pt", input_data_format="channels_last")
        pixels = tiles(processed, self.config.vision_config.image_size)
        run = len(pixels) * self.config.image_seq_length
        return Processed({"pixel_values": pixels}, f"<img>{self.image_token}</img>", run)
