"""Frames: what they show, in which size, and that nothing in a text breaks them."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from overworld_envs.webshop.catalogue.products import Product
from overworld_envs.webshop.engine.pages import DonePage, ItemPage, Page, ResultsPage, SearchPage, SubPage
from overworld_envs.webshop.engine.shop import Shop
from overworld_envs.webshop.frames.pictures import Pictures
from overworld_envs.webshop.frames.renderer import Renderer
from overworld_envs.webshop.frames.sheet import BAR, BUY
from overworld_envs.webshop.frames.typeface import SPRITES, Style, lines, text_width
from PIL import Image

STYLE = Style(14, (0, 0, 0), (255, 255, 255))


def drawn(page: Page, width: int = 640, height: int = 480, scroll: int = 0, pictures: Path | None = None) -> np.ndarray:
    canvas = np.full((height, width, 3), 7, np.uint8)
    Renderer(width, height, Pictures(pictures)).layout(page).draw(canvas, scroll)
    return canvas


@pytest.fixture(scope="module")
def product(shop: Shop) -> Product:
    numbers = range(len(shop.catalogue))
    return next(p for p in map(shop.catalogue.product, numbers) if len(p.options) == 2 and p.query == "area rug")


def pages(product: Product) -> list[Page]:
    goal = "Find me an easy clean rug"
    chosen = {name: values[0] for name, values in product.options.items()}
    return [
        SearchPage(goal),
        ResultsPage(goal, "rug", 1, 11, (product,) * 10, frozenset(), True),
        ResultsPage(goal, "rug", 2, 11, (product,), frozenset(), False),
        ItemPage(goal, product, {}, False),
        ItemPage(goal, product, chosen, False),
        SubPage(goal, product, "description"),
        SubPage(goal, product, "features"),
        SubPage(goal, product, "reviews"),
        DonePage(goal, product, chosen, 0.5, "Your score: 0.5"),
    ]


@pytest.mark.parametrize(("width", "height"), [(640, 480), (1280, 720), (320, 240), (64, 64), (64, 1920), (1920, 64)])
def test_all_of_the_canvas_is_drawn_in_any_size(product: Product, width: int, height: int) -> None:
    for page in pages(product):
        canvas = drawn(page, width, height)
        assert not np.any(np.all(canvas == 7, axis=2))
        assert len(np.unique(canvas.astype(np.uint32) @ (1, 1 << 8, 1 << 16))) > 10  # colours as numbers: fast to sort


def test_pages_differ(product: Product) -> None:
    frames = {drawn(page).tobytes() for page in pages(product)}
    assert len(frames) == len(pages(product))


def test_equal_pages_are_equal_frames(product: Product) -> None:
    first = [drawn(page) for page in pages(product)]
    for _ in range(3):
        SPRITES._sprites.clear()
        SPRITES.bytes = 0
        assert all(np.array_equal(one, drawn(page)) for one, page in zip(first, pages(product), strict=True))


def count(canvas: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int(np.all(canvas == colour, axis=2).sum())


def test_chosen_options_can_be_seen(product: Product) -> None:
    none = ItemPage("goal", product, {}, False)
    name, values = next(iter(product.options.items()))
    dark = [count(drawn(dataclasses.replace(none, chosen={name: value})), BAR) for value in values]
    assert min(dark) > count(drawn(none), BAR) + 400
    assert len({drawn(dataclasses.replace(none, chosen={name: value})).tobytes() for value in values}) == len(values)


def test_the_buy_button_and_the_position_can_be_seen(product: Product) -> None:
    assert count(drawn(ItemPage("goal", product, {}, False)), BUY) > 1000
    first, second = (
        drawn(ResultsPage("goal", "rug", number, 50, (product,) * 10, frozenset(), True)) for number in (2, 3)
    )
    different = np.argwhere(np.any(first != second, axis=2))
    assert 0 < len(different) < 200


def test_viewed_products_look_different(product: Product) -> None:
    page = ResultsPage("goal", "rug", 1, 1, (product,), frozenset(), False)
    assert not np.array_equal(drawn(page), drawn(dataclasses.replace(page, viewed=frozenset({product.asin}))))


def test_what_does_not_fit_is_reached_by_scrolling(product: Product) -> None:
    long = dataclasses.replace(product, description="Words and more of them. " * 300)
    page = SubPage("goal", long, "description")
    layout = Renderer(640, 480, Pictures(None)).layout(page)
    assert layout.height > 3 * layout.view_height(480)
    top, bottom = drawn(page), drawn(page, scroll=layout.height - layout.view_height(480))
    head = 480 - layout.view_height(480)
    assert np.array_equal(top[:head], bottom[:head])
    assert not np.array_equal(top[head:, -6:], bottom[head:, -6:])  # the scroll bar
    assert np.array_equal(drawn(page, scroll=0), top)


def test_markup_is_drawn_and_not_interpreted(product: Product) -> None:
    plain, marked = (
        drawn(ItemPage("goal", dataclasses.replace(product, title=title), {}, False))
        for title in ("bold &", "<b>bold</b> &amp;")
    )
    assert not np.array_equal(plain, marked)
    rows = list(lines("<b>bold</b> &amp;", STYLE, 400))
    assert [[word for _, word in row] for row in rows] == [["<b>bold</b>", "&amp;"]]


@pytest.mark.parametrize(
    "text", ["Crème brûlée", "Größe ½ – “™®”", "東京", "\u202egnp.exe", "a\x00b", "👩‍👧 x", "W" * 5000]
)
def test_any_text_can_be_drawn(product: Product, text: str) -> None:
    for page in pages(dataclasses.replace(product, title=text, options={text: (text, "x")}, description=text)):
        assert drawn(page).shape == (480, 640, 3)
    assert drawn(SearchPage(text)).tobytes() != drawn(SearchPage("")).tobytes()


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=400), st.integers(1, 500), st.integers(1, 4))
def test_lines_fit_and_lose_no_words(text: str, width: int, limit: int) -> None:
    rows = list(lines(text, STYLE, width))
    words = "".join("".join(word for _, word in row) for row in rows)
    assert len(words) == len("".join(text.split()))
    for row in rows:
        x, word = row[-1]
        assert x + text_width(word, STYLE) <= width + 1 or len(word) == 1
    assert len(list(lines(text, STYLE, width, limit))) == min(limit, len(rows))


def test_text_that_is_cut_ends_with_dots() -> None:
    (row,) = lines("one two three four five six", STYLE, 60, limit=1)
    assert row[-1][1] == "…"
    assert row[-1][0] + text_width("…", STYLE) <= 60


def picture(folder: Path, name: str, colour: tuple[int, int, int], size: tuple[int, int] = (50, 40)) -> None:
    Image.new("RGB", size, colour).save(folder / name)


def test_pictures_come_from_the_operators_folder(product: Product, tmp_path: Path) -> None:
    picture(tmp_path, "main.png", (250, 0, 250))
    picture(tmp_path, "red.jpg", (250, 0, 0))
    shown = dataclasses.replace(
        product,
        image="https://m.example/I/main.png",
        options={"color": ("red", "blue")},
        option_images={"red": "https://m.example/I/red.jpg"},
    )
    page = ItemPage("goal", shown, {}, False)
    assert count(drawn(page, pictures=tmp_path), (250, 0, 250)) > 1500
    chosen = drawn(dataclasses.replace(page, chosen={"color": "red"}), pictures=tmp_path)
    assert count(chosen, (250, 0, 250)) == 0
    assert np.any(np.all(abs(chosen.astype(int) - (250, 0, 0)) < 6, axis=2))


@pytest.mark.parametrize("url", ["https://x/none.png", "https://x/../../etc/passwd", "..", "", "https://x/a b.png"])
def test_without_a_picture_there_is_a_placeholder(product: Product, tmp_path: Path, url: str) -> None:
    page = ItemPage("goal", dataclasses.replace(product, image=url), {}, False)
    assert np.array_equal(drawn(page, pictures=tmp_path), drawn(page))


def test_placeholders_tell_kinds_apart(product: Product) -> None:
    kinds = [dataclasses.replace(product, query=query) for query in ("area rug", "lipstick", "")]
    assert len({drawn(ItemPage("goal", kind, {}, False)).tobytes() for kind in kinds}) == 3


def test_a_broken_picture_is_told_and_crossed_out(
    product: Product, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    (tmp_path / "text.jpg").write_text("<svg/>")
    for name in ("broken.png", "text.jpg"):
        page = ItemPage("goal", dataclasses.replace(product, image=f"https://x/{name}"), {}, False)
        with caplog.at_level(logging.WARNING):
            assert not np.array_equal(drawn(page, pictures=tmp_path), drawn(page))
        assert f"{name} cannot be shown as a picture" in caplog.text


def test_a_picture_that_is_too_large_is_not_decoded(
    product: Product, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Image.new("1", (9000, 9000)).save(tmp_path / "large.png")
    page = ItemPage("goal", dataclasses.replace(product, image="https://x/large.png"), {}, False)
    with caplog.at_level(logging.WARNING):
        drawn(page, pictures=tmp_path)
    assert "are too many" in caplog.text


def test_sprites_stay_within_their_bytes(shop: Shop) -> None:
    renderer = Renderer(640, 480, Pictures(None))
    canvas = np.zeros((480, 640, 3), np.uint8)
    for number in range(0, 1000, 2):
        renderer.layout(ItemPage("goal", shop.catalogue.product(number), {}, False)).draw(canvas, 0)
    assert SPRITES.bytes <= 24 * 2**20


def test_words_are_those_in_sight(product: Product) -> None:
    """Line by line what scrolling brings up, and no more."""
    page = next(page for page in pages(product) if isinstance(page, ItemPage))
    layout = Renderer(640, 200, Pictures(None)).layout(page)
    whole = layout.words(10_000, 0)
    assert f"Price: {product.price_tag}" in whole
    assert {value for values in product.options.values() for value in values} <= set(whole)
    top, scrolled = layout.words(200, 0), layout.words(200, 120)
    assert len(top) < len(whole)
    assert set(top) | set(scrolled) <= set(whole)
    assert top != scrolled
    head = [line for line in top if line in scrolled]
    assert any(line.startswith("Instruction: ") for line in head), "the head stays"
    reached = {line for scroll in range(0, layout.height, 40) for line in layout.words(200, scroll)}
    assert reached == set(whole)
