"""Opens the operator's shop: which products, from which cache, with which tagger."""

from __future__ import annotations

import functools

from overworld_envs.webshop.catalogue.errors import CatalogueError
from overworld_envs.webshop.catalogue.generator import DEFAULT_PRODUCTS
from overworld_envs.webshop.catalogue.sources import Files, Generated, Source
from overworld_envs.webshop.catalogue.store import Catalogue, prepared
from overworld_envs.webshop.engine.shop import Shop
from overworld_envs.webshop.engine.tagger import tagger
from overworld_envs.webshop.settings import ShopSettings

_LARGEST_BUILD = 200_000_000
"""Larger sources, in bytes, are not prepared while a server starts: that would take longer than a start may."""


@functools.lru_cache(maxsize=1)
def open_shop(settings: ShopSettings) -> Shop:
    """The operator's shop, one per process. Raises CatalogueError."""
    catalogue = opened(settings, build_up_to=_LARGEST_BUILD)
    try:
        words = tagger(settings.tagger)
    except (ImportError, OSError) as error:
        raise CatalogueError(
            f"OVERWORLD_WEBSHOP_TAGGER={settings.tagger} cannot be used: {error}; install it, or take textblob"
        ) from None
    return Shop(catalogue, words)


def opened(settings: ShopSettings, *, build_up_to: int | None = None) -> Catalogue:
    """The operator's catalogue, prepared first if the cache does not hold it.

    A source of more than `build_up_to` bytes is refused instead of being prepared. Raises CatalogueError.
    """
    return prepared(source(settings), settings.cache, settings.price_seed, build_up_to=build_up_to)


def source(settings: ShopSettings) -> Source:
    """Where the operator's products come from. Raises CatalogueError."""
    if settings.data is None:
        return Generated(settings.products or DEFAULT_PRODUCTS, settings.seed)
    return Files(settings.data, settings.products)
