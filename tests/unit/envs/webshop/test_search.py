"""Terms and search results are those of a real Lucene: answers.json.gz was recorded by lucene/record.py."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from overworld_envs.webshop.engine.shop import Shop
from overworld_envs.webshop.search.analyzer import terms
from overworld_envs.webshop.search.index import SearchIndex, build

_LUCENE = Path(__file__).parent / "lucene"
RECORDED: dict[str, Any] = json.loads(gzip.decompress((_LUCENE / "answers.json.gz").read_bytes()))


def test_the_recorded_queries_hold_what_is_hard() -> None:
    queries = RECORDED["queries"]
    assert len(queries) == 500
    assert sum(not query.isascii() for query in queries) >= 20
    assert sum("'s" in query for query in queries) >= 20
    assert sum(any(character.isdigit() for character in query) for query in queries) >= 50
    assert sum("-" in query for query in queries) >= 20
    assert sum(len(set(words := query.split())) < len(words) for query in queries) >= 50
    assert set(RECORDED["searches"]) == {"1000", "100000"}


def test_terms_are_lucenes() -> None:
    different = [(text, found, terms(text)) for text, found in RECORDED["terms"] if terms(text) != found]
    assert len(RECORDED["terms"]) == 2000
    assert not different, different[:5]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("women's shoes", ["women", "shoe"]),
        ("6.76 and 1,000", ["6.76", "1,000"]),
        ("wi-fi and/or Black/White", ["wi", "fi", "black", "white"]),
        ("U.S.A. possibly", ["u.s.a", "possibl"]),
        ("東京 ®", ["東", "京", "®"]),
        ("to be or not to be", []),
        ("is as by", []),
        ("bli archaeology us", ["bli", "archaeolog", "us"]),
    ],
)
def test_terms_of_the_facts(text: str, expected: list[str]) -> None:
    assert terms(text) == expected


def test_long_words_are_cut_as_lucene_cuts_them() -> None:
    text = "W" * 600 + " " + "a" * 250 + "😀" + "b" * 300
    assert [len(term) for term in terms(text)] == [255, 255, 90, 250, 1, 255, 45]


def test_the_products_are_those_that_were_recorded(shop: Shop) -> None:
    """If this fails, the generator changed: record anew."""
    products = (shop.catalogue.product(number) for number in range(len(shop.catalogue)))
    documents = "\n".join(" ".join(product.document.split()) for product in products)
    assert RECORDED["searches"]["1000"]["documents"] == xxhash.xxh3_64_hexdigest(documents.encode())


def test_the_best_ten_of_a_thousand_products_are_lucenes(shop: Shop) -> None:
    """In Lucene's order, with its scores to the last bit."""
    searches = RECORDED["searches"]["1000"]
    assert len(searches["answers"]) == len(RECORDED["queries"])
    for query, expected in zip(RECORDED["queries"], searches["answers"], strict=True):
        hits, scores = shop.catalogue.index.search(query, 10)
        found = [shop.catalogue.product(int(hit)).asin for hit in hits]
        assert found == [asin for asin, _ in expected], query
        assert scores.tolist() == [np.float32(score) for _, score in expected], query


def index_of(tmp_path: Path, documents: list[str], ids: list[str]) -> SearchIndex:
    for name, content in build(documents, ids):
        if isinstance(content, bytes):
            (tmp_path / name).write_bytes(content)
        else:
            np.save(tmp_path / name, content)
    return SearchIndex(tmp_path)


def test_ids_decide_between_equal_scores(tmp_path: Path) -> None:
    index = index_of(tmp_path, ["red mug"] * 5, ["E", "b", "A", "D", "C"])
    assert index.search("mug", 3)[0].tolist() == [2, 4, 3]


def test_repeated_words_count_as_often(tmp_path: Path) -> None:
    index = index_of(tmp_path, ["red mug", "blue cup", "red cup"], ["A", "B", "C"])
    once, twice = (index.search(query, 10)[1][0] for query in ("blue", "blue blue"))
    assert twice == np.float32(2) * once


def test_a_catalogue_without_words(tmp_path: Path) -> None:
    index = index_of(tmp_path, ["the", ""], ["A", "B"])
    for query in ("mug", "", "the"):
        assert index.search(query, 10)[0].tolist() == []


@settings(deadline=None)
@given(st.text(max_size=200))
def test_any_text_has_terms(text: str) -> None:
    assert all(terms(text))
