"""The policy server's settings."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from overworld.service.addresses import is_loopback
from overworld.service.settings import Settings
from pydantic import Field, model_validator


class PolicyServerConfig(Settings):
    """Serves checkpoints through an OpenAI-compatible API."""

    runs: Path = Field(default=Path("runs"), description="folder of training runs; their checkpoints are models")
    base: Path | None = Field(default=None, description="a model folder to serve under the name base")
    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: int = Field(default=8000, ge=0, le=65535, description="port to listen on; 0 chooses a free one")
    api_key: str = Field(default="", description="key that clients must send", repr=False, exclude=True)
    api_keys: Path | None = Field(
        default=None,
        description="file of lines `client: key` instead, two keys per client at most; read again when it changes",
    )
    tls: Path | None = Field(
        default=None, description="folder with tls.crt and tls.key, for HTTPS; read again when they change"
    )
    client_certificates: bool = Field(
        default=False, description="ask clients for certificates that the ca.crt of tls has issued; probes, too"
    )
    plaintext: bool = Field(default=False, description="allow listening beyond loopback without TLS")
    insecure: bool = Field(default=False, description="allow listening beyond loopback without a key")
    device: str = Field(default="auto", description="cpu, cuda, cuda:1, ...; auto: a GPU if there is one")
    dtype: Literal["float32", "bfloat16"] = Field(default="float32", description="type of the weights")
    threads: int = Field(default=0, ge=0, description="CPU threads of torch; 0: its own choice")
    max_loaded: int = Field(
        default=4, ge=1, description="models kept in memory; the least recently used one goes first"
    )
    max_batch: int = Field(default=64, ge=1, description="replies written at once per model")
    max_waiting: int = Field(default=256, ge=1, description="requests in flight; further ones get status 429")
    max_waiting_per_client: int | None = Field(
        default=None, ge=1, description="the same, of the clients that api_keys names, for each; null: no bound"
    )
    default_max_tokens: int = Field(
        default=1024, ge=1, description="longest reply where a request does not say; the limit is the model's context"
    )
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
        beyond = not is_loopback(self.host)
        if beyond and not (self.api_key or self.api_keys or self.insecure):
            raise ValueError(
                f"listening on {self.host} without a key lets anyone in reach use this server: set OVERWORLD_API_KEY, "
                "or listen on 127.0.0.1, or say insecure=true"
            )
        if beyond and not (self.tls or self.plaintext):
            raise ValueError(
                f"listening on {self.host} without TLS lets anyone in between read keys, prompts and replies: name a "
                "folder with tls.crt and tls.key, tls=DIR, or listen on 127.0.0.1, or say plaintext=true"
            )
        if self.api_key and self.api_keys:
            raise ValueError("api_key and api_keys are both set; keep one")
        if self.client_certificates and not self.tls:
            raise ValueError("client_certificates needs the ca.crt in a folder, tls=DIR")
        return self
