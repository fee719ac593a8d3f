"""Where products come from: upstream's files, read row by row, or the generator."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from overworld_envs.webshop.catalogue import generator
from overworld_envs.webshop.catalogue.errors import CatalogueError
from overworld_envs.webshop.catalogue.products import KNOWN, Product, is_skipped, product

_logger = logging.getLogger(__name__)

_CHUNK = 1 << 20
_LONGEST_ROW = 64 << 20
_BLANKS: Any = re.compile(r"[\s,]*")  # always matches


class Source(Protocol):
    """Products, and what identifies them."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """What the products are made from, cheap to determine; as JSON can hold it."""

    @property
    def size(self) -> int:
        """How many bytes there are to read."""

    def products(self) -> Iterator[Product]:
        """All products in order. Raises CatalogueError."""

    def description(self) -> str:
        """What it is, exactly; may read every file."""


class Generated:
    """The generator's catalogue."""

    size = 0

    def __init__(self, count: int, seed: int) -> None:
        self._count = count
        self._seed = seed

    @property
    def identity(self) -> Mapping[str, Any]:
        """Version, assortment, number and seed."""
        return {
            "generator": generator.VERSION,
            "assortment": generator.assortment_digest(),
            "products": self._count,
            "seed": self._seed,
        }

    def products(self) -> Iterator[Product]:
        """Generates them."""
        for made in generator.generated(self._count, self._seed):
            yield product(made.row, made.notes, made.human, f"generated product {made.row['asin']}")

    def description(self) -> str:
        """In words."""
        version = f"{generator.VERSION}-{generator.assortment_digest()[:8]}"
        return f"generated, version {version}, {self._count:,} products, seed {self._seed}"


class Files:
    """Upstream's files in `folder`; with `count` only the first rows."""

    def __init__(self, folder: Path, count: int | None) -> None:
        self._count = count
        self._rows = _rows_file(folder, count)
        suffix = self._rows.name.removeprefix("items_shuffle")
        self._notes = folder / f"items_ins_v2{suffix}"
        self._human = folder / "items_human_ins.json"
        if not self._notes.is_file():
            raise CatalogueError(f"{self._notes} is missing; it goes with {self._rows.name}")
        self._files = [self._rows, self._notes, *([self._human] if self._human.is_file() else [])]

    @property
    def identity(self) -> Mapping[str, Any]:
        """Names, sizes and times of the files."""
        stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in self._files]
        return {"files": list(map(list, stats)), "products": self._count}

    @property
    def size(self) -> int:
        """The size of all files in bytes."""
        return sum(file.stat().st_size for file in self._files)

    def products(self) -> Iterator[Product]:
        """The products by upstream's rules: the first of several rows with one id counts, some ids are skipped."""
        notes = _members(self._notes, dict)
        human = _members(self._human, list) if self._human in self._files else {}
        seen: set[str] = set()
        unknown: Counter[str] = Counter()
        without = 0
        for number, row in enumerate(_rows(self._rows), 1):
            if self._count is not None and number > self._count:
                break
            asin = row.get("asin") if isinstance(row, dict) else None
            if not isinstance(asin, str):
                raise CatalogueError(f"{self._rows}, row {number}: no object with an asin, but {row!r:.80}")
            if is_skipped(asin) or asin in seen:
                continue
            seen.add(asin)
            unknown.update(row.keys() - KNOWN)
            without += asin not in notes
            where = f"{self._rows}, row {number} ({asin})"
            yield product(row, notes.get(asin, {}), human.get(asin, []), where)
        if not seen:
            raise CatalogueError(f"{self._rows} has no products; expected a list of objects with asin, name and so on")
        for field, rows in unknown.most_common(20):
            _logger.warning("%s: field %r in %d rows is unknown and ignored", self._rows, field, rows)
        if without:
            _logger.warning(
                "%s: %d of %d products have no entry: no attributes, no synthetic goals",
                self._notes,
                without,
                len(seen),
            )

    def description(self) -> str:
        """Names and SHA-256."""
        parts = []
        for file in self._files:
            with file.open("rb") as content:
                parts.append(f"{file.name} sha256:{hashlib.file_digest(content, 'sha256').hexdigest()[:16]}")
        first = f", first {self._count:,} rows" if self._count else ""
        return ", ".join(parts) + first


def _rows_file(folder: Path, count: int | None) -> Path:
    if not folder.is_dir():
        raise CatalogueError(
            f"OVERWORLD_WEBSHOP_DATA={folder} is not a folder; it must hold upstream's items_shuffle*.json"
        )
    names = ["items_shuffle.json"] if count is None else [f"items_shuffle_{count}.json", "items_shuffle.json"]
    found = sorted(folder.glob("items_shuffle*.json"))
    for name in names:
        if folder / name in found:
            return folder / name
    if len(found) == 1:
        return found[0]
    there = ", ".join(file.name for file in found) or "none"
    raise CatalogueError(
        f"{folder}: which items_shuffle*.json is meant? There is {there}; "
        "keep one, or say OVERWORLD_WEBSHOP_PRODUCTS=1000 for items_shuffle_1000.json"
    )


def _rows(file: Path) -> Iterator[Any]:
    """The elements of a list, one by one, read by the parser that upstream uses: it accepts NaN, for example."""
    decoder = json.JSONDecoder()
    with file.open(encoding="utf-8") as content:
        try:
            text = content.read(_CHUNK)
            while text.isspace() and (more := content.read(_CHUNK)):
                text = more
            text = text.lstrip()
            if not text.startswith("["):
                raise ValueError(f"it begins with {text[:1]!r}; expected a list of products")
            at = 1
            while not text.startswith("]", at := _BLANKS.match(text, at).end()):
                try:
                    row, at = decoder.raw_decode(text, at)
                except ValueError:  # perhaps only cut off at the end of a chunk
                    more = content.read(max(_CHUNK, len(text) - at))
                    if not more or len(text) - at > _LONGEST_ROW:
                        raise
                    text, at = text[at:] + more, 0
                    continue
                yield row
        except (ValueError, RecursionError) as error:
            raise CatalogueError(_broken(file, error)) from None


def _members(file: Path, kind: type) -> dict[str, Any]:
    try:
        members = json.loads(file.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise CatalogueError(_broken(file, error)) from None
    if not isinstance(members, dict) or not members:
        raise CatalogueError(f"{file} holds no object with product ids as keys, or an empty one")
    for key, value in members.items():
        if not isinstance(value, kind):
            raise CatalogueError(f"{file}, {key!r:.40}: {value!r:.80}; expected a {kind.__name__}")
    return members


def _broken(file: Path, error: Exception) -> str:
    reason = " ".join(str(error).split())
    return f"{file} ({file.stat().st_size:,} bytes) holds no complete JSON: {reason:.200}. Was the download cut off?"
