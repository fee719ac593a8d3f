"""A product, and upstream's rules for making one from a row of items_shuffle*.json.

Source: `load_products` of princeton-nlp/WebShop @64fa2a5.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from overworld_envs.webshop.catalogue.errors import CatalogueError

NO_PRICE = 100.0
"""The price of a product without one, in dollars."""

_READ = (
    "asin", "name", "category", "query", "product_category", "full_description", "small_description", "pricing",
    "customization_options", "images",
)  # fmt: skip
_IGNORED = (
    "product_information brand brand_url list_price availability_quantity availability_status total_reviews "
    "total_answered_questions seller_id seller_name fulfilled_by_amazon fast_track_message aplus_present "
    "small_description_old"
)
IGNORED = frozenset(_IGNORED.split())
"""Fields of upstream's files that its loader drops."""
KNOWN = IGNORED | set(_READ)

_MAX_CHARS = 200_000
_MAX_VALUES = 5_000


@dataclass(frozen=True, slots=True)
class Instruction:
    """A sentence that asks for a product, the attributes it names, and the values of options if a person wrote it."""

    text: str
    attributes: tuple[str, ...]
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Product:
    """A product as the shop shows it. `options` are name -> values; `images` are URLs, the first is the main one."""

    asin: str
    title: str
    category: str
    query: str
    path: str
    """Categories with " › " between them."""
    description: str
    bullets: tuple[str, ...]
    pricing: tuple[float, ...]
    price_tag: str
    options: Mapping[str, tuple[str, ...]]
    image: str
    option_images: Mapping[str, str]
    attributes: tuple[str, ...]
    synthetic: Instruction | None = None
    human: tuple[Instruction, ...] = ()

    @property
    def document(self) -> str:
        """The text that is indexed: title, description, the first bullet and the options, in lower case."""
        options = ", and ".join(f"{name}: {', '.join(values)}" for name, values in self.options.items())
        first = self.bullets[0] if self.bullets else ""
        return f"{self.title} {self.description} {first} {options}".lower()

    def to_json(self) -> bytes:
        """For the prepared catalogue."""
        return json.dumps(asdict(self), ensure_ascii=False, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Product:
        """The inverse of `to_json`."""
        fields = json.loads(data)
        for name in ("bullets", "pricing", "attributes"):
            fields[name] = tuple(fields[name])
        fields["options"] = {name: tuple(values) for name, values in fields["options"].items()}
        synthetic = fields["synthetic"]
        fields["synthetic"] = _instruction(synthetic) if synthetic else None
        fields["human"] = tuple(map(_instruction, fields["human"]))
        return cls(**fields)


def _instruction(fields: dict[str, Any]) -> Instruction:
    return Instruction(fields["text"], tuple(fields["attributes"]), tuple(fields["options"]))


def is_skipped(asin: str) -> bool:
    """Whether upstream's loader skips the row."""
    return asin == "nan" or len(asin) > 10


def product(row: Mapping[str, Any], notes: Mapping[str, Any], human: list[Any], where: str) -> Product:
    """The product of a row, of its entry in items_ins_v2*.json (`notes`) and of its human instructions.

    `where` is for messages. Raises CatalogueError.
    """
    read = _Reader(row, where)
    pricing, price_tag = _price(row.get("pricing"), where)
    options, option_images = _options(row.get("customization_options"), where)
    bullets = row.get("small_description")
    images = read.strings("images")
    if not images:
        raise CatalogueError(f"{where}: images is empty; expected a list with the main picture's URL first")
    return Product(
        asin=read.string("asin"),
        title=read.string("name"),
        category=read.string("category"),
        query=read.string("query").lower().strip(),
        path=read.string("product_category"),
        description=read.string("full_description"),
        bullets=(bullets,) if isinstance(bullets, str) else read.strings("small_description"),
        pricing=pricing,
        price_tag=price_tag,
        options=options,
        image=images[0],
        option_images=option_images,
        attributes=_Reader(notes, where).strings("attributes") if "attributes" in notes else ("DUMMY_ATTR",),
        synthetic=_synthetic(notes, where),
        human=tuple(_human(entry, where) for entry in human),
    )


def _synthetic(notes: Mapping[str, Any], where: str) -> Instruction | None:
    if notes.get("instruction") is None:
        return None
    read = _Reader(notes, f"{where}, synthetic instruction")
    attributes = read.strings("instruction_attributes")
    if not attributes:
        raise CatalogueError(f"{where}: the synthetic instruction has no instruction_attributes; it needs one or more")
    return Instruction(read.string("instruction"), attributes)


def _human(entry: Any, where: str) -> Instruction:
    if not isinstance(entry, dict):
        raise CatalogueError(f"{where}: a human instruction is a {type(entry).__name__}, not an object")
    read = _Reader(entry, f"{where}, human instruction")
    return Instruction(
        read.string("instruction"), read.strings("instruction_attributes"), read.strings("instruction_options")
    )


def _price(text: Any, where: str) -> tuple[tuple[float, ...], str]:
    """The one or two prices, and how the shop shows them."""
    if not text:
        return (NO_PRICE,), f"${NO_PRICE}"
    if not isinstance(text, str):
        raise CatalogueError(f"{where}: pricing is {text!r:.80}, not a text such as '$19.99' or '$5.00 - $7.50'")
    digits = [re.sub(r"[^0-9.]", "", part) for part in text.split("$")[1:]]
    try:
        prices = [float(number) for number in digits][:2]
    except ValueError:
        prices = []
    if not prices or max(prices) > 1e9:
        raise CatalogueError(f"{where}: pricing is {text!r:.80}; expected '$19.99', '$5.00 - $7.50' or nothing")
    return tuple(prices), " to ".join(f"${price}" for price in prices)


def _options(field: Any, where: str) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """Option name -> values, and value -> picture."""
    if not field:
        return {}, {}
    if not isinstance(field, dict):
        raise CatalogueError(f"{where}: customization_options is a {type(field).__name__}, not an object")
    options, images = {}, {}
    for name, contents in field.items():
        if contents is None:
            continue
        if not isinstance(contents, list) or len(contents) > _MAX_VALUES:
            raise CatalogueError(f"{where}: option {name!r:.80} is not a list of up to {_MAX_VALUES:,} values")
        values = []
        for content in contents:
            text = content.get("value") if isinstance(content, dict) else None
            if not isinstance(text, str):
                raise CatalogueError(f"{where}: option {name!r:.80} has {content!r:.80}; expected {{'value': text}}")
            value = text.strip().replace("/", " | ").lower()
            values.append(value)
            image = content.get("image")
            if isinstance(image, str):
                images[value] = image
            else:
                images.pop(value, None)
        options[name.lower()] = tuple(values)
    return options, images


class _Reader:
    """Fields of one object, checked."""

    def __init__(self, fields: Mapping[str, Any], where: str) -> None:
        self._fields = fields
        self._where = where

    def string(self, name: str) -> str:
        value = self._fields.get(name)
        if not isinstance(value, str):
            raise CatalogueError(f"{self._where}: {name} is {_shown(self._fields, name)}, not a text")
        return self._checked(name, value)

    def strings(self, name: str) -> tuple[str, ...]:
        values = self._fields.get(name)
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise CatalogueError(f"{self._where}: {name} is {_shown(self._fields, name)}, not a list of texts")
        if len(values) > _MAX_VALUES:
            raise CatalogueError(f"{self._where}: {name} has {len(values):,} entries; {_MAX_VALUES:,} are allowed")
        return tuple(self._checked(name, value) for value in values)

    def _checked(self, name: str, value: str) -> str:
        if len(value) > _MAX_CHARS:
            raise CatalogueError(f"{self._where}: {name} has {len(value):,} characters; {_MAX_CHARS:,} are allowed")
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise CatalogueError(f"{self._where}: {name} holds half a surrogate pair, which is not text")
        return value


def _shown(fields: Mapping[str, Any], name: str) -> str:
    return f"{fields[name]!r:.80}" if name in fields else "missing"
