"""The policy server's settings."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from overworld.service.settings import Settings, is_loopback
from pydantic import Field, model_validator


class PolicyServerConfig(Settings):
    """Serves checkpoints through an OpenAI-compatible API."""

    runs: Path = Field(default=Path("runs"), description="folder of training runs; their checkpoints are models")
    base: Path | None = Field(default=None, description="a model folder to serve under the name base")
    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: int = Field(default=8000, ge=0, le=65535, description="port to listen on; 0 chooses a free one")
    api_key: str = Field(default="", description="key that clients must send", repr=False, exclude=True)
    insecure: bool = Field(default=False, description="allow listening beyond loopback without a key")
    device: str = Field(default="auto", description="cpu, cuda, cuda:1, ...; auto: a GPU if there is one")
    dtype: Literal["float32", "bfloat16"] = Field(default="float32", description="type of the weights")
    threads: int = Field(default=0, ge=0, description="CPU threads of torch; 0: its own choice")
    max_loaded: int = Field(
        default=4, ge=1, description="models kept in memory; the least recently used one goes first"
    )
    max_batch: int = Field(default=64, ge=1, description="replies written at once per model")
    max_waiting: int = Field(default=256, ge=1, description="requests in flight; further ones get status 429")
    max_tokens: int = Field(default=1024, ge=1, description="longest reply, and its length where a request names none")
    max_messages: int = Field(default=256, ge=1, description="messages per request")
    max_images: int = Field(default=128, ge=1, description="images per request")
    max_request_bytes: int = Field(default=64 << 20, ge=1024, description="size of a request")
    max_image_pixels: int = Field(default=16_000_000, ge=1, description="height x width of an image as sent")
    max_total_pixels: int = Field(default=64_000_000, ge=1, description="the same, of all images of a request together")
    min_pixels: int | None = Field(
        default=None, ge=784, description="images are enlarged to this; null: as each model was saved"
    )
    max_pixels: int | None = Field(
        default=None, ge=784, description="images are shrunk to this; null: as each model was saved"
    )
    tiling: bool | None = Field(
        default=None, description="whether large images are cut into tiles; null: as each model was saved, or off"
    )

    @model_validator(mode="after")
    def _check(self) -> PolicyServerConfig:
        if not self.api_key and not self.insecure and not is_loopback(self.host):
            raise ValueError(
                f"listening on {self.host} without a key lets anyone in reach use this server: set OVERWORLD_API_KEY, "
                "or listen on 127.0.0.1, or say insecure=true"
            )
        return self
