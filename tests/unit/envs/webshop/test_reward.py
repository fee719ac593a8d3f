"""The reward's test facts of upstream, with TextBlob as the tagger."""

from __future__ import annotations

import random

import pytest
from overworld_envs.webshop.catalogue.goals import Goal, offset_draw, weighted_draw
from overworld_envs.webshop.catalogue.products import Product
from overworld_envs.webshop.engine.colours import simplified
from overworld_envs.webshop.engine.reward import matched_attributes, matched_options, reward, type_score
from overworld_envs.webshop.engine.tagger import TextBlobTagger, tagger

TAGGER = TextBlobTagger()

SNEAKERS = "Mens D.O.N. Issue 2 Gca Basketball Sneakers Shoes Casual - Off White"
HIGH_TOPS = (
    "PEAK High Top Mens Basketball Shoes Lou Williams Streetball Master Breathable Non Slip Outdoor Sneakers"
)  # fmt: skip
CORD = (
    "Saireed UL Listed 2 Prong Power Cord for JBL Bar 3.1 Bar 2.1 Channel 4K Ultra HD Soundbar Home Theater System "
    "Subwoofer"
)
OTHER_CORD = (
    "BRST AC Power Cord Outlet Socket Cable Plug Lead for Panasonic SC-HT830V DVD/VCR Combo Home Theater System"
)  # fmt: skip
KNOB = "Rusticware 921ORB Kitchen and Bath Cabinet Knob"
TWEEZERS = (
    "Minkissy 2pcs Stainless Steel Eyebrow Tweezers Blackhead Acne Remover Portable Makeup Tweezers (Silver)"
)  # fmt: skip


def goal(**fields: object) -> Goal:
    plain = {
        "asin": "A", "category": "c", "query": "query 1", "title": "Mens Sneakers", "path": "a › b › c", "text": "",
        "attributes": (), "options": (), "price_upper": 40.0,
    }  # fmt: skip
    return Goal(**{**plain, **fields})  # type: ignore[arg-type]


def product(**fields: object) -> Product:
    plain = {
        "asin": "B", "title": "Mens Sneakers", "category": "c", "query": "query 1", "path": "a › b › c",
        "description": "", "bullets": (), "pricing": (35.0,), "price_tag": "$35.0", "options": {}, "image": "",
        "option_images": {}, "attributes": (),
    }  # fmt: skip
    return Product(**{**plain, **fields})  # type: ignore[arg-type]


def test_the_same_item_is_of_its_type() -> None:
    score = type_score(goal(), product(), TAGGER)
    assert (score.factor, score.query_match, score.category_match, score.title_score) == (1, True, True, 1)


def test_another_query_is_no_match() -> None:
    assert not type_score(goal(), product(query="query 2"), TAGGER).query_match


@pytest.mark.parametrize(
    ("path", "match"),
    [
        ("b › c › a", True),
        ("d › e › f", False),
        ("a › d › b", True),
        ("a › a › b", True),
        ("a › a › d", False),
    ],
)
def test_two_common_categories_match(path: str, match: bool) -> None:
    assert type_score(goal(), product(path=path), TAGGER).category_match is match


@pytest.mark.parametrize(
    ("wanted", "bought", "title_score"),
    [
        (SNEAKERS, HIGH_TOPS, 0.444),  # spaCy, upstream's tagger, says 0.333
        (CORD, OTHER_CORD, 0.294),
        (CORD.rsplit(" ", 4)[0], OTHER_CORD, 0.154),
        (KNOB, TWEEZERS, 0.0),
    ],
)
def test_titles(wanted: str, bought: str, title_score: float) -> None:
    """Upstream's own vectors, .333, .3, .15 and below .05; one differs by the tagger, but decides the same."""
    score = type_score(goal(title=wanted), product(title=bought, query="q", path="x"), TAGGER)
    assert score.title_score == pytest.approx(title_score, abs=0.01)


@pytest.mark.parametrize(
    ("title_score", "matches", "factor"),
    [(0.0, True, 0.0), (0.05, True, 0.1), (0.15, True, 1.0), (0.15, False, 0.5), (0.2, False, 0.5), (0.25, False, 1.0)],
)
def test_titles_win_over_other_matches(title_score: float, matches: bool, factor: float) -> None:
    class Fixed(TextBlobTagger):
        def _nouns(self, title: str) -> tuple[str, ...]:
            own = [f"w{number}" for number in range(100)]
            return tuple(own) if title == "wanted" else tuple(own[: round(100 * title_score)])

    bought = product(title="bought") if matches else product(title="bought", query="q", path="x")
    assert type_score(goal(title="wanted"), bought, Fixed()).factor == factor


def test_a_goal_without_nouns_scores_a_fifth() -> None:
    assert type_score(goal(title="2 3"), product(title="Shoes"), TAGGER).title_score in (0.0, 0.2)
    assert type_score(goal(title=""), product(title="Shoes"), TAGGER).title_score == 0.2


OILS = ("tea tree", "essential oils", "natural ingredients")


@pytest.mark.parametrize(
    ("fields", "count"),
    [
        ({"attributes": ("tea tree", "essential oil", "natural ingredients")}, 3),
        ({"attributes": ("essential oil", "natural ingredients")}, 2),
        (
            {
                "bullets": ("This shampoo has essential oils and smells good",),
                "description": "Best shampoo on the market, made with natural ingredients",
            },
            2,
        ),
        ({"attributes": ("tea bag", "earl gray", "lipton"), "description": "English tea from Lipton"}, 0),
    ],
)
def test_attributes(fields: dict[str, object], count: int) -> None:
    assert matched_attributes(OILS, product(**fields)) == count


@pytest.mark.parametrize(
    ("chosen", "wanted", "count"),
    [
        (["grey", "XL", "pack of 12"], ["grey", "XL", "pack of 12"], 3),
        (["pack of 12", "grey", "XL"], ["grey", "XL", "pack of 12"], 3),
        (["blue", "XL", "pack of 12"], ["grey", "XL", "pack of 12"], 2),
        (["cool powder snow", "XL"], ["powder snow", "XL"], 2),
        (["grey"], [], 0),
        ([], ["grey", "XL"], 0),
        (["x-large"], ["large"], 1),
        (["8.5"], ["8"], 1),
        (["large"], [("size", "large")], 1),
        (["red"], [("color", "dark red")], 1),
        (["colored"], ["red"], 1),
        (["titanium"], ["tan"], 1),
        (["cafe"], ["café"], 1),
        (["caffè"], ["café au lait"], 0),
    ],
)
def test_options(chosen: list[str], wanted: list[str | tuple[str, str]], count: int) -> None:
    assert matched_options(wanted, chosen) == count


@pytest.mark.parametrize(
    ("text", "colour"),
    [
        ("", ""),
        ("black forest", "black"),
        ("violet lavender", "lavender"),
        ("steelivy fuchsia", "fuchsia"),
        ("123alabaster", "alabaster"),
        ("webshop", "webshop"),
    ],
)
def test_colours(text: str, colour: str) -> None:
    assert simplified(text) == colour


FOUND_IN_TEXT = {
    "bullets": tuple("This shampoo has essential oils"),  # letter by letter, as upstream's own test has it
    "description": "Best shampoo on the market, made with natural ingredients",
}


@pytest.mark.parametrize(
    ("wanted", "bought", "score"),
    [
        ({}, {"attributes": OILS}, 1.0),
        ({}, FOUND_IN_TEXT, 4 / 6),
        ({"options": ("grey", "XL", "pack of 12")}, FOUND_IN_TEXT, 4 / 7),
        (
            {"options": ("grey", "XL", "pack of 12"), "title": CORD.rsplit(" ", 4)[0]},
            {**FOUND_IN_TEXT, "title": OTHER_CORD, "query": "q", "path": "x"},
            2 / 7,
        ),
    ],
)
def test_the_score(wanted: dict[str, object], bought: dict[str, object], score: float) -> None:
    asked = goal(**{"attributes": OILS, "options": ("grey", "XL"), **wanted})
    result = reward(asked, product(**bought), 35.0, {"color": "grey", "size": "XL"}, TAGGER)
    assert result.score == pytest.approx(score)
    assert result.r_price is True
    assert result.w_att + result.w_option + result.w_price == pytest.approx(1)


def test_a_price_above_the_limit_costs_its_share() -> None:
    asked = goal(attributes=OILS)
    result = reward(asked, product(attributes=OILS), 40.01, {}, TAGGER)
    assert (result.score, result.r_price, result.r_option) == (0.75, False, None)
    assert "r_option" not in result.metrics()
    assert reward(asked, product(attributes=OILS), 40.0, {}, TAGGER).score == 1


def test_every_report_names_the_tagger() -> None:
    result = reward(goal(attributes=OILS), product(), 35.0, {}, TAGGER)
    assert result.tagger == TAGGER.name
    assert TAGGER.name in result.report()
    assert TAGGER.name.startswith("textblob 0.")


def test_a_model_of_spacy_that_is_not_there_is_refused() -> None:
    with pytest.raises((ImportError, OSError)):
        tagger("spacy:en_no_such_model")


def test_the_draw_of_the_facts() -> None:
    """Upstream's own vector."""
    rng = random.Random(24)
    weights = [rng.randint(0, 10) for _ in range(50)]
    sums = [float(sum(weights[: at + 1])) for at in range(50)]
    assert [offset_draw(sums, rng) for _ in range(3)] == [44, 15, 36]


def test_upstreams_draw_is_off_by_one() -> None:
    totals = [1.0, 11.0, 12.0]
    draws = [weighted_draw(totals, seed, compat=True) for seed in range(600)]
    assert 0 not in draws
    assert 40 < draws.count(1) < 160
    draws = [weighted_draw(totals, seed, compat=False) for seed in range(600)]
    assert set(draws) == {0, 1, 2}
    assert 440 < draws.count(1) < 560
