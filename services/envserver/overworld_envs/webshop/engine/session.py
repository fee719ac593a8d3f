"""One shopper's visit: which page is shown, what an action does, what a purchase earns."""

from __future__ import annotations

import json
import re
from typing import Literal

from overworld_envs.webshop.catalogue.goals import Goal
from overworld_envs.webshop.catalogue.products import Product
from overworld_envs.webshop.engine.pages import (
    BACK,
    BUY,
    MOST_RESULTS,
    NEXT,
    PER_PAGE,
    PREVIOUS,
    SEARCH,
    SUB_PAGES,
    DonePage,
    ItemPage,
    Page,
    ResultsPage,
    SearchPage,
    SubPage,
)
from overworld_envs.webshop.engine.reward import Reward, reward
from overworld_envs.webshop.engine.shop import Shop

Rules = Literal["strict", "compat"]

_ACTION = re.compile(r"(search|click)\[(.+)\]", re.DOTALL)
_UPSTREAM_ACTION = re.compile(r"(.+)\[(.+)\]")


class Session:
    """A shopper with a goal.

    `rules`: "compat" is upstream, where one may search from any page, turn pages past the last one, and act after the
    purchase, but reach no option with a "[" in it. "strict" allows a search on the search page only, pages that exist,
    and nothing after the purchase.
    """

    def __init__(self, shop: Shop, goal: Goal, rules: Rules = "strict", *, name: str = "0", attributes: bool = False):
        self.goal = goal
        self.result: Reward | None = None
        """What the purchase earned."""
        self._shop = shop
        self._strict = rules == "strict"
        self._name = name
        self._shows_attributes = attributes
        self._bought = False
        self._to_search()

    def page(self) -> Page:
        """What is shown now."""
        text = self.goal.text
        if self._bought:
            if self.result is None:
                raise RuntimeError("a purchase has a result")
            return DonePage(text, self._item(), dict(self._options), self.result.score, self.result.report())
        if self._sub_page:
            return SubPage(text, self._item(), self._sub_page)
        if self._asin:
            return ItemPage(text, self._item(), dict(self._options), self._shows_attributes)
        if self._words is not None:
            start = (self._number - 1) * PER_PAGE
            shown = tuple(map(self._shop.catalogue.product, self._hits[start : start + PER_PAGE]))
            more = not self._strict or start + PER_PAGE < len(self._hits)
            words = " ".join(self._words)
            return ResultsPage(text, words, self._number, len(self._hits), shown, frozenset(self._viewed), more)
        return SearchPage(text)

    def understood(self, action: str) -> str | None:
        """The action in its canonical form, e.g. "click[buy now]"; None if it would do nothing now."""
        match = (_ACTION.fullmatch if self._strict else _UPSTREAM_ACTION.match)(action)
        if match is None:
            return None
        verb, argument = match[1], match[2].lower()
        if verb == SEARCH:
            may = (self._words is None and not self._bought) or not self._strict
        else:
            may = verb == "click" and argument != SEARCH and argument in self.page().clickables()
        return f"{verb}[{argument}]" if may else None

    def act(self, action: str) -> float:
        """Carries the action out if `understood` accepts it. Returns the reward, which is 0 except for a purchase."""
        understood = self.understood(action)
        if understood is None:
            return 0.0
        verb, _, argument = understood[:-1].partition("[")
        if verb == SEARCH:
            self._search(argument)
            return 0.0
        target = self.page().clickables()[argument]
        if isinstance(target, tuple):
            name, value = target
            self._options[name] = value
        elif target == BUY:
            return self._buy()
        elif target == BACK:
            self._to_search()
        elif target == NEXT:
            self._turn_to(self._number + 1)
        elif target == PREVIOUS:
            self._back()
        elif target in SUB_PAGES:
            self._sub_page = target
        else:
            self._asin = target
            self._viewed.add(target)
        return 0.0

    def url(self) -> str:
        """The page's URL in upstream's env."""
        base = "http://127.0.0.1:3000"
        words = "+".join(self._words or ())
        item = f"{self._name}/{self._asin}/{words}/{self._number}"
        match self.page():
            case DonePage():
                return f"{base}/done/{self._name}/{self._asin}/{self._options}"
            case SubPage(name=name):
                return f"{base}/item_sub_page/{item}/{name.capitalize()}/{self._options}"
            case ItemPage():
                return f"{base}/item_page/{item}/{json.dumps(self._options)}"
            case ResultsPage():
                return f"{base}/search_results/{self._name}/{words}/{self._number}"
        return f"{base}/{self._name}"

    def _to_search(self) -> None:
        self._words: list[str] | None = None
        self._hits: list[int] = []
        self._number = 1
        self._viewed: set[str] = set()
        self._leave_item()

    def _leave_item(self) -> None:
        self._asin = ""
        self._sub_page = ""
        self._options: dict[str, str] = {}

    def _search(self, words: str) -> None:
        self._bought = False
        self._words = words.split(" ")
        self._hits = self._shop.search(words, MOST_RESULTS)
        self._turn_to(1)

    def _turn_to(self, number: int) -> None:
        self._number = number
        self._leave_item()

    def _back(self) -> None:
        if self._sub_page:
            self._sub_page = ""
        elif self._asin:
            self._leave_item()
        else:
            self._turn_to(self._number - 1)

    def _buy(self) -> float:
        product = self._item()
        self.result = reward(self.goal, product, self._shop.price(product.asin), self._options, self._shop.tagger)
        self._bought = True
        return self.result.score

    def _item(self) -> Product:
        return self._shop.product(self._asin)
