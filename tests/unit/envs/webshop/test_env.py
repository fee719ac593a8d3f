"""The envs as a trainer sees them: specs, observations, scrolling, splits, ends, the expert."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from overworld import End, Outcome, Runner
from overworld_envs.webshop.engine.shop import Shop
from overworld_envs.webshop.env import ShopOptions, WebShop, env_classes
from overworld_envs.webshop.opening import open_shop
from overworld_envs.webshop.settings import ShopSettings
from pydantic import ValidationError


def runner(shop: Shop, kind: str = "synthetic", *, expert: bool = False, **options: Any) -> Runner:
    (env_class,) = (one for one in env_classes(shop) if one.kind == kind)
    return Runner(env_class(ShopOptions(**options)), expert=expert)


def session(runner: Runner) -> Any:
    assert isinstance(runner.env, WebShop)
    return runner.env._session


def test_specs(shop: Shop) -> None:
    synthetic, human = env_classes(shop)
    assert (synthetic.spec.id, human.spec.id) == ("webshop/synthetic", "webshop/human")
    spec = runner(shop, rules="compat").spec
    count = shop.catalogue.goal_count("synthetic")
    assert spec.splits == {"train": count - 1500, "eval": 1000, "test": 500, "all": count, "weighted": 0}
    assert human.spec.splits == {"all": shop.catalogue.goal_count("human"), "weighted": 0}
    assert spec.default_split == "train"
    assert human.spec.default_split == "all"
    assert (spec.reward_min, spec.reward_max, spec.has_expert) == (0, 1, True)
    assert spec.provenance["tagger"] == shop.tagger.name
    assert spec.provenance["rules"].startswith("compat")
    assert synthetic.spec.provenance["rules"].startswith("strict")
    assert "1,000 products, seed 0" in spec.provenance["catalogue"]
    assert len(spec.task) < 600


@pytest.mark.parametrize(
    "options",
    [{"width": 63}, {"height": 4000}, {"rules": "loose"}, {"page_text": True}, {"max_turns": 0}, {"data": "/etc"}],
)
def test_wrong_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(options))):
        ShopOptions(**options)


def test_an_observation_holds_goal_clickables_and_frame(shop: Shop) -> None:
    shopper = runner(shop)
    result = shopper.reset(5)
    goal = session(shopper).goal
    assert result.observation.text == f"Instruction: {goal.text}\nThis is the search page: search[words]."
    assert result.observation.admissible == ()
    assert [image.pixels.shape for image in result.observation.images] == [(480, 640, 3)]
    result = shopper.step(f"search[{goal.query}]")
    assert result.observation.text == f"Instruction: {goal.text}"
    clicks = [f"click[{text}]" for text in session(shopper).page().clickables()]
    assert list(result.observation.admissible) == clicks
    assert (result.reward, result.end, result.metrics) == (0, None, {"score": 0.0})


@pytest.mark.parametrize(("mode", "mark"), [("text", " [SEP] "), ("text_rich", "[button] Back to Search [button_]")])
def test_the_pages_text_is_an_option(shop: Shop, mode: str, mark: str) -> None:
    shopper = runner(shop, page_text=mode)
    shopper.reset(5)
    text = shopper.step("search[mug]").observation.text
    assert mark in text
    assert "Page 1 (Total results: " in text


def test_what_is_not_admissible_is_skipped(shop: Shop) -> None:
    shopper = runner(shop)
    before = shopper.reset(5).observation
    for action in ("click[buy now]", "mug", "scroll[down]", "search[]"):
        result = shopper.step(action)
        assert (result.outcome, result.executed) == (Outcome.NOT_ADMISSIBLE, None)
        assert result.observation is before
    assert shopper.step(" Search[mug] ").executed is None
    assert shopper.step(" search[MUG] ").executed == "search[mug]"


def test_a_purchase_ends_the_episode_with_the_report(shop: Shop) -> None:
    shopper = runner(shop, expert=True)
    result = shopper.reset(7)
    while result.end is None:
        assert result.expert is not None
        result = shopper.step(result.expert.action)
    assert (result.end, result.success, result.reward) == (End.TASK, True, 1.0)
    assert result.metrics["score"] == 1.0
    assert {"r_type", "r_att", "r_price", "w_att", "w_price", "title_score"} <= set(result.metrics)
    assert "Your score: 1 of 1" in result.observation.text
    assert shop.tagger.name in result.observation.text


def test_a_part_of_what_was_asked_is_no_success(shop: Shop) -> None:
    shopper = runner(shop)
    for seed in range(5):
        shopper.reset(seed)
        result = shopper.step(f"search[{session(shopper).goal.title}]")
        shopper.step(result.observation.admissible[2])
        result = shopper.step("click[buy now]")
        assert (result.end, result.success) == (End.TASK, False)
        assert 0 <= result.reward < 1


def test_turns_are_limited_to_fifty(shop: Shop) -> None:
    shopper = runner(shop, width=64, height=64)
    result = shopper.reset(0)
    while result.end is None:
        result = shopper.step(None)
    assert (result.turn, result.end, result.success, result.reward) == (50, End.TIME_LIMIT, False, 0)


def test_splits_do_not_share_goals_numbers(shop: Shop) -> None:
    shopper = runner(shop, width=64, height=64)
    names: dict[str, set[str]] = {}
    for split in ("train", "eval", "test"):
        names[split] = set()
        for task in (0, shopper.spec.splits[split] - 1):
            shopper.reset(1, split=split, task=task)
            names[split].add(session(shopper)._name)
    count = shopper.spec.splits["all"]
    assert names == {"test": {"0", "499"}, "eval": {"500", "1499"}, "train": {"1500", str(count - 1)}}


@pytest.mark.parametrize("split", ["train", "weighted"])
def test_an_episode_depends_on_its_seed_alone(shop: Shop, split: str) -> None:
    def trace(shopper: Runner, seed: int) -> list[Any]:
        rng = random.Random(seed)
        result = shopper.reset(seed, split=split)
        seen: list[Any] = []
        while result.end is None and result.turn < 12:
            seen.append((result.observation.text, result.observation.images[0].pixels.tobytes()))
            words = rng.choice(session(shopper).goal.text.split())
            result = shopper.step(rng.choice(result.observation.admissible or (f"search[{words}]",)))
        return [*seen, result.reward, result.metrics]

    random.seed(1)
    state = random.getstate()
    one, other = runner(shop, width=320, height=240), runner(shop, width=320, height=240)
    first = [trace(one, seed) for seed in range(6)]
    assert [trace(other, seed) for seed in reversed(range(6))] == first[::-1]
    assert len({str(one[0][0]) for one in first}) == 6
    assert random.getstate() == state


def test_scrolling(shop: Shop) -> None:
    shopper = runner(shop, width=640, height=200)
    shopper.reset(3)
    result = shopper.step("search[easy]")
    assert "scroll[down]" in result.observation.admissible
    assert "scroll[up]" not in result.observation.admissible
    frames = [result.observation.images[0].pixels.copy()]
    text = result.observation.text
    while "scroll[down]" in result.observation.admissible:
        result = shopper.step("Scroll[Down]")
        assert (result.reward, result.observation.text, result.end) == (0, text, None)
        assert not np.array_equal(result.observation.images[0].pixels, frames[-1])
        frames.append(result.observation.images[0].pixels.copy())
    assert 2 < len(frames) < 15
    while "scroll[up]" in result.observation.admissible:
        result = shopper.step("scroll[up]")
    assert np.array_equal(result.observation.images[0].pixels, frames[0])
    assert shopper.step("scroll[up]").outcome is Outcome.NOT_ADMISSIBLE


def test_another_page_begins_at_its_top_and_options_stay_in_sight(shop: Shop) -> None:
    shopper = runner(shop, width=640, height=200)
    shopper.reset(3)
    shopper.step("search[running shoes]")
    shopper.step("scroll[down]")
    result = shopper.step(f"click[{session(shopper).page().products[0].asin}]")
    assert "scroll[up]" not in result.observation.admissible
    assert "scroll[up]" in shopper.step("scroll[down]").observation.admissible
    values = [text for text, target in session(shopper).page().clickables().items() if isinstance(target, tuple)]
    assert "scroll[up]" in shopper.step(f"click[{values[-1]}]").observation.admissible


@pytest.mark.parametrize("kind", ["synthetic", "human"])
def test_the_expert_buys_what_was_asked(shop: Shop, kind: str) -> None:
    shopper = runner(shop, kind, expert=True, width=64, height=64)
    rewards = []
    for seed in range(100):
        result = shopper.reset(seed, split="all")
        while result.end is None:
            assert result.expert is not None
            result = shopper.step(result.expert.action)
            assert result.outcome is Outcome.EXECUTED
        rewards.append(result.reward)
    assert np.mean(rewards) > 0.98


def test_the_expert_finds_back_from_anywhere(shop: Shop) -> None:
    shopper = runner(shop, expert=True, width=64, height=64)
    for seed in range(20):
        rng = random.Random(seed)
        result = shopper.reset(seed)
        for _ in range(10):
            clicks = [one for one in result.observation.admissible if one != "click[buy now]"]
            result = shopper.step(rng.choice(clicks or ["search[red running shoes]"]))
        while result.end is None:
            assert result.expert is not None
            result = shopper.step(result.expert.action)
        assert result.end is End.TASK
        assert result.reward > 0.9


def test_the_expert_buys_the_best_it_finds_if_the_product_is_not_among_the_results(tmp_path: Path) -> None:
    """Sixty products look alike, the goal's comes last and another one is as good."""
    rows: list[dict[str, object]] = []
    notes: dict[str, dict[str, object]] = {}
    for number in range(60):
        asin = f"B{number:02}"
        rows.append(
            {
                "asin": asin, "name": "Blue mug", "category": "garden", "query": "mug", "product_category": "a › b",
                "full_description": "", "small_description": [""], "pricing": "$5.00", "images": ["x"],
                "customization_options": {"color": [{"value": "red"}, {"value": "blue"}]},
            }
        )  # fmt: skip
        notes[asin] = {"attributes": ["dishwasher safe"] if number in (7, 59) else ["oven safe"]}
    notes["B59"] |= {"instruction": "Find me dishwasher safe mug", "instruction_attributes": ["dishwasher safe"]}
    (tmp_path / "items_shuffle.json").write_text(json.dumps(rows))
    (tmp_path / "items_ins_v2.json").write_text(json.dumps(notes))
    shopper = runner(open_shop(ShopSettings(data=tmp_path, cache=tmp_path / "cache")), expert=True)
    for task in range(2):
        result = shopper.reset(0, split="all", task=task)
        while result.end is None:
            assert result.expert is not None
            result = shopper.step(result.expert.action)
        assert (session(shopper)._asin, result.reward) == ("B07", 1.0)


def test_a_shopper_who_clicks_at_random_earns_little(shop: Shop) -> None:
    shopper = runner(shop, width=64, height=64)
    rewards = []
    for seed in range(150):
        rng = random.Random(seed)
        result = shopper.reset(seed)
        while result.end is None:
            words = rng.choice(session(shopper).goal.text.split())
            result = shopper.step(rng.choice(result.observation.admissible or (f"search[{words}]",)))
        rewards.append(result.reward)
    assert 0.02 < np.mean(rewards) < 0.25
