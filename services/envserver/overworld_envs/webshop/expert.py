"""The expert, which knows the goal's product: for cloning, and as an upper bound of the reward."""

from __future__ import annotations

from overworld.authoring.env import Expert

from overworld_envs.webshop.catalogue.goals import Goal
from overworld_envs.webshop.catalogue.products import Product
from overworld_envs.webshop.engine.pages import (
    BACK,
    BUY,
    MOST_RESULTS,
    NEXT,
    PER_PAGE,
    PREVIOUS,
    ItemPage,
    Page,
    ResultsPage,
    SearchPage,
)
from overworld_envs.webshop.engine.reward import matched_options, reward
from overworld_envs.webshop.engine.shop import Shop

_LONGEST_QUERY = 500


class Guide:
    """The way to one goal, from any page."""

    def __init__(self, shop: Shop, goal: Goal) -> None:
        self._goal = goal
        self._words, self._product, self._rank = _search(shop, goal)
        self._options = wanted_options(goal, self._product)

    def advice(self, page: Page) -> Expert:
        """What to do on `page`."""
        asin = self._product.asin
        match page:
            case SearchPage():
                return Expert(f"search[{self._words}]", "I search with the words of the instruction.")
            case ResultsPage() if page.words == self._words:
                number = self._rank // PER_PAGE + 1
                if number == page.number:
                    return Expert(f"click[{asin.lower()}]", f"{asin} fits the instruction best. I look at it.")
                button = NEXT if number > page.number else PREVIOUS
                return Expert(
                    f"click[{button}]", f"The best fit is not on page {page.number}. I turn to page {number}."
                )
            case ResultsPage():
                return Expert(f"click[{BACK}]", "These results are for other words. I search again.")
            case ItemPage(product=product) if product.asin == asin:
                return self._on_item(page)
            case _:
                return Expert(f"click[{PREVIOUS}]", "There is nothing to do here. I go back.")

    def _on_item(self, page: ItemPage) -> Expert:
        clickables = page.clickables()
        for name, value in self._options.items():
            if page.chosen.get(name) != value and clickables.get(value) == (name, value):
                return Expert(f"click[{value}]", f"The instruction wants {value} as {name}. I choose it.")
        return Expert(f"click[{BUY}]", "It is the right product and all options are chosen. I buy it.")


def wanted_options(goal: Goal, product: Product) -> dict[str, str]:
    """Option name -> value, for the goal's options that the product has."""
    chosen: dict[str, str] = {}
    for wanted in goal.options:
        if isinstance(wanted, tuple):
            name, value = wanted
            if value in product.options.get(name, ()):
                chosen[name] = value
            continue
        free = [(name, value) for name, values in product.options.items() if name not in chosen for value in values]
        exact = [option for option in free if option[1] == wanted]
        similar = [option for option in free if matched_options([wanted], [option[1]])]
        chosen.update((exact or similar)[:1])
    return chosen


def _search(shop: Shop, goal: Goal) -> tuple[str, Product, int]:
    """Words to search for, the product to buy, and its rank in the results.

    The instruction's words if they find the goal's product within two pages, else its title.
    """
    values = " ".join(option[1] if isinstance(option, tuple) else option for option in goal.options)
    attributes = " ".join(goal.attributes)
    asked = goal.text.partition(", and price lower than")[0]
    instructed = [_query(text) for text in (asked, f"{attributes} {goal.query} {values}", f"{goal.query} {attributes}")]
    number = shop.catalogue.number(goal.asin)
    ranked = []
    for words in (*instructed, _query(f"{goal.title} {values}"), _query(goal.title)):
        hits = shop.search(words, MOST_RESULTS)
        if number in hits:
            rank = hits.index(number)
            if words in instructed and rank < 2 * PER_PAGE:
                return words, shop.product(goal.asin), rank
            ranked.append((rank, words))
    if ranked:
        rank, words = min(ranked)
        return words, shop.product(goal.asin), rank
    words = _query(goal.title)  # many products have this title: the best of those that are found
    scores = []
    for rank, hit in enumerate(shop.search(words, MOST_RESULTS)):
        product = shop.catalogue.product(hit)
        options = wanted_options(goal, product)
        score = reward(goal, product, shop.catalogue.price(hit), options, shop.tagger).score
        scores.append((-score, rank, product))
    if not scores:  # a title without words cannot be found
        return words, shop.product(goal.asin), 0
    _, rank, product = min(scores, key=lambda entry: entry[:2])
    return words, product, rank


def _query(text: str) -> str:
    """Words as they fit into an action: in lower case, with single spaces, within the limit."""
    return " ".join(text.lower().split())[:_LONGEST_QUERY].strip()
