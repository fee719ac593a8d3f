"""What the operator of a server sets in the environment: OVERWORLD_WEBSHOP_DATA=/data/webshop and so on.

Clients cannot set these: they name paths, and decide what a score means.
"""

from __future__ import annotations

import os
from pathlib import Path

from overworld.service.settings import Settings
from pydantic import Field
from pydantic_settings import SettingsConfigDict


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "overworld" / "webshop"


class ShopSettings(Settings):
    """Settings of the shop."""

    model_config = SettingsConfigDict(env_prefix="OVERWORLD_WEBSHOP_", env_ignore_empty=True)

    data: Path | None = Field(
        default=None,
        description="folder with upstream's files (items_shuffle*.json, items_ins_v2*.json, items_human_ins.json); "
        "without it the catalogue is generated",
    )
    products: int | None = Field(
        default=None, ge=1, le=2_000_000, description="take only so many rows; of the generated catalogue (5,000)"
    )
    seed: int = Field(default=0, ge=0, description="seed of the generated catalogue")
    price_seed: int = Field(default=0, description="seed of prices drawn from ranges and of the goals' price limits")
    tagger: str = Field(
        default="textblob", pattern=r"^(textblob|spacy:[\w.-]+)$", description='"textblob" or "spacy:<model>"'
    )
    pictures: Path | None = Field(
        default=None, description="folder with product pictures, each named as in its URL; without: placeholders"
    )
    cache: Path = Field(default_factory=_cache, description="where the prepared catalogue is kept")
