"""What differs between model families. To add one, write a subclass in a file here and enter it in `FAMILIES`."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

LINEAR = r"(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
"""The linear layers of a language model's block, by the names that all of them use."""

_MAX_LAYOUTS = 256


@dataclass(frozen=True, slots=True, eq=False)
class Processed:
    """What an image processor makes of an image.

    media  the vision tower's input, by the names of the model's arguments; the first axis counts patches, tiles or
           images, so that the media of several images are joined along it
    text   what the prompt shows in place of the chat template's placeholder
    run    image tokens that each image token in `text` stands for
    """

    media: dict[str, Tensor]
    text: str
    run: int


@dataclass(frozen=True, slots=True)
class Layout:
    """How images of one size are laid out in a prompt: `text` and `run` as in `Processed`, and the part of the media
    that does not depend on the pixels, such as the grid of patches.
    """

    text: str
    run: int
    sizes: dict[str, Tensor]

    def tokens(self, image_token: str) -> int:
        """Image tokens that an image takes."""
        return self.run * self.text.count(image_token)


class Family(ABC):
    """One family's knowledge of a loaded model: `config` of the model, its tokenizer and its image processor."""

    model_class: ClassVar[Any]
    """The Hugging Face class: a `model` that gives hidden states and an `lm_head`."""
    image_processor_class: ClassVar[Any]
    """The variant that needs Pillow only."""
    lora_targets: ClassVar[str] = rf".*language_model.*\.{LINEAR}"
    """Regular expression of the modules that get adapters: the language model's linear layers."""
    vision_lora_targets: ClassVar[str]
    """Regular expression of the vision tower's linear layers, for whoever wants to adapt it too."""
    vision: ClassVar[tuple[str, ...]]
    """The modules of `model` that turn pixels into image tokens: with these frozen, a frame's features are constant."""
    end_of_turn: ClassVar[str] = "<|im_end|>"
    """The token that the chat template ends the assistant's turn with."""
    position_axes: ClassVar[int] = 1
    """Numbers that make up a token's position."""
    causal: ClassVar[bool] = True
    """Whether every token attends to those before it and to no other. Then what pads a prompt on the right needs no
    mask, and attention takes its fastest kernels, which know none."""
    tiling_switch: ClassVar[str | None] = None
    """The image processor's attribute that turns tiling on; None in a family that never cuts an image into tiles."""
    content_as_parts: ClassVar[bool] = False
    """Whether the chat template takes a message's content only as a list of parts."""

    def __init__(self, config: Any, tokenizer: PreTrainedTokenizerBase, image_processor: Any) -> None:
        self.config = config
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.layout = functools.lru_cache(_MAX_LAYOUTS)(self._layout)
        """(height, width) -> the `Layout` of images of that size. Raises ValueError if they cannot be used."""

    @property
    def image_token_id(self) -> int:
        """The token whose embedding is replaced by a part of an image."""
        token: int = self.config.image_token_id
        return token

    @property
    def image_token(self) -> str:
        """The text of that token."""
        text: str = self.tokenizer.convert_ids_to_tokens(self.image_token_id)
        return text

    @property
    def placeholder(self) -> str:
        """What the chat template shows an image as."""
        return self.image_token

    @abstractmethod
    def process(self, image: np.ndarray) -> Processed:
        """Processes an image, uint8 [height, width, 3]. Raises ValueError if it cannot be used."""

    def _layout(self, height: int, width: int) -> Layout:
        processed = self.process(np.zeros((height, width, 3), np.uint8))
        sizes = {name: tensor for name, tensor in processed.media.items() if not tensor.is_floating_point()}
        return Layout(processed.text, processed.run, sizes)

    def image_tokens(self, height: int, width: int) -> int:
        """Tokens that an image of this size takes in a prompt, without what the chat template puts around it."""
        layout = self.layout(height, width)
        ids = self.tokenizer(layout.text, add_special_tokens=False)["input_ids"]
        return sum(layout.run if token == self.image_token_id else 1 for token in ids)

    def set_images(
        self, min_pixels: int | None = None, max_pixels: int | None = None, tiling: bool | None = None
    ) -> None:
        """Sets how images are resized and cut. Raises ValueError for a setting that the family does not have.

        min_pixels, max_pixels  bounds of the area that an image is resized to; None leaves the image processor's
        tiling                  whether large images are cut into tiles; None: as when the image processor was last
                                saved with this setting, otherwise off
        """
        if min_pixels is not None or max_pixels is not None:
            raise ValueError(
                f"a {self.config.model_type} model takes images of one size only: leave min_pixels and max_pixels unset"
            )
        assert self.tiling_switch is not None
        if tiling is None:
            tiling = bool(getattr(self.image_processor, "tiling", False))
        self.image_processor.tiling = tiling  # saved with the image processor's other attributes
        setattr(self.image_processor, self.tiling_switch, tiling)
        self.layout.cache_clear()

    def positions(self, model: Any, ids: Tensor, sizes: Mapping[str, Tensor]) -> tuple[Tensor, int]:
        """The positions of a prompt, int64 [axes, L], and the one after it, which its reply starts at.

        sizes  those of the layouts of its images, joined
        """
        return torch.arange(len(ids)).expand(self.position_axes, -1), len(ids)

    def features(self, model: Any, media: Mapping[str, Tensor]) -> Tensor:
        """What the vision tower makes of images, [levels, image tokens, hidden], the images' tokens in order.

        Level 0 takes the place of the image tokens' embeddings; further ones enter later layers.
        """
        output = model.model.get_image_features(**self.vision_arguments(media), return_dict=True)
        return rows(output.pooler_output)[None]

    def hidden_states(
        self,
        model: Any,
        ids: Tensor,
        mask: Tensor | dict[str, Tensor],
        positions: Tensor,
        features: Tensor | None = None,
        cache: Any = None,
    ) -> Tensor:
        """The last layer's hidden states, [B, L, hidden]; fills the cache if there is one.

        model      the Hugging Face model
        ids        int64 [B, L]
        mask       bool [B, L], where tokens are, with no padding before them; or, with a cache that is filled, as
                   `SlotCache` gives it
        positions  int64 [axes, B, L]
        features   of the batch's images, in order; None where there are none
        """
        padded = isinstance(mask, Tensor) and mask.ndim == 2
        shared = {
            "attention_mask": None if padded and self.causal else mask,
            "position_ids": positions[0] if self.position_axes == 1 else positions,
            "past_key_values": cache,
            "use_cache": cache is not None,
            **self.arguments(ids),
        }
        if features is not None:
            return self.read_features(model, ids, features, shared)
        hidden: Tensor = model.model(input_ids=ids, **shared).last_hidden_state
        return hidden

    def read_features(self, model: Any, ids: Tensor, features: Tensor, shared: Mapping[str, Any]) -> Tensor:
        """Hidden states from the `features` of all images; `shared`: the forward's other arguments."""
        output = model.model(inputs_embeds=self.embeddings(model, ids, features), **shared)
        hidden: Tensor = output.last_hidden_state
        return hidden

    def embeddings(self, model: Any, ids: Tensor, features: Tensor) -> Tensor:
        """What the language model's first layer sees, [B, L, hidden]."""
        embeddings: Tensor = model.get_input_embeddings()(ids)
        at = (ids == self.image_token_id)[..., None]
        return embeddings.masked_scatter(at, features[0].to(embeddings))

    def vision_arguments(self, media: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the vision tower takes of images."""
        return dict(media)

    def arguments(self, ids: Tensor) -> dict[str, Tensor]:
        """What the model's forward takes besides tokens, images, mask, positions and cache."""
        return {}


def tiles(processed: Mapping[str, Tensor], size: int | Sequence[int]) -> Tensor:
    """The tiles of a processed image, [n, 3, size, size]. Raises ValueError if the vision tower takes another size."""
    pixels = processed["pixel_values"]
    wanted = (size, size) if isinstance(size, int) else tuple(size)
    if pixels.shape[-2:] != wanted:
        raise ValueError(f"it makes images of {tuple(pixels.shape[-2:])} pixels, and the model takes those of {wanted}")
    return pixels


def rows(features: Tensor | Sequence[Tensor]) -> Tensor:
    """Image tokens in order, [tokens, hidden], from however a model groups them by image."""
    if not isinstance(features, Tensor):
        return torch.cat([rows(one) for one in features])
    return features.flatten(0, -2)
