"""Lays out pages of the shop as frames of a fixed size."""

from __future__ import annotations

from overworld_envs.webshop.catalogue.products import Product
from overworld_envs.webshop.engine.pages import DonePage, ItemPage, Page, ResultsPage, SearchPage, SubPage
from overworld_envs.webshop.frames.layout import Layout
from overworld_envs.webshop.frames.pictures import Pictures
from overworld_envs.webshop.frames.sheet import (
    BAR,
    BUY,
    GREY,
    INK,
    LINE,
    LINK,
    NOTE,
    PALE,
    PRICE,
    VISITED,
    WHITE,
    Sheet,
)
from overworld_envs.webshop.frames.typeface import lines, text_width


class Renderer:
    """Lays pages out for frames of `width` x `height` pixels."""

    def __init__(self, width: int, height: int, pictures: Pictures) -> None:
        self._width = width
        self._height = height
        self._pictures = pictures

    def layout(self, page: Page) -> Layout:
        """A page, ready to be drawn."""
        sheet = Sheet(self._width)
        if isinstance(page, SearchPage):
            self._search(sheet, page)
            return Layout(None, sheet)
        self._head(sheet, page)
        body = Sheet(self._width)
        match page:
            case ResultsPage():
                self._results(body, page)
            case ItemPage():
                self._item(body, page)
            case SubPage():
                self._sub_page(body, page)
            case DonePage():
                self._done(body, page)
        return Layout(sheet, body)

    def _head(self, sheet: Sheet, page: Page) -> None:
        """The shop's name, the instruction, and the navigation."""
        unit = sheet.unit
        sheet.banner()
        goal = sheet.style(14, INK, NOTE)
        rows = list(lines(f"Instruction: {page.instruction}", goal, sheet.width - unit(24), limit=4))
        height = len(rows) * goal.height + unit(8)
        sheet.box(0, sheet.y, sheet.width, height, NOTE)
        sheet.rows(rows, unit(12), sheet.y + unit(4), goal)
        sheet.y += height + unit(6)
        x = unit(12)
        match page:
            case DonePage():
                return
            case ResultsPage():
                labels = [
                    "Back to Search",
                    *(["< Prev"] if page.number > 1 else []),
                    *(["Next >"] if page.has_next else []),
                ]
            case _:
                labels = ["Back to Search", "< Prev"]
        for label in labels:
            x += sheet.button(label, x, sheet.y, PALE, INK) + unit(8)
        if isinstance(page, ResultsPage):
            note = sheet.style(14, GREY, WHITE)
            room = sheet.width - x - unit(12)
            text = f"Page {page.number} (Total results: {page.total}) for “{page.words.strip()}”"
            sheet.rows(list(lines(text, note, max(room, 1), limit=1)), x, sheet.y + unit(5), note)
        sheet.y += sheet.button_height + unit(6)

    def _search(self, sheet: Sheet, page: SearchPage) -> None:
        unit = sheet.unit
        sheet.banner()
        sheet.y += unit(40)
        name = sheet.style(40, BAR, WHITE, bold=True)
        sheet.rows([[(0, "WebShop")]], (sheet.width - text_width("WebShop", name)) // 2, sheet.y, name)
        sheet.y += name.height + unit(18)
        goal = sheet.style(17, INK, NOTE)
        rows = list(lines(f"Instruction: {page.instruction}", goal, sheet.width - unit(104), limit=8))
        height = len(rows) * goal.height + unit(20)
        sheet.rounded(unit(40), sheet.y, sheet.width - unit(80), height, NOTE, LINE)
        sheet.rows(rows, unit(52), sheet.y + unit(10), goal)
        sheet.y += height + unit(24)
        field = sheet.width - unit(80) - unit(96)
        sheet.rounded(unit(40), sheet.y, field, unit(36), WHITE, GREY)
        hint = sheet.style(15, GREY, WHITE)
        sheet.rows(list(lines("Search products ...", hint, field)), unit(52), sheet.y + unit(9), hint)
        sheet.button("Search", unit(48) + field, sheet.y, BUY, INK, width=unit(88), height=unit(36))
        sheet.y += unit(60)

    def _results(self, sheet: Sheet, page: ResultsPage) -> None:
        unit = sheet.unit
        if not page.products:
            note = sheet.style(16, GREY, WHITE)
            sheet.rows(list(lines("No products here.", note, sheet.width)), unit(12), unit(12), note)
            sheet.y = unit(50)
            return
        width, height, gap = (sheet.width - unit(32)) // 2, unit(70), unit(4)
        for at, product in enumerate(page.products):
            x, y = unit(10) + at % 2 * (width + unit(8)), at // 2 * (height + gap)
            self._card(sheet, product, product.asin in page.viewed, x, y, width, height)
            sheet.y = y + height + gap

    def _card(self, sheet: Sheet, product: Product, viewed: bool, x: int, y: int, width: int, height: int) -> None:
        """One result: picture, id, title and price."""
        unit = sheet.unit
        sheet.rounded(x, y, width, height, WHITE, LINE)
        side = height - unit(8)
        sheet.put(self._pictures.picture(product, product.image, side), x + unit(4), y + unit(4))
        left, room = x + side + unit(10), width - side - unit(16)
        mark = sheet.style(12, VISITED if viewed else LINK, WHITE, bold=True)
        price = sheet.style(13, PRICE, WHITE, bold=True)
        title = sheet.style(12, INK, WHITE)
        top = y + unit(3)
        sheet.rows(list(lines(product.asin, mark, room, limit=1)), left, top, mark)
        tag = product.price_tag
        sheet.rows(
            list(lines(tag, price, room, limit=1)), x + width - unit(8) - min(room, text_width(tag, price)), top, price
        )
        sheet.rows(list(lines(product.title, title, room, limit=3)), left, top + unit(17), title)

    def _item(self, sheet: Sheet, page: ItemPage) -> None:
        unit, product = sheet.unit, page.product
        side = unit(170)
        images = [product.option_images[value] for value in page.chosen.values() if value in product.option_images]
        sheet.put(self._pictures.picture(product, images[-1] if images else product.image, side), unit(12), 0)
        left = side + unit(26)
        room = sheet.width - left - unit(16)
        title = sheet.style(17, INK, WHITE, bold=True)
        y = sheet.rows(list(lines(product.title, title, room, limit=5)), left, 0, title) + unit(3)
        price = sheet.style(18, PRICE, WHITE, bold=True)
        y = sheet.rows(list(lines(f"Price: {product.price_tag}", price, room, limit=1)), left, y, price)
        note = sheet.style(13, GREY, WHITE)
        y = sheet.rows(list(lines("Rating: N.A.", note, room)), left, y, note) + unit(6)
        sheet.button("Buy Now", left, y, BUY, INK, width=unit(120))
        y += sheet.button_height + unit(8)
        x = left
        for name in page.sub_pages:
            x += sheet.button(name.capitalize(), x, y, PALE, LINK) + unit(6)
        y = max(y + sheet.button_height, side) + unit(10)
        name_style = sheet.style(14, INK, WHITE, bold=True)
        for name, values in product.options.items():
            chosen = page.chosen.get(name)
            label = name if chosen is None else f"{name}: {chosen}"
            y = sheet.rows(list(lines(label, name_style, sheet.width - unit(30), limit=2)), unit(12), y, name_style)
            y = self._values(sheet, values, chosen, y + unit(3)) + unit(7)
        sheet.y = y

    def _values(self, sheet: Sheet, values: tuple[str, ...], chosen: str | None, y: int) -> int:
        """Places a button for each value. Returns the y below them."""
        unit = sheet.unit
        x = unit(12)
        for value in values:
            width = sheet.button_width(value)
            if x > unit(12) and x + width > sheet.width - unit(16):
                x, y = unit(12), y + sheet.button_height + unit(4)
            picked = value == chosen
            x += sheet.button(value, x, y, BAR if picked else WHITE, WHITE if picked else INK) + unit(6)
        return y + sheet.button_height

    def _sub_page(self, sheet: Sheet, page: SubPage) -> None:
        unit = sheet.unit
        heading = sheet.style(18, INK, WHITE, bold=True)
        text = sheet.style(15, INK, WHITE)
        room = sheet.width - unit(40)
        y = sheet.rows(list(lines(page.name.capitalize(), heading, room)), unit(16), 0, heading) + unit(6)
        if not page.texts:
            y = sheet.rows(list(lines("There are none.", text, room)), unit(16), y, text)
        for paragraph in page.texts:
            for part in paragraph.splitlines():
                y = sheet.rows(list(lines(part, text, room)), unit(16), y, text)
            y += unit(6)
        sheet.y = y

    def _done(self, sheet: Sheet, page: DonePage) -> None:
        unit, room = sheet.unit, sheet.width - sheet.unit(40)
        heading, text = sheet.style(20, INK, WHITE, bold=True), sheet.style(15, INK, WHITE)
        chosen = ", ".join(f"{name}: {value}" for name, value in page.chosen.items()) or "none"
        y = sheet.rows(
            list(lines("Thank you for shopping with us!", heading, room)), unit(16), unit(8), heading
        ) + unit(8)
        bought = f"{page.product.title} ({page.product.price_tag})"
        for paragraph in (bought, f"Options: {chosen}", page.report):
            y = sheet.rows(list(lines(paragraph, text, room)), unit(16), y, text) + unit(8)
        sheet.y = y
