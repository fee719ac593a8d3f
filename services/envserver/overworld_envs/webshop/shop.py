"""What all sessions of a process share: the catalogue, its search, the tagger and the pictures."""

from __future__ import annotations

import functools

from overworld_envs.webshop.catalogue import Catalogue, opened
from overworld_envs.webshop.errors import CatalogueError
from overworld_envs.webshop.pictures import Pictures
from overworld_envs.webshop.products import Product
from overworld_envs.webshop.settings import ShopSettings
from overworld_envs.webshop.tagger import Tagger, tagger

_LARGEST_BUILD = 200_000_000
"""Files of more bytes are not prepared while a server starts: that would take longer than a start may."""


class Shop:
    """A catalogue and what is done with it."""

    def __init__(self, catalogue: Catalogue, tagger: Tagger, pictures: Pictures) -> None:
        self.catalogue = catalogue
        self.tagger = tagger
        self.pictures = pictures
        self._found = functools.lru_cache(maxsize=1024)(self._search)

    def search(self, words: str, limit: int) -> list[int]:
        """Numbers of the best products, the best first."""
        return list(self._found(words, limit))

    def product(self, asin: str) -> Product:
        """The product with this id. Raises KeyError."""
        return self.catalogue.product(self._number(asin))

    def price(self, asin: str) -> float:
        """What it costs, in dollars. Raises KeyError."""
        return self.catalogue.price(self._number(asin))

    def _number(self, asin: str) -> int:
        number = self.catalogue.number(asin)
        if number is None:
            raise KeyError(f"there is no product {asin!r}")
        return number

    def _search(self, words: str, limit: int) -> tuple[int, ...]:
        hits, _ = self.catalogue.index.search(words, limit)
        return tuple(hits.tolist())


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
    return Shop(catalogue, words, Pictures(settings.pictures))
