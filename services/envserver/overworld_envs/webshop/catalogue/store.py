"""The prepared catalogue: products, prices, goals and search index as files that all workers map and share.

It is made once from its source, in a folder of the cache whose name is a digest of what it is made from. Only what was
read last stays in memory.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import logging
import os
import random
import shutil
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from overworld_envs.webshop.catalogue import goals
from overworld_envs.webshop.catalogue.errors import CatalogueError
from overworld_envs.webshop.catalogue.goals import KINDS, Goal, Kind
from overworld_envs.webshop.catalogue.products import Product
from overworld_envs.webshop.catalogue.sources import Source
from overworld_envs.webshop.search import index
from overworld_envs.webshop.search.index import SearchIndex

_logger = logging.getLogger(__name__)

_FORMAT = 1
_META = "catalogue.json"
_AGAIN = "; the next start prepares it again"


class Catalogue:
    """A prepared catalogue. Raises CatalogueError if the folder holds a different or an incomplete one."""

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        meta = _checked_meta(folder, identity)
        self.description: str = meta["description"]
        self._text = (folder / "products.bin").open("rb", buffering=0)  # read: mapped pages would stay in memory
        weakref.finalize(self, self._text.close)
        self._starts = _mapped(folder, "products")
        self._asins = _mapped(folder, "asins")
        self._asin_order = _mapped(folder, "asin_order")
        self._prices = _mapped(folder, "prices")
        self._goals = {kind: _mapped(folder, f"{kind}_goals") for kind in KINDS}
        self.index = SearchIndex(folder)
        self.product = functools.lru_cache(maxsize=512)(self._product)
        """Product by number. Raises IndexError."""

    def __len__(self) -> int:
        return len(self._prices)

    def number(self, asin: str) -> int | None:
        """The number of the product with this id."""
        at = int(np.searchsorted(self._asins, asin))
        return int(self._asin_order[at]) if at < len(self._asins) and self._asins[at] == asin else None

    def price(self, number: int) -> float:
        """The product's price in dollars; drawn if the shop shows a range."""
        return float(self._prices[number])

    def goal_count(self, kind: Kind) -> int:
        """How many goals of a kind there are."""
        return len(self._goals[kind])

    def goal(self, kind: Kind, number: int) -> Goal:
        """A goal in upstream's shuffled order."""
        row = self._goals[kind][number]
        return goals.goal(kind, self.product(int(row["product"])), row)

    def goal_totals(self, kind: Kind) -> NDArray[np.float64]:
        """Cumulative sums of the goals' weights, float64 [goals]."""
        totals: NDArray[np.float64] = self._goals[kind]["total"]
        return totals

    def _product(self, number: int) -> Product:
        if not 0 <= number < len(self):
            raise IndexError(f"there are {len(self)} products, not one numbered {number}")
        start, end = int(self._starts[number]), int(self._starts[number + 1])
        return Product.from_json(os.pread(self._text.fileno(), end - start, start))


def prepared(origin: Source, cache: Path, price_seed: int, *, build_up_to: int | None = None) -> Catalogue:
    """The catalogue of the products of `origin`, made in a folder of `cache` unless an earlier process made it.

    A source of more than `build_up_to` bytes is refused instead of being prepared. Raises CatalogueError.
    """
    identity = {"format": _FORMAT, "price_seed": price_seed, **origin.identity}
    folder = cache / xxhash.xxh3_128_hexdigest(json.dumps(identity, sort_keys=True).encode())
    try:
        if not folder.exists():
            cache.mkdir(parents=True, exist_ok=True)
            with _lock(cache / f"{folder.name}.lock"):
                if not folder.exists():  # another process may have been faster
                    if build_up_to is not None and origin.size > build_up_to:
                        raise CatalogueError(
                            f"a catalogue of {origin.size / 1e6:,.0f} MB takes minutes to prepare: "
                            "run python -m overworld_envs.webshop once, then start the server"
                        )
                    _build(folder, origin, identity, price_seed)
    except OSError as error:
        raise CatalogueError(
            f"the catalogue cannot be prepared in {cache}: {error} "
            "(OVERWORLD_WEBSHOP_CACHE names a folder that can be written)"
        ) from None
    return Catalogue(folder, identity)


def _build(folder: Path, origin: Source, identity: Mapping[str, Any], price_seed: int) -> None:
    """Writes the folder completely, or not at all."""
    _logger.info("preparing the catalogue in %s", folder)
    unfinished = folder.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)  # left by a process that was killed
    unfinished.mkdir()
    try:
        writer = _Writer(unfinished)
        asins = writer.products(origin)
        read = _Stored(unfinished)
        rng = random.Random(price_seed)
        prices = goals.drawn_prices((product.pricing for product in read), rng)
        writer.array("prices", prices)
        drawn = rng.getstate()
        counts = {}
        for kind in KINDS:
            rng.setstate(drawn)
            table = goals.goal_table(kind, read, prices, rng)
            writer.array(f"{kind}_goals", table)
            counts[kind] = len(table)
        if not any(counts.values()):
            raise CatalogueError(
                f"{origin.description()}: no product has an instruction, so there is nothing to ask for"
            )
        order = sorted(range(len(asins)), key=asins.__getitem__)
        writer.array("asins", np.array([asins[at] for at in order]))
        writer.array("asin_order", np.array(order, np.int32))
        for name, content in index.build((product.document for product in read), asins):
            writer.content(name, content)
        writer.meta(identity, origin.description())
        os.rename(unfinished, folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


@dataclass(frozen=True)
class _Writer:
    folder: Path

    def products(self, origin: Source) -> list[str]:
        """Writes all products; returns their ids."""
        asins, starts = [], [0]
        with (self.folder / "products.bin").open("wb") as file:
            for product in origin.products():
                starts.append(starts[-1] + file.write(product.to_json()))
                asins.append(product.asin)
        self.array("products", np.array(starts, np.int64))
        return asins

    def array(self, name: str, array: NDArray[Any]) -> None:
        self.content(f"{name}.npy", array)

    def content(self, name: str, content: NDArray[Any] | bytes) -> None:
        if isinstance(content, bytes):
            (self.folder / name).write_bytes(content)
        else:
            np.save(self.folder / name, content, allow_pickle=False)

    def meta(self, identity: Mapping[str, Any], description: str) -> None:
        files = {file.name: _digest(file) for file in sorted(self.folder.iterdir())}
        meta = {"identity": identity, "description": description, "files": files}
        (self.folder / _META).write_text(json.dumps(meta, indent=1))


@dataclass(frozen=True)
class _Stored:
    """The products that were written, read again in each iteration."""

    folder: Path

    def __iter__(self) -> Iterator[Product]:
        starts = np.load(self.folder / "products.npy", allow_pickle=False)
        with (self.folder / "products.bin").open("rb") as file:
            for size in np.diff(starts):
                yield Product.from_json(file.read(int(size)))


def _checked_meta(folder: Path, identity: Mapping[str, Any]) -> dict[str, Any]:
    try:
        meta = json.loads((folder / _META).read_text())
        damaged = [name for name, digest in meta["files"].items() if _digest(folder / name) != digest]
        same = meta["identity"] == identity
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CatalogueError(f"{folder} holds no prepared catalogue ({error}): delete it{_AGAIN}") from None
    if not same:
        raise CatalogueError(f"{folder} was prepared from other data: delete it{_AGAIN}")
    if damaged:
        raise CatalogueError(f"{folder}: {', '.join(damaged)} changed since: delete the folder{_AGAIN}")
    checked: dict[str, Any] = meta
    return checked


def _digest(file: Path) -> str:
    """The digest of a file, which is read, not mapped, so that it does not count as this process's memory."""
    digest = xxhash.xxh3_64()
    with file.open("rb") as content:
        while block := content.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _mapped(folder: Path, name: str) -> NDArray[Any]:
    array: NDArray[Any] = np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
    return array.view(np.ndarray)


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Held by one process at a time; the kernel releases it if that process dies."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
