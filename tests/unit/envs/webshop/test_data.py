"""Upstream's files: how they are read, and what is said when they are wrong."""

from __future__ import annotations

import json
import logging
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from overworld_envs.webshop.catalogue import goals, sources, store
from overworld_envs.webshop.catalogue.errors import CatalogueError
from overworld_envs.webshop.catalogue.products import product
from overworld_envs.webshop.engine.shop import Shop
from overworld_envs.webshop.opening import open_shop, opened
from overworld_envs.webshop.settings import ShopSettings

VECTORS = Path(__file__).parent / "vectors"


def row(**fields: Any) -> dict[str, Any]:
    return {
        "asin": "B000000001", "name": "Mug", "category": "garden", "query": " Ceramic MUG ",
        "product_category": "Home › Kitchen", "full_description": "A mug.", "small_description": ["Holds tea."],
        "pricing": "$19.99", "customization_options": {}, "images": ["https://x/1.jpg"], **fields,
    }  # fmt: skip


NOTES = {"B000000001": {"attributes": ["easy clean"], "instruction": "Find me mug", "instruction_attributes": ["a"]}}

_TWO_NOTES = NOTES | {"B2": NOTES["B000000001"]}


def written(folder: Path, rows: Any, notes: Any = NOTES, human: Any = None) -> ShopSettings:
    """Files in `folder`; a text is written as it is."""
    data = folder / "data"
    data.mkdir(exist_ok=True)
    names = {"items_shuffle.json": rows, "items_ins_v2.json": notes, "items_human_ins.json": human}
    for name, content in names.items():
        if content is not None:
            (data / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return ShopSettings(data=data, cache=folder / "cache")


def test_a_row_becomes_a_product(tmp_path: Path) -> None:
    options = {
        "Color": [{"value": " Black/White ", "image": "https://x/bw.jpg"}, {"value": "Red", "image": None}],
        "Size": None,
    }
    shop = opened(written(tmp_path, [row(customization_options=options, small_description="One text.")]))
    found = shop.product(0)
    assert found.options == {"color": ("black | white", "red")}
    assert found.option_images == {"black | white": "https://x/bw.jpg"}
    assert found.bullets == ("One text.",)
    assert found.query == "ceramic mug"
    assert found.attributes == ("easy clean",)
    assert found.document == "mug a mug. one text. color: black | white, red"
    assert shop.number("B000000001") == 0
    assert shop.number("B00000000") is None
    with pytest.raises(IndexError):
        shop.product(1)


@pytest.mark.parametrize(
    ("pricing", "prices", "tag"),
    [
        (None, (100.0,), "$100.0"),
        ("", (100.0,), "$100.0"),
        ("$19.99", (19.99,), "$19.99"),
        ("$1,299.00", (1299.0,), "$1299.0"),
        ("$12.50 - $30.00", (12.5, 30.0), "$12.5 to $30.0"),
        ("from $1.50$2.50$3.50", (1.5, 2.5), "$1.5 to $2.5"),
    ],
)
def test_prices(tmp_path: Path, pricing: str | None, prices: tuple[float, ...], tag: str) -> None:
    found = opened(written(tmp_path, [row(pricing=pricing)])).product(0)
    assert (found.pricing, found.price_tag) == (prices, tag)


def test_a_product_without_the_field_has_the_price_of_none(tmp_path: Path) -> None:
    without = row()
    del without["pricing"]
    assert opened(written(tmp_path, [without])).product(0).price_tag == "$100.0"


def test_rows_that_upstream_leaves_out(tmp_path: Path) -> None:
    rows = [row(), row(name="Second"), row(asin="nan"), row(asin="B0000000011"), row(asin="B2")]
    shop = opened(written(tmp_path, rows))
    assert [shop.product(number).title for number in range(len(shop))] == ["Mug", "Mug"]
    assert [shop.product(number).asin for number in range(len(shop))] == ["B000000001", "B2"]


def test_rows_are_counted_before_any_is_left_out(tmp_path: Path) -> None:
    settings = written(tmp_path, [row(asin="nan"), row(), row(asin="B2")])
    assert len(opened(settings.model_copy(update={"products": 2}))) == 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"name": None}, r"row 1 \(B000000001\): name is None, not a text"),
        ({"name": "x" * 200_001}, "name has 200,001 characters"),
        ({"full_description": 7}, "full_description is 7, not a text"),
        ({"small_description": [1]}, r"small_description is \[1\], not a list of texts"),
        ({"images": []}, "images is empty"),
        ({"images": "x"}, "images is 'x', not a list"),
        ({"pricing": "19.99"}, r"pricing is '19.99'; expected '\$19.99'"),
        ({"pricing": "$a"}, "pricing is"),
        ({"pricing": 19.99}, "pricing is 19.99"),
        ({"customization_options": []}, None),
        ({"customization_options": ["x"]}, "customization_options is a list, not an object"),
        ({"customization_options": {"Color": "red"}}, "option 'Color' is not a list"),
        ({"customization_options": {"Color": [{"name": "red"}]}}, r"option 'Color' has .*expected \{'value': text\}"),
    ],
)
def test_wrong_fields(tmp_path: Path, wrong: dict[str, Any], message: str | None) -> None:
    settings = written(tmp_path, [row(**wrong)])
    if message is None:
        assert len(opened(settings)) == 1
        return
    with pytest.raises(CatalogueError, match=message):
        opened(settings)
    assert not list(settings.cache.glob("*.unfinished"))


def test_half_a_surrogate_pair_is_no_text() -> None:
    """Some JSON readers let it pass."""
    with pytest.raises(CatalogueError, match="name holds half a surrogate pair"):
        product(row(name="\ud800"), {}, [], "row 1")


@pytest.mark.parametrize(
    ("rows", "notes", "human", "message"),
    [
        (json.dumps([row(), row(asin="B2")])[:-30], NOTES, None, "items_shuffle.json .* no complete JSON.* cut off"),
        ("", NOTES, None, "no complete JSON"),
        ("[]", NOTES, None, "has no products"),
        ({"item": row()}, NOTES, None, r"begins with '\{'; expected a list"),
        (["text"], NOTES, None, "row 1: no object with an asin"),
        ([row()], json.dumps(NOTES)[:-3], None, "items_ins_v2.json .* no complete JSON"),
        ([row()], {}, None, r"items_ins_v2\.json holds no object with product ids as keys, or an empty one"),
        ([row()], [row()], None, r"items_ins_v2\.json holds no object"),
        ('[{"asin": "B1", ]', NOTES, None, "no complete JSON"),
        ("[" * 200_000, NOTES, None, "no complete JSON"),
        ([row()], {"B000000001": []}, None, r"items_ins_v2.json, 'B000000001': \[\]; expected a dict"),
        ([row()], {"B000000001": {"instruction": "Find"}}, None, "instruction_attributes is missing"),
        (
            [row()],
            {"B000000001": {"instruction": "x", "instruction_attributes": []}},
            None,
            "no instruction_attributes",
        ),
        ([row()], {"B2": {"attributes": ["a"]}}, None, "no product has an instruction"),
        ([row()], NOTES, {"B000000001": {}}, "items_human_ins.json, 'B000000001'"),
        ([row()], NOTES, {"B000000001": ["text"]}, "a human instruction is a str"),
        ([row()], NOTES, {"B000000001": [{"instruction": "a"}]}, "instruction_attributes is missing"),
    ],
)
def test_broken_files(tmp_path: Path, rows: Any, notes: Any, human: Any, message: str) -> None:
    with pytest.raises(CatalogueError, match=message):
        opened(written(tmp_path, rows, notes, human))


@pytest.mark.parametrize("chunk", [1, 7, 300, 100_000])
def test_rows_are_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    """As upstream's parser reads them: NaN is a number."""
    monkeypatch.setattr(sources, "_CHUNK", chunk)
    rows = [row(asin=f"B{number}", name=f"Größe [{number}] \\ }}", list_price=float("nan")) for number in range(20)]
    for indent in (None, 1):
        settings = written(tmp_path, " \n" + json.dumps(rows, indent=indent), {"B3": NOTES["B000000001"]})
        shop = opened(settings)
        assert [shop.product(number).title for number in range(20)] == [one["name"] for one in rows]


def test_a_row_without_an_end_is_not_read_forever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_CHUNK", 100)
    monkeypatch.setattr(sources, "_LONGEST_ROW", 5000)
    with pytest.raises(CatalogueError, match="no complete JSON"):
        opened(written(tmp_path, [row(name="x" * 20_000)]))


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match="is not a folder"):
        opened(ShopSettings(data=tmp_path / "nowhere", cache=tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    with pytest.raises(CatalogueError, match=r"which items_shuffle.*There is none"):
        opened(ShopSettings(data=tmp_path / "data", cache=tmp_path / "cache"))
    settings = written(tmp_path, [row()])
    (tmp_path / "data" / "items_ins_v2.json").unlink()
    with pytest.raises(CatalogueError, match=r"items_ins_v2.json is missing"):
        opened(settings)


def test_of_several_files_one_must_be_meant(tmp_path: Path) -> None:
    for name in ("items_shuffle_100.json", "items_shuffle_1000.json"):
        (tmp_path / name).write_text(json.dumps([row(name=name)]))
        (tmp_path / name.replace("shuffle", "ins_v2")).write_text(json.dumps(NOTES))
    settings = ShopSettings(data=tmp_path, cache=tmp_path / "cache")
    with pytest.raises(CatalogueError, match=r"There is items_shuffle_100.json, items_shuffle_1000.json"):
        opened(settings)
    shop = opened(settings.model_copy(update={"products": 1000}))
    assert shop.product(0).title == "items_shuffle_1000.json"


def test_unknown_fields_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        opened(written(tmp_path, [row(pricng="$1", seller_id="known, and ignored")]))
    assert "field 'pricng' in 1 rows is unknown" in caplog.text
    assert "seller_id" not in caplog.text


def test_products_without_an_entry_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        shop = opened(written(tmp_path, [row(), row(asin="B2")]))
    assert "1 of 2 products have no entry" in caplog.text
    assert shop.product(1).attributes == ("DUMMY_ATTR",)
    assert shop.goal_count("synthetic") == 1


def test_a_catalogue_is_prepared_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = written(tmp_path, [row()])
    first = opened(settings)
    monkeypatch.setattr(store, "_build", lambda *_: pytest.fail("prepared again"))
    assert opened(settings).product(0) == first.product(0)


def test_what_a_killed_process_left_is_in_nobodys_way(tmp_path: Path) -> None:
    settings = written(tmp_path, [row()])
    opened(settings)
    folder = prepared(settings)
    folder.rename(folder.with_suffix(".unfinished"))
    assert len(opened(settings)) == 1
    assert prepared(settings) == folder


def test_changed_files_make_another_catalogue(tmp_path: Path) -> None:
    opened(written(tmp_path, [row()]))
    assert opened(written(tmp_path, [row(name="Another mug")])).product(0).title == "Another mug"


def prepared(settings: ShopSettings) -> Path:
    (folder,) = (path for path in settings.cache.iterdir() if path.is_dir())
    return folder


@pytest.mark.parametrize("name", ["postings.npy", "products.bin", "synthetic_goals.npy"])
def test_an_index_of_other_data_is_refused(tmp_path: Path, name: str) -> None:
    ours = written(tmp_path, [row()])
    (tmp_path / "other").mkdir()
    other = written(tmp_path / "other", [row(), row(asin="B2", name="Plate")], _TWO_NOTES)
    opened(ours)
    opened(other)
    shutil.copy(prepared(other) / name, prepared(ours) / name)
    with pytest.raises(CatalogueError, match=rf"{name} changed since: delete the folder"):
        opened(ours)


def test_a_folder_of_another_catalogue_is_refused(tmp_path: Path) -> None:
    ours = written(tmp_path, [row()])
    (tmp_path / "other").mkdir()
    other = written(tmp_path / "other", [row(asin="B2", name="Plate")], _TWO_NOTES)
    opened(ours)
    opened(other)
    folder = prepared(ours)
    shutil.rmtree(folder)
    shutil.copytree(prepared(other), folder)
    with pytest.raises(CatalogueError, match="prepared from other data"):
        opened(ours)


@pytest.mark.parametrize("damage", ["", "{}", "[]", "null", '{"files": {"nothing.npy": 1}}'])
def test_a_half_written_folder_is_refused(tmp_path: Path, damage: str) -> None:
    settings = written(tmp_path, [row()])
    opened(settings)
    (prepared(settings) / "catalogue.json").write_text(damage)
    with pytest.raises(CatalogueError, match=r"no prepared catalogue.*delete it"):
        opened(settings)


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    settings = written(tmp_path, [row()]).model_copy(update={"cache": tmp_path / "file"})
    with pytest.raises(CatalogueError, match=r"cannot be prepared in .*OVERWORLD_WEBSHOP_CACHE names a folder"):
        opened(settings)


def test_large_files_are_not_prepared_while_a_server_starts(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match=r"python -m overworld_envs.webshop"):
        opened(written(tmp_path, [row()]), build_up_to=10)


def test_a_tagger_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match="OVERWORLD_WEBSHOP_TAGGER=spacy:none"):
        open_shop(written(tmp_path, [row()]).model_copy(update={"tagger": "spacy:none"}))


def test_goals_of_a_price_seed_are_upstreams(shop: Shop) -> None:
    """Drawn as upstream draws after random.seed(0): first the prices of ranges, then two bounds for each product."""
    products = [shop.catalogue.product(number) for number in range(len(shop.catalogue))]
    random.seed(0)
    prices = {}
    for one in products:
        ranged = len(one.pricing) > 1
        prices[one.asin] = random.uniform(*one.pricing) if ranged else one.pricing[0]
    limits = {}
    for one in products:
        if one.synthetic is not None:
            candidates = [bound for bound in range(10, 1000, 10) if bound > prices[one.asin]][:4]
            limits[one.asin] = sorted(random.sample(candidates, 2))[1] if len(candidates) >= 2 else 1_000_000
    assert len({len(one.pricing) for one in products}) == 2
    for number in range(shop.catalogue.goal_count("synthetic")):
        goal = shop.catalogue.goal("synthetic", number)
        assert goal.price_upper == limits[goal.asin]
        assert shop.price(goal.asin) == prices[goal.asin]


@pytest.mark.parametrize(
    ("price", "limits"), [(5.0, {20, 30, 40}), (10.0, {30, 40, 50}), (965.0, {980, 990}), (980.0, {goals.NO_LIMIT})]
)
def test_limits_of_the_price(price: float, limits: set[float]) -> None:
    rng = random.Random(1)
    assert {goals._limit(price, rng) for _ in range(200)} == limits


def test_combinations_go_through_sorted_names() -> None:
    options = {"size": ("s", "m"), "color": ("red", "blue")}
    found = [goals.combination(options, number) for number in range(4)]
    assert [[value for _, value in one] for one in found] == [["red", "s"], ["red", "m"], ["blue", "s"], ["blue", "m"]]
    assert goals.combination({}, 0) == ()


def test_too_many_combinations_are_refused(tmp_path: Path) -> None:
    options = {name: [{"value": str(value)} for value in range(300)] for name in "abc"}
    with pytest.raises(CatalogueError, match="27,000,000 combinations"):
        opened(written(tmp_path, [row(customization_options=options)]))


def test_splits_are_the_papers() -> None:
    assert goals.splits(6910) == {
        "train": range(1500, 6910),
        "eval": range(500, 1500),
        "test": range(500),
        "all": range(6910),
    }
    assert goals.splits(3000) == {"all": range(3000)}


def test_weights_favour_rare_attributes(shop: Shop) -> None:
    totals = shop.catalogue.goal_totals("synthetic")
    weights = np.diff(totals, prepend=0.0)
    assert np.all(weights > 0)
    assert weights.max() > 2 * weights.min()
    assert len(set(np.diff(shop.catalogue.goal_totals("human")))) == 1
