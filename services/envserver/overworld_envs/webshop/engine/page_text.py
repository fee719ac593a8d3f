"""Pages as upstream's text env shows them: its modes "text" and "text_rich"."""

from __future__ import annotations

import json
from collections.abc import Iterator

from overworld_envs.webshop.engine.pages import DonePage, ItemPage, Page, ResultsPage, SearchPage, SubPage

_Node = tuple[str, str]
"""Kind and text. Kinds: text, button, value (not chosen), chosen, link, visited (link)."""


def plain(page: Page) -> str:
    """Mode "text": all texts in one line. It does not show which options are chosen."""
    return " [SEP] ".join(text.strip() for _, text in _nodes(page) if text.strip())


def rich(page: Page) -> str:
    """Mode "text_rich": one line per text, with marks for what can be clicked and what has been."""
    lines: list[str] = []
    for kind, text in _nodes(page):
        if not text.strip():
            continue
        match kind:
            case "button":
                text = f"[button] {text} [button_]"
            case "value":
                text = f"  [button] {text} [button_]"
            case "chosen":
                lines.insert(0, f"You have clicked {text}.")
                text = f"  [clicked button] {text} [clicked button_]"
            case "link":
                text = f"\n[button] {text} [button_]"
            case "visited":
                text = f"\n[clicked button] {text} [clicked button_]"
        lines.append(text)
    return "\n".join(lines) + "\n"


def _nodes(page: Page) -> Iterator[_Node]:
    if isinstance(page, DonePage):
        yield from _done(page)
        return
    if isinstance(page, SearchPage):
        yield "text", "WebShop"
        yield "text", "Instruction: "
        yield "text", page.instruction
        yield "button", "Search"
        return
    yield "text", "Instruction:"
    yield "text", page.instruction
    yield "button", "Back to Search"
    match page:
        case ResultsPage():
            yield "text", f"Page {page.number} (Total results: {page.total})"
            if page.number > 1:
                yield "button", "< Prev"
            if page.has_next:
                yield "button", "Next >"
            for product in page.products:
                yield ("visited" if product.asin in page.viewed else "link"), product.asin
                yield "text", product.title
                yield "text", product.price_tag
        case ItemPage():
            yield "button", "< Prev"
            chosen = set(page.chosen.values())
            for name, values in page.product.options.items():
                yield "text", name
                for value in values:
                    yield ("chosen" if value in chosen else "value"), value
            yield "text", page.product.title
            yield "text", f"Price: {page.product.price_tag}"
            yield "text", "Rating: N.A."
            for sub_page in page.sub_pages:
                yield "button", sub_page.capitalize()
            yield "button", "Buy Now"
        case SubPage():
            yield "button", "< Prev"
            for text in page.texts:
                yield "text", text


def _done(page: DonePage) -> Iterator[_Node]:
    """Upstream's page hides the lower part from people, but not from its text modes."""
    options = json.dumps(dict(page.chosen), sort_keys=True)
    for character in "<>&'":
        options = options.replace(character, f"\\u{ord(character):04x}")
    for text in (
        "Thank you for shopping with us!", "Your code:", "None", "(Paste it in your MTurk interface.)", "Purchased",
        "asin", page.product.asin, "options", options, "attrs", "None", "category", "None", "query", "None",
        "product category", "None", "Target", "asin", "options", "attrs", "price upper", "instuction text", "category",
        "product category", "query", "Goal", "None", "Reward", "Your score (min 0.0, max 1.0)", str(page.score),
        "Reward Details", "None",
    ):  # fmt: skip
        yield "text", text
