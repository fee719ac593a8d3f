"""What all sessions of a process share: the catalogue, its search and the tagger."""

from __future__ import annotations

import functools

from overworld_envs.webshop.catalogue.products import Product
from overworld_envs.webshop.catalogue.store import Catalogue
from overworld_envs.webshop.engine.tagger import Tagger


class Shop:
    """A catalogue, its search and a tagger."""

    def __init__(self, catalogue: Catalogue, tagger: Tagger) -> None:
        self.catalogue = catalogue
        self.tagger = tagger
        self._found = functools.lru_cache(maxsize=1024)(self._search)

    def search(self, words: str, limit: int) -> list[int]:
        """The numbers of the best products for `words`, at most `limit`, best first."""
        return list(self._found(words, limit))

    def product(self, asin: str) -> Product:
        """The product with this id. Raises KeyError."""
        return self.catalogue.product(self._number(asin))

    def price(self, asin: str) -> float:
        """Its price in dollars. Raises KeyError."""
        return self.catalogue.price(self._number(asin))

    def _number(self, asin: str) -> int:
        number = self.catalogue.number(asin)
        if number is None:
            raise KeyError(f"there is no product {asin!r}")
        return number

    def _search(self, words: str, limit: int) -> tuple[int, ...]:
        hits, _ = self.catalogue.index.search(words, limit)
        return tuple(hits.tolist())
