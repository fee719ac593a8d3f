"""The rules that the traces leave open: "strict", odd options, odd actions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from overworld_envs.webshop.catalogue.products import Product
from overworld_envs.webshop.catalogue.store import Catalogue
from overworld_envs.webshop.engine import page_text
from overworld_envs.webshop.engine.pages import DonePage, ItemPage, ResultsPage, SearchPage, SubPage
from overworld_envs.webshop.engine.session import Rules, Session
from overworld_envs.webshop.engine.shop import Shop


@pytest.fixture
def start(shop: Shop) -> Callable[..., Session]:
    def begin(rules: Rules = "strict", *actions: str, **arguments: Any) -> Session:
        session = Session(shop, shop.catalogue.goal("synthetic", 3), rules, **arguments)
        for action in actions:
            assert session.understood(action), action
            session.act(action)
        return session

    return begin


def on_item(start: Callable[..., Session], rules: Rules = "strict", **arguments: Any) -> Session:
    session = start(rules, "search[running shoes]", **arguments)
    page = session.page()
    assert isinstance(page, ResultsPage)
    session.act(f"click[{page.products[0].asin}]")
    assert isinstance(session.page(), ItemPage)
    return session


def test_strict_searches_on_the_search_page_only(start: Callable[..., Session]) -> None:
    session = start("strict", "search[mug]")
    assert session.understood("search[rug]") is None
    session = on_item(start)
    assert session.understood("search[rug]") is None
    assert on_item(start, "compat").understood("search[rug]") == "search[rug]"


def test_strict_has_no_next_past_the_end(start: Callable[..., Session]) -> None:
    session = start("strict", "search[running shoes]")
    pages = 1
    while "next >" in session.page().clickables():
        session.act("click[next >]")
        pages += 1
    page = session.page()
    assert isinstance(page, ResultsPage)
    assert (pages, page.number, len(page.products)) == (-(-page.total // 10), pages, (page.total - 1) % 10 + 1)
    session.act("click[next >]")
    assert session.page() == page


def test_compat_turns_to_empty_pages(start: Callable[..., Session]) -> None:
    session = start("compat", "search[zzzz]", "click[next >]", "click[next >]")
    page = session.page()
    assert isinstance(page, ResultsPage)
    assert (page.number, page.total, page.products) == (3, 0, ())
    assert list(page.clickables()) == ["back to search", "< prev", "next >"]


def test_strict_has_nothing_after_the_purchase(start: Callable[..., Session]) -> None:
    session = on_item(start)
    session.act("click[buy now]")
    page = session.page()
    assert isinstance(page, DonePage)
    for action in ("search[mug]", "click[back to search]", "click[buy now]"):
        assert session.understood(action) is None
        assert session.act(action) == 0.0
        assert session.page() == page


@pytest.mark.parametrize(
    "action",
    [
        "", "search", "search[]", "search mug", "Search[mug]", "find[mug]", "click[search]", "click[]",
        "click[nothing]", "[mug]", "search[mug", " search[mug]", "click[buy now]", "search(mug)",
        "{'action': 'search[mug]'}",
    ],
)  # fmt: skip
def test_what_means_nothing_changes_nothing(start: Callable[..., Session], action: str) -> None:
    for rules in ("strict", "compat"):
        session = start(rules)
        assert session.understood(action) is None
        assert session.act(action) == 0.0
        assert isinstance(session.page(), SearchPage)


def test_actions_in_their_plain_form(start: Callable[..., Session]) -> None:
    assert start().understood("search[Red MUG [large]]") == "search[red mug [large]]"
    assert on_item(start).understood("click[Buy Now]") == "click[buy now]"


def test_an_empty_search_finds_nothing(start: Callable[..., Session]) -> None:
    page = start("strict", "search[ ]").page()
    assert isinstance(page, ResultsPage)
    assert page.total == 0


def test_no_more_than_fifty_results(start: Callable[..., Session]) -> None:
    page = start("strict", "search[easy]").page()
    assert isinstance(page, ResultsPage)
    assert page.total == 50


def test_sub_pages_keep_the_options(start: Callable[..., Session]) -> None:
    session = on_item(start)
    value = next(text for text, target in session.page().clickables().items() if isinstance(target, tuple))
    session.act(f"click[{value}]")
    for name in ("description", "features", "reviews"):
        session.act(f"click[{name}]")
        page = session.page()
        assert isinstance(page, SubPage)
        assert page.name == name
        session.act("click[< prev]")
    page = session.page()
    assert isinstance(page, ItemPage)
    assert list(page.chosen.values()) == [value]
    session.act("click[< prev]")
    page = session.page()
    assert isinstance(page, ResultsPage)
    assert len(page.viewed) == 1
    session.act(f"click[{page.products[0].asin}]")
    page = session.page()
    assert isinstance(page, ItemPage)
    assert page.chosen == {}


def test_back_to_search_forgets_all_but_the_goal(start: Callable[..., Session]) -> None:
    session = on_item(start)
    session.act("click[back to search]")
    assert isinstance(session.page(), SearchPage)
    page = (session.act("search[running shoes]"), session.page())[1]
    assert isinstance(page, ResultsPage)
    assert page.viewed == frozenset()


def test_the_page_of_attributes_is_an_option(start: Callable[..., Session]) -> None:
    assert "attributes" not in on_item(start).page().clickables()
    session = on_item(start, attributes=True)
    assert list(session.page().clickables())[2:6] == ["description", "features", "reviews", "attributes"]
    session.act("click[attributes]")
    page = session.page()
    assert isinstance(page, SubPage)
    assert page.texts == (*page.product.attributes, page.product.category, page.product.query, page.product.path)


@pytest.fixture
def odd_shop(shop: Shop) -> Iterator[Shop]:
    """A shop whose products have odd options."""
    options = {"color": ("buy now", "red", "both", "a [b]"), "style": ("both", "description", "<b>bold</b>")}

    class Odd(Catalogue):
        def __init__(self) -> None:
            self.__dict__.update(shop.catalogue.__dict__)
            real = shop.catalogue.product

            def product(number: int) -> Product:
                return dataclasses.replace(real(number), options=options, title="<script>alert(1)</script>")

            self.product = product  # type: ignore[assignment]

    yield Shop(Odd(), shop.tagger)


def test_odd_options(odd_shop: Shop) -> None:
    """A button hides a value of its text; of equal values the later has it; brackets are "strict" only."""
    for rules in ("strict", "compat"):
        session = Session(odd_shop, odd_shop.catalogue.goal("human", 0), rules)
        session.act("search[shoes]")
        page = session.page()
        assert isinstance(page, ResultsPage)
        session.act(f"click[{page.products[0].asin}]")
        clickables = session.page().clickables()
        assert list(clickables)[2:] == [
            "description", "features", "reviews", "buy now", "red", "both", "a [b]", "<b>bold</b>"
        ]  # fmt: skip
        assert clickables["both"] == ("style", "both")
        assert clickables["buy now"] == "buy now"
        session.act("click[a [b]]")
        page = session.page()
        assert isinstance(page, ItemPage)
        assert page.chosen == ({"color": "a [b]"} if rules == "strict" else {})
        session.act("click[<b>bold</b>]")
        assert "<script>alert(1)</script>" in page_text.plain(session.page())
        session.act("click[buy now]")
        assert "\\u003cb\\u003ebold" in page_text.plain(session.page())
