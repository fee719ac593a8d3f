"""The score of a purchase, 0 to 1: upstream's `get_reward` with all its sub-scores.

Source: web_agent_site/engine/goal.py of princeton-nlp/WebShop @64fa2a5. Its peculiarities are kept: the title of
the very same product may not match in full, "x-large" passes for "large", and "titanium" holds the colour "tan".
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from rapidfuzz import fuzz

from overworld_envs.webshop.catalogue.goals import Goal
from overworld_envs.webshop.catalogue.products import Product
from overworld_envs.webshop.engine.colours import simplified
from overworld_envs.webshop.engine.tagger import Tagger

_SIMILAR = 85


@dataclass(frozen=True, slots=True)
class TypeScore:
    """How well the product's kind matches the goal's."""

    factor: float
    """1, 0.5, 0.1 or 0; everything else is multiplied by it."""
    query_match: bool
    category_match: bool
    title_score: float


@dataclass(frozen=True, slots=True)
class Reward:
    """The score and its parts. Fractions `r_*` are 0 to 1, weights `w_*` add up to 1; None: nothing was asked for."""

    score: float
    type: TypeScore
    r_att: float
    r_option: float | None
    r_price: bool
    w_att: float
    w_option: float
    w_price: float
    tagger: str

    def metrics(self) -> dict[str, float]:
        """All parts as numbers, under upstream's names."""
        metrics = {
            "score": self.score,
            "r_type": self.type.factor,
            "r_att": self.r_att,
            "w_att": self.w_att,
            "query_match": float(self.type.query_match),
            "category_match": float(self.type.category_match),
            "title_score": self.type.title_score,
            "r_price": float(self.r_price),
            "w_price": self.w_price,
        }
        if self.r_option is not None:
            metrics |= {"r_option": self.r_option, "w_option": self.w_option}
        return metrics

    def report(self) -> str:
        """All parts in words."""
        options = "" if self.r_option is None else f"options {self.r_option:.2f} (weight {self.w_option:.2f}), "
        return (
            f"Your score: {self.score:.4g} of 1. Type {self.type.factor:g} (title {self.type.title_score:.2f}, "
            f"query {_yes(self.type.query_match)}, category {_yes(self.type.category_match)}), "
            f"attributes {self.r_att:.2f} (weight {self.w_att:.2f}), {options}"
            f"price {_yes(self.r_price)} (weight {self.w_price:.2f}). Nouns by {self.tagger}."
        )


def reward(goal: Goal, product: Product, price: float, options: Mapping[str, str], tagger: Tagger) -> Reward:
    """The reward for buying `product` at `price` dollars with the chosen `options` (name -> value)."""
    kind = type_score(goal, product, tagger)
    attributes = matched_attributes(goal.attributes, product)
    matched = matched_options(goal.options, list(options.values()))
    in_price = price <= goal.price_upper
    parts = len(goal.attributes) + len(goal.options) + 1
    return Reward(
        score=kind.factor * ((attributes + matched + in_price) / parts),
        type=kind,
        r_att=attributes / len(goal.attributes),
        r_option=matched / len(goal.options) if goal.options else None,
        r_price=in_price,
        w_att=len(goal.attributes) / parts,
        w_option=len(goal.options) / parts,
        w_price=1 / parts,
        tagger=tagger.name,
    )


def type_score(goal: Goal, product: Product, tagger: Tagger) -> TypeScore:
    """Compares search phrases, category paths and the nouns of titles."""
    query_match = product.query == goal.query
    category_match = len(_parts(product.path) & _parts(goal.path)) >= 2
    wanted = tagger.nouns(goal.title)
    common = set(wanted) & set(tagger.nouns(product.title))
    title_score = len(common) / len(wanted) if wanted else 0.2
    factor = 1.0 if query_match or category_match or title_score > 0.2 else 0.5
    if title_score < 0.1:
        factor = 0.1
    if title_score == 0:
        factor = 0.0
    return TypeScore(factor, query_match, category_match, title_score)


def matched_attributes(wanted: Collection[str], product: Product) -> int:
    """How many of the goal's attributes the product has, by its attributes or by its text."""
    texts = (product.title.lower(), " ".join(product.bullets).lower(), product.description.lower())
    return sum(
        any(_similar(attribute, one) for one in product.attributes) or any(attribute in text for text in texts)
        for attribute in wanted
    )


def matched_options(wanted: Sequence[tuple[str, str] | str], chosen: Sequence[str]) -> int:
    """How many of the goal's options are met by some chosen value."""
    values = [simplified(value) for value in chosen]
    return sum(any(_similar(value, simplified(option)) for value in values) for option in wanted)


def _parts(path: str) -> set[str]:
    return {part.strip() for part in path.split("›")}


_LATIN1 = dict.fromkeys(range(128, 256))


def _similar(one: str, other: str) -> bool:
    """thefuzz's token_set_ratio above 85: without Latin-1's accented letters, words as sets, a subset is enough."""
    return round(fuzz.token_set_ratio(_processed(one), _processed(other))) > _SIMILAR


def _processed(text: str) -> str:
    return re.sub(r"\W", " ", text.translate(_LATIN1)).lower().strip()


def _yes(value: bool) -> str:
    return "yes" if value else "no"
