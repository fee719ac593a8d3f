"""The envs: "webshop/synthetic" with instructions made from products, "webshop/human" with people's own."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import PIL
from overworld.authoring.env import (
    Action,
    ActionSpec,
    End,
    Env,
    EnvSpec,
    Expert,
    Image,
    Observation,
    Options,
    Transition,
)
from PIL import features
from pydantic import Field

from overworld_envs.webshop.catalogue import goals
from overworld_envs.webshop.catalogue.goals import KINDS, Kind
from overworld_envs.webshop.engine import page_text
from overworld_envs.webshop.engine.pages import ItemPage, Page, SearchPage
from overworld_envs.webshop.engine.session import Rules, Session
from overworld_envs.webshop.engine.shop import Shop
from overworld_envs.webshop.expert import Guide
from overworld_envs.webshop.frames.layout import Layout
from overworld_envs.webshop.frames.pictures import Pictures
from overworld_envs.webshop.frames.renderer import Renderer

WEIGHTED = "weighted"
"""The endless split: goals are drawn by weight, as upstream draws them when it is given no number."""

_TASK = (
    "You shop for what the instruction describes. On the search page, search[words] finds products. Elsewhere "
    "click[text] follows what can be clicked: a product's id, an option, a button. Choose the options that the "
    "instruction names before click[buy now], which ends the episode. The reward is the share of the instruction that "
    "the purchase meets: kind of product, attributes, options and price."
)
_SCROLLS = {"scroll[down]": 1, "scroll[up]": -1}
_SCROLLED = 0.8
"""How far a scroll moves the page, as a fraction of the visible part."""


class ShopOptions(Options):
    """Options of both envs."""

    max_turns: int = Field(default=50, ge=1, le=100_000, description="turns after which the host ends an episode")
    width: int = Field(default=640, ge=64, le=1920, description="width of the frame in pixels; all else scales with it")
    height: int = Field(default=480, ge=64, le=1920, description="height of the frame in pixels")
    rules: Rules = Field(
        default="strict", description='"compat" allows what upstream does: searching anywhere, pages past the last'
    )
    page_text: Literal["none", "text", "text_rich"] = Field(
        default="none", description="the page in words, too, in one of upstream's text modes"
    )
    show_attributes: bool = Field(default=False, description="whether products have a page with their attributes")


class WebShop(Env):
    """A shop and a goal. Subclasses set the kind of goal and the shop."""

    options_model: ClassVar[type[Options]] = ShopOptions
    draws_on_demand = True
    options: ShopOptions
    kind: ClassVar[Kind]
    shop: ClassVar[Shop]
    pictures: ClassVar[Pictures]

    def __init__(self, options: Options | None = None) -> None:
        super().__init__(options)
        provenance = {**self.spec.provenance, "rules": f"{self.options.rules}, {_UPSTREAM}"}
        self.spec = dataclasses.replace(self.spec, provenance=provenance)
        self._splits = goals.splits(self.shop.catalogue.goal_count(self.kind))
        self._renderer = Renderer(self.options.width, self.options.height, self.pictures)
        self._view = Image("page", np.zeros((1, 1, 3), np.uint8))  # the canvas comes with the first reset

    def reset(self, seed: int, split: str, task: int | None) -> Observation:
        """Starts with goal `task` of the split; in "weighted" with the one that `seed` draws."""
        catalogue = self.shop.catalogue
        if task is None:
            compat = self.options.rules == "compat"
            number = goals.weighted_draw(catalogue.goal_totals(self.kind), seed, compat=compat)
        else:
            number = self._splits[split][task]
        goal = catalogue.goal(self.kind, number)
        self._session = Session(
            self.shop, goal, self.options.rules, name=str(number), attributes=self.options.show_attributes
        )
        self._guide: Guide | None = None
        self._view = Image("page", self.canvas("page", self.options.height, self.options.width))
        self._open(self._session.page())
        return self._observation()

    def step(self, action: Any) -> Transition:
        """Scrolls, or does what the session understands by the action."""
        if action in _SCROLLS:
            self._scroll_to(self._scroll + _SCROLLS[action] * self._scroll_step())
            return Transition(self._observation(), 0.0, metrics=_NOTHING)
        before = self._page
        reward = self._session.act(action)
        after = self._session.page()
        same = isinstance(before, ItemPage) and isinstance(after, ItemPage)  # an option was chosen
        self._open(after, self._scroll if same else 0)
        result = self._session.result
        if result is None:
            return Transition(self._observation(), reward, metrics=_NOTHING)
        return Transition(self._observation(result.report()), reward, End.TASK, result.score == 1.0, result.metrics())

    def expert(self) -> Expert:
        """The way to the goal's product."""
        if self._guide is None:
            self._guide = Guide(self.shop, self._session.goal)
        return self._guide.advice(self._page)

    def caption(self) -> str:
        """The words that the frame shows, line by line. What the products' pictures show is not in it."""
        return "\n".join(self._layout.words(self.options.height, self._scroll))

    def resolve(self, action: Action, observation: Observation) -> Action | None:
        """The action in canonical form, in lower case; None if it means nothing on this page."""
        if not isinstance(action, str):
            return None
        action = action.strip()
        if action.lower() in _SCROLLS:
            return action.lower() if action.lower() in self._scrolls() else None
        return self._session.understood(action)

    def _open(self, page: Page, scroll: int = 0) -> None:
        self._page = page
        self._layout: Layout = self._renderer.layout(page)
        self._scroll_to(scroll)

    def _scroll_to(self, scroll: int) -> None:
        lowest = self._layout.height - self._layout.view_height(self.options.height)
        self._scroll = max(0, min(scroll, lowest))
        if self.pictures_wanted:
            self._layout.draw(self._view.pixels, self._scroll)

    def _scroll_step(self) -> int:
        return max(1, int(_SCROLLED * self._layout.view_height(self.options.height)))

    def _scrolls(self) -> list[str]:
        """The scrolls that would move the page."""
        more = self._scroll + self._layout.view_height(self.options.height) < self._layout.height
        return [*(["scroll[down]"] if more else []), *(["scroll[up]"] if self._scroll else [])]

    def _observation(self, report: str = "") -> Observation:
        """The frame; then the instruction, the page's text if wanted, and the report after a purchase."""
        texts = [f"Instruction: {self._session.goal.text}"]
        if self.options.page_text != "none":
            texts.append((page_text.plain if self.options.page_text == "text" else page_text.rich)(self._page))
        if report:
            texts.append(report)
        clicks = [f"click[{text}]" for text in self._page.clickables()]
        if isinstance(self._page, SearchPage):
            texts.append("This is the search page: search[words].")
            clicks = []  # which words there are cannot be listed
        else:
            clicks += self._scrolls()
        return Observation((self._view, "\n".join(texts)), tuple(clicks))


def env_classes(shop: Shop, pictures: Path | None = None) -> list[type[WebShop]]:
    """The envs of a shop: one for each kind of goal that its catalogue has.

    `pictures` is a folder with product pictures; without one, frames show placeholders.
    """
    classes = []
    for kind in KINDS:
        count = shop.catalogue.goal_count(kind)
        if count:
            fields = {
                "__doc__": WebShop.__doc__,
                "kind": kind,
                "shop": shop,
                "pictures": Pictures(pictures),
                "spec": _spec(shop, kind, count),
            }
            classes.append(type(f"{kind.capitalize()}WebShop", (WebShop,), fields))
    return classes


_UPSTREAM = "princeton-nlp/WebShop 64fa2a5"
_NOTHING = {"score": 0.0}
"""Metrics before a purchase."""


def _spec(shop: Shop, kind: Kind, count: int) -> EnvSpec:
    ranges = goals.splits(count)
    return EnvSpec(
        id=f"webshop/{kind}",
        task=_TASK,
        success="All that the instruction asks for was bought: the score is 1.",
        action=ActionSpec(max_text_bytes=2048),
        reward_min=0.0,
        reward_max=1.0,
        splits={name: len(numbers) for name, numbers in ranges.items()} | {WEIGHTED: 0},
        default_split=next(iter(ranges)),
        has_expert=True,
        provenance={
            "rules": f"strict, {_UPSTREAM}",
            "catalogue": shop.catalogue.description,
            "search": "BM25 as Lucene 8, k1 0.9, b 0.4",
            "tagger": shop.tagger.name,
            "renderer": "overworld shop 1",
            "pillow": f"{PIL.__version__}, FreeType {features.version('freetype2')}",
        },
    )
