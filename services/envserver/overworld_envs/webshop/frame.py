"""Pages as frames: our own layout of a shop, drawn by copying sprites of words, buttons and pictures.

A frame has a fixed size. The head (instruction and navigation) stays, what is below it scrolls; a bar at the right says
where one is. Lengths are in units of 1/640 of the width, so a smaller frame shows the same page with fewer pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from overworld.authoring.env import Pixels
from PIL import Image, ImageDraw

from overworld_envs.webshop.pages import DonePage, ItemPage, Page, ResultsPage, SearchPage, SubPage
from overworld_envs.webshop.pictures import Pictures
from overworld_envs.webshop.products import Product
from overworld_envs.webshop.typeface import SPRITES, Colour, Style, lines, text_width, word_sprite

WHITE: Colour = (255, 255, 255)
INK: Colour = (25, 28, 32)
GREY: Colour = (100, 106, 112)
PALE: Colour = (243, 244, 246)
LINE: Colour = (214, 218, 222)
BAR: Colour = (28, 42, 66)
NOTE: Colour = (255, 247, 214)
LINK: Colour = (0, 88, 153)
VISITED: Colour = (110, 52, 140)
PRICE: Colour = (168, 30, 20)
BUY: Colour = (255, 190, 60)

_UNITS = 640


@dataclass(frozen=True, slots=True)
class _Piece:
    """A sprite and where its upper left corner is."""

    x: int
    y: int
    sprite: Pixels


class Layout:
    """A page with everything in its place; `height` is that of what scrolls, in pixels."""

    def __init__(self, head: list[_Piece], body: list[_Piece], top: int, height: int) -> None:
        self._head = head
        self._body = body
        self._top = top
        self.height = height

    def draw(self, canvas: Pixels, scroll: int) -> None:
        """Draws all of `canvas`, uint8 [height, width, 3], with the body `scroll` pixels up."""
        canvas[...] = _row(canvas.shape[1], WHITE)
        for piece in self._body:
            _paste(canvas, piece.sprite, piece.x, self._top + piece.y - scroll)
        canvas[: self._top] = _row(canvas.shape[1], WHITE)  # what scrolled under the head
        for piece in self._head:
            _paste(canvas, piece.sprite, piece.x, piece.y)
        self._draw_bar(canvas, scroll)

    def view_height(self, canvas_height: int) -> int:
        """How much of the body can be seen at once, in pixels."""
        return max(1, canvas_height - self._top)

    def _draw_bar(self, canvas: Pixels, scroll: int) -> None:
        """The scroll bar."""
        height, width, _ = canvas.shape
        view = self.view_height(height)
        if self.height <= view:
            return
        bar = max(2, width // 100)
        canvas[self._top :, -bar:] = LINE
        start = self._top + view * scroll // self.height
        canvas[start : start + max(2, view * view // self.height), -bar:] = GREY


class Renderer:
    """Lays pages out for frames of `width` x `height` pixels."""

    def __init__(self, width: int, height: int, pictures: Pictures) -> None:
        self._width = width
        self._height = height
        self._pictures = pictures

    def layout(self, page: Page) -> Layout:
        """A page, ready to be drawn."""
        sheet = _Sheet(self._width)
        if isinstance(page, SearchPage):
            self._search(sheet, page)
            return Layout([], sheet.pieces, 0, sheet.y)
        self._head(sheet, page)
        top = sheet.y
        body = _Sheet(self._width)
        match page:
            case ResultsPage():
                self._results(body, page)
            case ItemPage():
                self._item(body, page)
            case SubPage():
                self._sub_page(body, page)
            case DonePage():
                self._done(body, page)
        return Layout(sheet.pieces, body.pieces, top, body.y)

    def _head(self, sheet: _Sheet, page: Page) -> None:
        """The shop's name, the instruction, and what leads elsewhere."""
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

    def _search(self, sheet: _Sheet, page: SearchPage) -> None:
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

    def _results(self, sheet: _Sheet, page: ResultsPage) -> None:
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

    def _card(self, sheet: _Sheet, product: Product, viewed: bool, x: int, y: int, width: int, height: int) -> None:
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

    def _item(self, sheet: _Sheet, page: ItemPage) -> None:
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

    def _values(self, sheet: _Sheet, values: tuple[str, ...], chosen: str | None, y: int) -> int:
        """A button for each value; where they end."""
        unit = sheet.unit
        x = unit(12)
        for value in values:
            width = sheet.button_width(value)
            if x > unit(12) and x + width > sheet.width - unit(16):
                x, y = unit(12), y + sheet.button_height + unit(4)
            picked = value == chosen
            x += sheet.button(value, x, y, BAR if picked else WHITE, WHITE if picked else INK) + unit(6)
        return y + sheet.button_height

    def _sub_page(self, sheet: _Sheet, page: SubPage) -> None:
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

    def _done(self, sheet: _Sheet, page: DonePage) -> None:
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


class _Sheet:
    """Where pieces are put; `y` is how far down it is used."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.pieces: list[_Piece] = []
        self.y = 0
        self.button_height = self.unit(25)
        self._label_size = max(4, self.unit(14))

    def unit(self, length: float) -> int:
        """Units in pixels."""
        return round(length * self.width / _UNITS)

    def style(self, size: int, colour: Colour, background: Colour, *, bold: bool = False) -> Style:
        """Text of `size` units."""
        return Style(max(4, self.unit(size)), colour, background, "Semibold" if bold else "Regular")

    def put(self, sprite: Pixels, x: int, y: int) -> None:
        """Places a sprite."""
        self.pieces.append(_Piece(x, y, sprite))

    def rows(self, rows: list[list[tuple[int, str]]], x: int, y: int, style: Style) -> int:
        """Places lines of words; where the next line would be."""
        for row in rows:
            for offset, word in row:
                self.pieces.append(_Piece(x + offset, y, word_sprite(word, style)))
            y += style.height
        return y

    def banner(self) -> None:
        """The bar with the shop's name."""
        height = self.unit(26)
        self.box(0, 0, self.width, height, BAR)
        name = self.style(16, WHITE, BAR, bold=True)
        self.rows([[(0, "WebShop")]], self.unit(12), self.unit(3), name)
        self.y = height

    def box(self, x: int, y: int, width: int, height: int, colour: Colour) -> None:
        """A filled rectangle."""
        key = ("box", width, height, colour)
        self.put(SPRITES.get(key, lambda: np.full((height, width, 3), colour, np.uint8)), x, y)

    def rounded(self, x: int, y: int, width: int, height: int, colour: Colour, edge: Colour) -> None:
        """A rectangle with round corners on white."""

        def draw() -> Pixels:
            scale = 4
            image = Image.new("RGB", (width * scale, height * scale), WHITE)
            right, bottom = width * scale - 1, height * scale - 1
            radius, line = min(self.unit(5), height // 2) * scale, max(1, self.unit(1)) * scale
            ImageDraw.Draw(image).rounded_rectangle((0, 0, right, bottom), radius, colour, edge, line)
            return np.array(image.reduce(scale))

        if width > 0 and height > 0:
            self.put(SPRITES.get(("rounded", width, height, colour, edge), draw), x, y)

    def button_width(self, label: str) -> int:
        """Of a button, in pixels; at most that of the sheet."""
        style = Style(self._label_size, INK, WHITE)
        return max(1, min(text_width(label, style) + self.unit(18), self.width - self.unit(28)))

    def button(
        self, label: str, x: int, y: int, colour: Colour, ink: Colour, *, width: int = 0, height: int = 0
    ) -> int:
        """Places a button; its width."""
        width, height = width or self.button_width(label), height or self.button_height
        self.rounded(x, y, width, height, colour, LINE if colour != BAR else BAR)
        style = Style(self._label_size, ink, colour)
        room = max(1, width - self.unit(12))
        rows = list(lines(label, style, room, limit=1))
        left = x + max(self.unit(6), (width - text_width(label, style)) // 2)
        self.rows(rows, left, y + (height - style.height) // 2, style)
        return width


def _row(width: int, colour: Colour) -> Pixels:
    return SPRITES.get(("row", width, colour), lambda: np.full((1, width, 3), colour, np.uint8))


def _paste(canvas: Pixels, sprite: Pixels, x: int, y: int) -> None:
    """Copies what of `sprite` lies within `canvas`."""
    height, width, _ = sprite.shape
    bottom, right, _ = canvas.shape
    if y >= 0 and x >= 0 and y + height <= bottom and x + width <= right:
        canvas[y : y + height, x : x + width] = sprite
        return
    top, left = max(y, 0), max(x, 0)
    part = sprite[top - y : bottom - y, left - x : right - x] if y < bottom and x < right else sprite[:0]
    if part.size:
        canvas[top : top + part.shape[0], left : left + part.shape[1]] = part
