"""Goals: what an agent is asked to buy. Upstream's `get_human_goals` and `get_synthetic_goals`, kept as a table.

A goal is a product, the number of its instruction (human) or of its combination of options (synthetic), and a price
limit; its text is made when it is played. So each of millions of goals takes 32 bytes, in a file that is mapped.
"""

from __future__ import annotations

import bisect
import math
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from overworld_envs.webshop.catalogue.errors import CatalogueError
from overworld_envs.webshop.catalogue.products import Product

Kind = Literal["synthetic", "human"]
KINDS: tuple[Kind, ...] = ("synthetic", "human")

NO_LIMIT = 1_000_000.0
"""The price limit of a goal that names none."""

ROW = np.dtype([("product", "<i4"), ("variant", "<i4"), ("price_upper", "<f8"), ("weight", "<f8"), ("total", "<f8")])
"""A goal; `total` is the sum of the weights up to and including its own."""

_ORDER_SEED = 233
"""Upstream shuffles the goals with this seed; only their number matters."""
_BOUNDS = tuple(float(bound) for bound in range(10, 1000, 10))
_MAX_GOALS = 20_000_000

TEST, EVAL = 500, 1000
"""Sizes of the paper's splits: the first 500 goals, the next 1,000; the rest is for training."""


@dataclass(frozen=True, slots=True)
class Goal:
    """What to buy. `options` are pairs (name, value) of a synthetic goal, or values that a person named."""

    asin: str
    category: str
    query: str
    title: str
    path: str
    text: str
    attributes: tuple[str, ...]
    options: tuple[tuple[str, str] | str, ...]
    price_upper: float
    weight: float = 1.0


def drawn_prices(pricings: Iterable[Sequence[float]], rng: random.Random) -> NDArray[np.float64]:
    """The price of each product, float64 [products]; that of a range is drawn, in the products' order."""
    return np.array([pricing[0] if len(pricing) == 1 else rng.uniform(*pricing) for pricing in pricings], np.float64)


def goal_table(
    kind: Kind, products: Iterable[Product], prices: NDArray[np.float64], rng: random.Random
) -> NDArray[np.void]:
    """The goals of all products in upstream's shuffled order, as rows of dtype ROW. Raises CatalogueError.

    `rng` is in the state in which drawing the prices left it.
    """
    rows: list[tuple[int, int, float]] = []
    attributes: list[tuple[str, ...]] = []
    for at, product in enumerate(products):
        if kind == "human":
            for variant, instruction in enumerate(product.human):
                if instruction.attributes:
                    rows.append((at, variant, _limit(prices[at], rng)))
        elif product.synthetic is not None:
            limit = _limit(prices[at], rng)
            variants = math.prod(map(len, product.options.values()))
            if len(rows) + variants > _MAX_GOALS:
                raise CatalogueError(
                    f"product {product.asin} has {variants:,} combinations of options, which makes more than "
                    f"{_MAX_GOALS:,} goals; take fewer products (OVERWORLD_WEBSHOP_PRODUCTS)"
                )
            rows.extend((at, variant, limit) for variant in range(variants))
            attributes.extend([product.synthetic.attributes] * variants)
    table = np.zeros(len(rows), ROW)
    if rows:
        table["product"], table["variant"], table["price_upper"] = zip(*rows, strict=True)
    table["weight"] = 1.0 if kind == "human" else _weights(attributes)
    order = list(range(len(rows)))
    random.Random(_ORDER_SEED).shuffle(order)
    table = table[order]
    table["total"] = np.cumsum(table["weight"])
    return table


def goal(kind: Kind, product: Product, row: Any) -> Goal:
    """The goal of a row of the table."""
    variant, limit = int(row["variant"]), float(row["price_upper"])
    options: tuple[tuple[str, str] | str, ...]
    if kind == "human":
        instruction = product.human[variant]
        options = instruction.options
        text = instruction.text.strip(".")
    else:
        if product.synthetic is None:
            raise CatalogueError(f"product {product.asin} has no synthetic instruction: the goals are not its own")
        instruction = product.synthetic
        options = combination(product.options, variant)
        text = instruction.text
        if options:
            text += " with " + ", and ".join(f"{name}: {value}" for name, value in options)
    if limit < NO_LIMIT:
        text += f", and price lower than {limit:.2f} dollars"
    return Goal(
        asin=product.asin,
        category=product.category,
        query=product.query,
        title=product.title,
        path=product.path,
        text=text,
        attributes=instruction.attributes,
        options=options,
        price_upper=limit,
        weight=float(row["weight"]),
    )


def combination(options: Mapping[str, Sequence[str]], number: int) -> tuple[tuple[str, str], ...]:
    """Combination `number` of the cartesian product over the names in sorted order; the last name changes fastest."""
    chosen: list[tuple[str, str]] = []
    for name in sorted(options, reverse=True):
        number, at = divmod(number, len(options[name]))
        chosen.append((name, options[name][at]))
    return tuple(reversed(chosen))


def splits(count: int) -> dict[str, range]:
    """Split -> goals. The paper's splits if there are enough goals for them; otherwise only "all"."""
    everything = {"all": range(count)}
    if count <= 2 * (TEST + EVAL):
        return everything
    return {
        "train": range(TEST + EVAL, count),
        "eval": range(TEST, TEST + EVAL),
        "test": range(TEST),
        **everything,
    }


def weighted_draw(totals: Sequence[float] | NDArray[np.float64], seed: int, *, compat: bool) -> int:
    """A goal drawn by weight. With `compat` as upstream draws it after `random.seed(seed)`, which is off by one.

    Upstream never draws the first goal, and draws each other goal with the weight of the one before it.
    """
    rng = random.Random(seed)
    if compat:
        rng.choices("abcdefghijklmnopqrstuvwxyz", k=10)  # the session's name comes first
        return offset_draw(totals, rng)
    position = rng.uniform(0.0, float(totals[-1]))
    return min(bisect.bisect_right(totals, position), len(totals) - 1)


def offset_draw(totals: Sequence[float] | NDArray[np.float64], rng: random.Random) -> int:
    """Upstream's `random_idx`, whose sums begin with a 0 that its caller does not expect."""
    position = rng.uniform(0.0, float(totals[-1]))
    return min(bisect.bisect_right(totals, position) + 1, len(totals) - 1)


def _limit(price: float, rng: random.Random) -> float:
    """Two of the next four bounds above the price are drawn; the larger is the limit."""
    at = bisect.bisect_right(_BOUNDS, price)
    candidates = _BOUNDS[at : at + 4]
    return max(rng.sample(candidates, 2)) if len(candidates) >= 2 else NO_LIMIT


def _weights(attributes: Sequence[tuple[str, ...]]) -> NDArray[np.float64]:
    """Per goal the mean of 1 / (goals with the attribute)."""
    counts = Counter(attribute for goal in attributes for attribute in goal)
    known: dict[tuple[str, ...], float] = {}
    for names in attributes:
        if names not in known:
            known[names] = sum(1 / counts[name] for name in names) / len(names)
    return np.array([known[names] for names in attributes], np.float64)
