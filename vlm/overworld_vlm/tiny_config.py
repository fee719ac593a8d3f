"""Sizes of the tiny model, without torch: settings hold them, and are read before it is imported."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class TinyConfig(BaseModel):
    """Sizes of the tiny model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    hidden_size: int = Field(default=96, ge=16, description="width of the language model and of the vision tower")
    layers: int = Field(default=2, ge=1, description="layers of the language model")
    heads: int = Field(default=4, ge=1, description="attention heads; half as many for keys and values")
    intermediate_size: int = Field(default=256, ge=16, description="width of the language model's MLPs")
    vision_layers: int = Field(default=2, ge=1, description="layers of the vision tower")
    vocab_size: int = Field(default=512, ge=300, description="tokens, special ones and the 256 bytes included")
    image_mean: float = Field(default=1.0, ge=0, le=1, description="brightness of an image's background; 1 is white")
    image_std: float = Field(
        default=0.4, gt=0, description="how far brightness strays from image_mean: that of the env's frames, roughly"
    )
