"""The shop answers as upstream's text env did on a made-up catalogue: goals, pages, clickables, rewards."""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from overworld_envs.webshop.catalogue.goals import Goal
from overworld_envs.webshop.engine import page_text
from overworld_envs.webshop.engine.pages import DonePage, SearchPage
from overworld_envs.webshop.engine.session import Session
from overworld_envs.webshop.engine.shop import Shop

TRACE = (Path(__file__).parent / "vectors" / "upstream_trace_on_own_catalogue.txt").read_text()


@dataclasses.dataclass
class Step:
    """What upstream answered; `action` is None for a reset."""

    session: int
    action: str | None
    reward: float
    done: bool
    url: str
    text: str
    has_search_bar: bool
    clickables: list[str]


def steps() -> Iterator[Step]:
    action, reward, done, url, text = None, 0.0, False, "", ""
    for line in TRACE.splitlines():
        if match := re.fullmatch(r">> (.*) \| reward (\S+) done (\w+)", line):
            action, reward, done = match[1], float(match[2]), match[3] == "True"
        elif line.startswith("  URL  "):
            url = line.removeprefix("  URL  ")
        elif line.startswith("  TEXT "):
            text = ast.literal_eval(line.removeprefix("  TEXT "))
        elif line.startswith("  ACT  "):
            act = ast.literal_eval(line.removeprefix("  ACT  "))
            number = re.match(r"http://127.0.0.1:3000/(?:[a-z_]+/)?(\d+)", url)
            assert number is not None
            yield Step(int(number[1]), action, reward, done, url, text, act["has_search_bar"], act["clickables"])
            action, reward, done = None, 0.0, False


STEPS = list(steps())


def recorded(prefix: str) -> list[Any]:
    return [ast.literal_eval(line.removeprefix(prefix)) for line in TRACE.splitlines() if line.startswith(prefix)]


def as_upstream(goal: Goal, kind: str) -> dict[str, Any]:
    return {
        "asin": goal.asin,
        "category": goal.category,
        "query": goal.query,
        "name": goal.title,
        "product_category": goal.path,
        "instruction_text": goal.text,
        "attributes": list(goal.attributes),
        "price_upper": goal.price_upper,
        "goal_options": dict(goal.options) if kind == "synthetic" else list(goal.options),  # type: ignore[arg-type]
        "weight": goal.weight,
    }


def test_the_trace_has_what_the_tests_below_compare() -> None:
    assert len(STEPS) == 46
    assert {step.session for step in STEPS} == {0, 1, 2}
    assert sum(step.done for step in STEPS) == 1


def test_goals(traced_shop: Shop) -> None:
    catalogue = traced_shop.catalogue
    assert len(catalogue) == 60
    assert catalogue.goal_count("synthetic") == 118
    assert catalogue.goal_count("human") == 30
    synthetic, human = recorded("goal0 ")
    assert as_upstream(catalogue.goal("synthetic", 0), "synthetic") == synthetic
    assert as_upstream(catalogue.goal("human", 0), "human") == human


def test_prices_shown(traced_shop: Shop) -> None:
    for prices in recorded("prices "):
        products = [traced_shop.catalogue.product(number) for number in range(len(prices))]
        assert [(product.price_tag, list(product.pricing)) for product in products] == prices


@pytest.mark.parametrize("number", [0, 1, 2])
def test_sessions(traced_shop: Shop, number: int) -> None:
    """Every recorded step: address, text, clickables, reward."""
    session = Session(traced_shop, traced_shop.catalogue.goal("human", number), "compat", name=str(number))
    written = page_text.rich if number == 2 else page_text.plain
    for step in (step for step in STEPS if step.session == number):
        if step.action is not None:
            assert session.act(step.action) == step.reward, step.action
        page = session.page()
        assert session.url() == step.url, step.action
        assert written(page) == step.text, step.action
        assert list(page.clickables()) == step.clickables, step.action
        assert isinstance(page, SearchPage) == step.has_search_bar
        assert step.done == (isinstance(page, DonePage) and step.reward > 0)


def test_the_reward_of_the_trace(traced_shop: Shop) -> None:
    session = Session(traced_shop, traced_shop.catalogue.goal("human", 0), "compat")
    for action in ("search[ceramic mug navy]", "click[zz00000001]", "click[large]", "click[navy blue]"):
        session.act(action)
    assert session.act("click[Buy Now]") == 1.0
    assert session.result is not None
    (line,) = (line for line in TRACE.splitlines() if line.startswith("{'r_type'"))
    assert {"score": 1.0, **ast.literal_eval(line)} == session.result.metrics()
