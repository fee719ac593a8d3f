"""The shop's pages as HTML that looks like our frames, for the browser that the benchmark compares them with."""

from __future__ import annotations

from html import escape

from overworld_envs.webshop.engine.pages import DonePage, ItemPage, Page, ResultsPage, SearchPage, SubPage

_STYLE = """
* { box-sizing: border-box }
body { margin: 0; font: 14px "Source Sans Pro", "DejaVu Sans", sans-serif; color: #191c20 }
header { background: #1c2a42; color: #fff; font-weight: 600; padding: 4px 12px }
.goal { background: #fff7d6; padding: 4px 12px }
nav { padding: 6px 12px }
main { padding: 0 12px }
button { border: 1px solid #d6dade; border-radius: 5px; background: #f3f4f6; padding: 3px 9px; font: inherit }
.buy { background: #ffbe3c }
.chosen { background: #1c2a42; color: #fff }
.grid { display: grid; grid-template-columns: 1fr 1fr; gap: 4px 8px; padding: 0 10px }
.card { border: 1px solid #d6dade; border-radius: 5px; height: 70px; padding: 4px; display: flex; gap: 6px }
.card { font-size: 12px; overflow: hidden }
.box { width: 62px; height: 62px; background: #f7ecd0; border: 1px solid #735628; flex: none }
.box { display: grid; place-items: center }
.big { width: 170px; height: 170px; font-size: 28px }
.price { color: #a81e14; font-weight: 600; float: right }
.asin { color: #005899; font-weight: 600 }
.item { display: flex; gap: 14px }
"""


def page_html(page: Page) -> str:
    """The whole document."""
    goal = f"<div class=goal>Instruction: {escape(page.instruction)}</div>"
    return f"<!doctype html><style>{_STYLE}</style><header>WebShop</header>{goal}{_body(page)}"


def _body(page: Page) -> str:
    match page:
        case SearchPage():
            field = "<input placeholder='Search products ...'><button class=buy>Search</button>"
            return f"<main><h1>WebShop</h1>{field}</main>"
        case ResultsPage():
            buttons = _buttons("Back to Search", *(["< Prev"] if page.number > 1 else []), "Next >")
            cards = "".join(
                f"<div class=card><div class=box>{escape(one.query)}</div><div><span class=asin>{one.asin}</span>"
                f"<span class=price>{one.price_tag}</span><br>{escape(one.title)}</div></div>"
                for one in page.products
            )
            return f"<nav>{buttons} Page {page.number} (Total results: {page.total})</nav><div class=grid>{cards}</div>"
        case ItemPage():
            product = page.product
            options = "".join(
                f"<p><b>{escape(name)}</b><br>"
                + "".join(
                    f"<button class={'chosen' if page.chosen.get(name) == value else 'value'}>{escape(value)}</button> "
                    for value in values
                )
                for name, values in product.options.items()
            )
            return (
                f"<nav>{_buttons('Back to Search', '< Prev')}</nav><main><div class=item><div class='box big'>"
                f"{escape(product.query)}</div><div><h3>{escape(product.title)}</h3><b>Price: {product.price_tag}</b>"
                f"<br>Rating: N.A.<br><button class=buy>Buy Now</button><br>"
                f"{_buttons(*(name.capitalize() for name in page.sub_pages))}</div></div>{options}</main>"
            )
        case SubPage():
            texts = "".join(f"<p>{escape(text)}</p>" for text in page.texts)
            return f"<nav>{_buttons('Back to Search', '< Prev')}</nav><main><h3>{page.name}</h3>{texts}</main>"
        case DonePage():
            return f"<main><h2>Thank you for shopping with us!</h2><p>{escape(page.report)}</p></main>"
    raise TypeError(f"no HTML for a {type(page).__name__}")


def _buttons(*labels: str) -> str:
    return " ".join(f"<button>{escape(label)}</button>" for label in labels)
