"""A generated catalogue in upstream's schema: any number of products, all made from a seed.

What is for sale is in assortment.toml: kinds of products with their attributes, options and prices. Products of a
kind differ in attributes, options, prices and words, so a goal has one best product and many that miss something.
"""

from __future__ import annotations

import random
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import xxhash

DEFAULT_PRODUCTS = 5_000

VERSION = 1
"""Goes up whenever this file would make a different catalogue from the same seed and assortment."""


@dataclass(frozen=True, slots=True)
class Made:
    """A row of items_shuffle*.json, its entry in items_ins_v2*.json and in items_human_ins.json."""

    row: dict[str, Any]
    notes: dict[str, Any]
    human: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class _Kind:
    category: str
    query: str
    path: str
    names: Sequence[str]
    attributes: Sequence[str]
    options: dict[str, Sequence[str]]
    low: float
    high: float
    uses: Sequence[str]


def generated(count: int, seed: int) -> Iterator[Made]:
    """`count` products. The first n are the same whatever `count` is."""
    content = tomllib.loads(_assortment().decode())
    values: dict[str, Sequence[str]] = content["values"]
    kinds = [
        _Kind(
            category=kind["category"],
            query=kind["query"],
            path=f"{content['departments'][kind['category']]} › {kind['path']}",
            names=kind["names"],
            attributes=kind["attributes"],
            options={name: values[group] for name, group in kind["options"].items()},
            low=kind["price"][0],
            high=kind["price"][1],
            uses=kind["uses"],
        )
        for kind in content["kinds"]
    ]
    phrases: dict[str, Sequence[str]] = content["phrases"]
    offset = random.Random(f"{seed} asins").randrange(_ASINS)
    for at in range(count):
        rng = random.Random(f"{seed} {at}")
        yield _product(rng, rng.choice(kinds), _asin(offset + at), phrases)


def assortment_digest() -> str:
    """The digest of assortment.toml."""
    return xxhash.xxh3_64_hexdigest(_assortment())


def _assortment() -> bytes:
    return (resources.files(__package__) / "assortment.toml").read_bytes()


_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_ASINS = 36**8
_STEP = 1_100_723_141_231
"""Has no factor in common with 36, so its first 36 ** 8 multiples are all different modulo 36 ** 8."""


def _asin(number: int) -> str:
    number = number * _STEP % _ASINS
    digits = []
    for _ in range(8):
        number, digit = divmod(number, 36)
        digits.append(_DIGITS[digit])
    return "B0" + "".join(digits)


def _product(rng: random.Random, kind: _Kind, asin: str, phrases: dict[str, Sequence[str]]) -> Made:
    attributes = rng.sample(kind.attributes, rng.randint(3, min(5, len(kind.attributes))))
    brand = _brand(rng, phrases)
    name = rng.choice(kind.names)
    options = {
        option: rng.sample(values, rng.randint(2, min(6, len(values))))
        for option, values in kind.options.items()
        if rng.random() < 0.85
    }
    pricing = _pricing(rng, kind)
    row = {
        "asin": asin,
        "name": _title(rng, brand, name, attributes, phrases),
        "category": kind.category,
        "query": kind.query,
        "product_category": kind.path,
        "full_description": _description(rng, brand, name, kind, attributes, phrases),
        "small_description": _bullets(rng, name, kind, attributes, phrases),
        "pricing": pricing,
        "customization_options": {
            option.title(): [{"value": value, "image": None} for value in chosen] for option, chosen in options.items()
        },
        "images": [f"https://pictures.invalid/{asin}.jpg"],
    }
    notes: dict[str, Any] = {"attributes": attributes}
    if rng.random() < 0.4:
        asked = rng.sample(attributes, rng.randint(2, 3))
        notes["instruction"] = _asked(asked, kind.query)
        notes["instruction_attributes"] = asked
    human = [_human(rng, kind.query, attributes, options, phrases) for _ in range(rng.choice((0, 0, 1, 1, 2)))]
    return Made(row, notes, human)


def _brand(rng: random.Random, phrases: dict[str, Sequence[str]]) -> str:
    syllables = [rng.choice(phrases["brand_beginnings"]), *rng.sample(phrases["brand_middles"], rng.random() < 0.3)]
    return "".join((*syllables, rng.choice(phrases["brand_ends"]))).title()


def _pricing(rng: random.Random, kind: _Kind) -> str | None:
    """Nothing, a price, or a range."""
    price = round(kind.low * (kind.high / kind.low) ** rng.random()) - 0.01 * rng.choice((1, 1, 5, 51))
    draw = rng.random()
    if draw < 0.04:
        return None
    if draw < 0.75:
        return f"${price:,.2f}"
    return f"${price:,.2f} - ${price * rng.uniform(1.1, 1.6):,.2f}"


def _title(
    rng: random.Random, brand: str, name: str, attributes: Sequence[str], phrases: dict[str, Sequence[str]]
) -> str:
    first, second, *_ = rng.sample(attributes, len(attributes))
    model = f"{rng.choice('ABCDEGHKLMNPRSTVX')}{rng.randint(2, 99) * 10}" if rng.random() < 0.4 else ""
    mark = rng.choice(("", "", "", "", "®", "™"))
    parts = [brand + mark, _capitalised(first), _capitalised(name), model]
    title = " ".join(filter(None, parts))
    return f"{title}, {_capitalised(second)}{rng.choice(phrases['tails'])}"


def _capitalised(text: str) -> str:
    return " ".join(word[0].upper() + word[1:] for word in text.split())


def _description(
    rng: random.Random, brand: str, name: str, kind: _Kind, attributes: Sequence[str], phrases: dict[str, Sequence[str]]
) -> str:
    sentences = [
        rng.choice(phrases["openings"]).format(brand=brand, name=name, use=rng.choice(kind.uses)),
        rng.choice(phrases["praises"]).format(brand=brand, name=name, attribute=rng.choice(attributes)),
        *rng.sample(phrases["facts"], 2),
        rng.choice(phrases["closings"]).format(brand=brand, name=name, use=rng.choice(kind.uses)),
    ]
    return " ".join(sentences)


def _bullets(
    rng: random.Random, name: str, kind: _Kind, attributes: Sequence[str], phrases: dict[str, Sequence[str]]
) -> list[str]:
    bullets = [
        rng.choice(phrases["bullets"]).format(attribute=_capitalised(attribute), name=name, use=rng.choice(kind.uses))
        for attribute in rng.sample(attributes, len(attributes))
    ]
    return [*bullets, rng.choice(phrases["facts"])]


def _asked(attributes: Sequence[str], query: str) -> str:
    """A synthetic instruction in upstream's form: "Find me <a>, <b> <query> with <c>"."""
    *before, last = attributes
    return f"Find me {', '.join(before)} {query} with {last}"


def _human(
    rng: random.Random,
    query: str,
    attributes: Sequence[str],
    options: dict[str, list[str]],
    phrases: dict[str, Sequence[str]],
) -> dict[str, Any]:
    asked = rng.sample(attributes, rng.randint(1, 2))
    named = rng.sample(sorted(options), rng.randint(0, len(options)))
    chosen = [rng.choice(options[option]) for option in named]
    text = rng.choice(phrases["wishes"]).format(query=query, attributes=" and ".join(asked))
    if chosen:
        wanted = " and ".join(f"{value} {option}" for option, value in zip(named, chosen, strict=True))
        text += rng.choice((f" in {wanted}", f", {wanted} please", f", and i would like {wanted}"))
    return {
        "instruction": text + rng.choice((".", "")),
        "instruction_attributes": asked,
        "instruction_options": [value.strip().replace("/", " | ").lower() for value in chosen],
    }
