"""SmolVLM and SmolVLM2: square images, each between tokens that say which tile of a frame it is."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor
from transformers import SmolVLMForConditionalGeneration
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from overworld_vlm.families.family import LINEAR, Family, Processed

_FAKE, _GLOBAL = "<fake_token_around_image>", "<global-img>"


class SmolVLM(Family):
    """https://arxiv.org/abs/2504.05299."""

    model_class = SmolVLMForConditionalGeneration
    image_processor_class = SmolVLMImageProcessorPil
    lora_targets = rf".*text_model.*\.{LINEAR}"
    vision_lora_targets = r".*vision_model.*\.(q_proj|k_proj|v_proj|out_proj|fc1|fc2)"
    vision = ("vision_model", "connector")
    end_of_turn = "<end_of_utterance>"
    tiling_switch = "do_image_splitting"
    content_as_parts = True

    def process(self, image: np.ndarray) -> Processed:
        """The tiles row by row, if tiling is on, then the whole image, laid out as SmolVLMProcessor does it."""
        processed = self.image_processor(
            images=[image], return_tensors="pt", input_data_format="channels_last", return_row_col_info=True
        )
        pixels = processed["pixel_values"][0]  # every tile has the vision tower's size, so none is padded
        rows, columns = int(processed["rows"][0][0]), int(processed["cols"][0][0])
        text = ""
        for row in range(1, rows + 1):
            for column in range(1, columns + 1):
                text += f"{_FAKE}<row_{row}_col_{column}>{self.image_token}"
            text += "\n"
        text += "\n" if rows else ""
        text += f"{_FAKE}{_GLOBAL}{self.image_token}{_FAKE}"
        patches = (pixels.shape[-1] // self.config.vision_config.patch_size) ** 2
        return Processed({"pixel_values": pixels}, text, patches // self.config.scale_factor**2)

    def vision_arguments(self, media: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The model wants tiles per prompt, but uses only their order: they all go to the first."""
        return {name: tensor[None] for name, tensor in media.items()}
