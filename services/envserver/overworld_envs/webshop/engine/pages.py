"""The pages of the shop: what each shows and what can be clicked on it, apart from how it looks.

`frames` draws them, `page_text.py` writes them as upstream's text env does; a browser could show them as well.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from overworld_envs.webshop.catalogue.products import Product

Target = str | tuple[str, str]
"""What a click means: a button's name or a product's id, or an option (name, value)."""

SEARCH, BACK, PREVIOUS, NEXT, BUY = "search", "back to search", "< prev", "next >", "buy now"
SUB_PAGES = ("description", "features", "reviews", "attributes")

PER_PAGE = 10
MOST_RESULTS = 50


@dataclass(frozen=True, slots=True)
class Page(ABC):
    """What all pages show: the instruction."""

    instruction: str

    @abstractmethod
    def clickables(self) -> dict[str, Target]:
        """Text to click on, in lower case and in order -> what it means."""


@dataclass(frozen=True, slots=True)
class SearchPage(Page):
    """The page with the search field."""

    def clickables(self) -> dict[str, Target]:
        """The button, which does nothing when clicked: a search needs words."""
        return {SEARCH: SEARCH}


@dataclass(frozen=True, slots=True)
class ResultsPage(Page):
    """Up to ten products that a search found."""

    words: str
    number: int
    """From 1."""
    total: int
    products: tuple[Product, ...]
    viewed: frozenset[str]
    """Ids of the products viewed since the search began."""
    has_next: bool

    def clickables(self) -> dict[str, Target]:
        """Back, previous and next, then the products' ids."""
        buttons = [BACK, *([PREVIOUS] if self.number > 1 else []), *([NEXT] if self.has_next else [])]
        return {**{button: button for button in buttons}, **{one.asin.lower(): one.asin for one in self.products}}


@dataclass(frozen=True, slots=True)
class ItemPage(Page):
    """One product, its options and the button to buy it."""

    product: Product
    chosen: Mapping[str, str]
    """Option name -> value, in the order in which they were chosen."""
    shows_attributes: bool

    def clickables(self) -> dict[str, Target]:
        """Buttons, then the options' values. As upstream, a button hides a value of the same text.

        If two options have a value in common, the click chooses the later option.
        """
        buttons = {button: button for button in (BACK, PREVIOUS, *self.sub_pages, BUY)}
        values = {value: (name, value) for name, values in self.product.options.items() for value in values}
        return {**buttons, **{text: option for text, option in values.items() if text not in buttons}}

    @property
    def sub_pages(self) -> tuple[str, ...]:
        """Names of the sub-pages that the product has."""
        return SUB_PAGES if self.shows_attributes else SUB_PAGES[:-1]


@dataclass(frozen=True, slots=True)
class SubPage(Page):
    """A product's description, features, reviews or attributes."""

    product: Product
    name: str

    def clickables(self) -> dict[str, Target]:
        """Back and previous."""
        return {BACK: BACK, PREVIOUS: PREVIOUS}

    @property
    def texts(self) -> tuple[str, ...]:
        """The paragraphs. There are no reviews: upstream does not load them."""
        product = self.product
        match self.name:
            case "description":
                return (product.description,)
            case "features":
                return product.bullets
            case "attributes":
                return (*product.attributes, product.category, product.query, product.path)
        return ()


@dataclass(frozen=True, slots=True)
class DonePage(Page):
    """After the purchase."""

    product: Product
    chosen: Mapping[str, str]
    score: float
    report: str

    def clickables(self) -> dict[str, Target]:
        """None."""
        return {}
