"""The pictures show the state, all of it, and nothing that the last episode left behind."""

from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np
import PIL.ImageFont
import pytest
from overworld import Result, Runner, make
from overworld.authoring.env import Pixels
from overworld_envs import drawing
from overworld_envs.drawing import SPRITES
from overworld_envs.gym_cards.card_sprites import back, face
from overworld_envs.gym_cards.cards import RANKS, SUITS, Card
from overworld_envs.gym_cards.symbols import COLOURS, FELT, glyph
from overworld_envs.sprites import SpriteCache

GAMES = ("NumberLine", "EZPoints", "Points24", "Blackjack")


def picture(result: Result) -> Pixels:
    (image,) = result.observation.images
    return image.pixels


def noise(height: int, width: int) -> Pixels:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)


def redraw(env: Any) -> Pixels:
    """Draws the present state from scratch over noise; what is there now."""
    env.picture[...] = noise(*env.picture.shape[:2])
    if hasattr(env, "_table"):
        env._table.deal(env.picture, env._cards)
        for symbol in env._formula:
            env._table.write(env.picture, symbol)
    elif hasattr(env, "_dealer"):
        env._draw_table()
    else:
        env._draw_all()
    return env.picture.copy()


def number_line_states(**options: Any) -> dict[tuple[int, int], bytes]:
    runner = make("gym_cards/NumberLine", **options)
    env: Any = runner.env
    runner.reset(0)
    states = {}
    for env._current, env._target in itertools.product(range(6), repeat=2):
        states[env._current, env._target] = redraw(env).tobytes()
    return states


@pytest.mark.parametrize("options", [{}, {"size": 56, "colours": True}, {"size": 56}, {"size": 32, "colours": True}])
def test_all_states_of_number_line_look_different(options: dict[str, Any]) -> None:
    assert len(set(number_line_states(**options).values())) == 36


def test_digits_of_number_line_are_a_third_of_the_picture_tall_and_apart_in_colour() -> None:
    """At 56 x 56 the mean colour of the dark pixels alone tells the digits apart."""
    means = []
    for number in range(6):
        cell = glyph(str(number), 21, 21, letters=0.87, colours=True).astype(float)
        ink = np.abs(255 - cell).max(axis=2) > 100
        assert 18 <= np.ptp(np.nonzero(ink.any(axis=1))[0]) + 1 <= 20
        means.append(cell[ink].mean(axis=0))
    for one, other in itertools.combinations(means, 2):
        assert np.abs(one - other).max() > 60


def test_number_line_is_drawn_on_white_and_the_others_on_felt() -> None:
    for colours in (False, True):
        assert (
            picture(make("gym_cards/NumberLine", colours=colours).reset(0))[[0, 0, -1, -1], [0, -1, 0, -1]] == 255
        ).all()
        for game in GAMES[1:]:
            corners = picture(make(f"gym_cards/{game}", colours=colours).reset(0))[[0, 0, -1, -1], [0, -1, 0, -1]]
            assert (corners == FELT).all()


def test_number_line_is_black_on_white_without_colours() -> None:
    pixels = picture(make("gym_cards/NumberLine").reset(0))
    assert (pixels == pixels[..., :1]).all()
    assert pixels.min() == 0
    assert (pixels == 255).mean() > 0.7


def test_colours_are_far_from_each_other_and_from_white() -> None:
    colours = [*(colour for symbol, colour in COLOURS.items() if symbol != "A"), (255, 255, 255)]
    for one, other in itertools.combinations(colours, 2):
        assert np.linalg.norm(np.subtract(one, other)) > 75


@pytest.mark.parametrize(("width", "colours"), [(12, False), (12, True), (24, False), (67, True), (126, False)])
def test_all_cards_look_different(width: int, colours: bool) -> None:
    """12 pixels is a card of Points24 at 56 x 56."""
    height = round(width * 1.4)
    faces = {face(Card(rank, suit), width, height, colours=colours).tobytes() for rank in RANKS for suit in SUITS}
    assert len(faces | {back(width, height).tobytes()}) == 53


@pytest.mark.parametrize("colours", [False, True])
def test_all_symbols_look_different(colours: bool) -> None:
    symbols = [*(str(number) for number in range(11)), "+", "-", "*", "/", "(", ")", " "]
    for width, height in ((5, 9), (31, 52)):
        cells = {glyph(symbol, width, height, letters=0.62, colours=colours).tobytes() for symbol in symbols}
        assert len(cells) == len(symbols)


@pytest.mark.parametrize("game", GAMES)
@pytest.mark.parametrize("options", [{}, {"size": 56, "colours": True}, {"size": 32}, {"size": 333}])
def test_drawing_what_changed_equals_drawing_all(game: str, options: dict[str, Any]) -> None:
    runner = make(f"gym_cards/{game}", **options)
    choices = random.Random(7)
    for seed in range(15):
        result = runner.reset(seed)
        while result.end is None:
            result = runner.step(choices.choice(runner.spec.action.vocabulary))
            shown = picture(result).copy()
            assert (shown == redraw(runner.env)).all()


def test_the_longest_formulas_stay_in_their_panel() -> None:
    """Symbols never leave the white panel, whatever their number and width."""
    for game, tens, length in (("Points24", 4, 21), ("EZPoints", 1, 6)):
        for size in (32, 56, 300, 777):
            runner = make(f"gym_cards/{game}", size=size)
            env: Any = runner.env
            runner.reset(0)
            empty = picture(runner.reset(0)).copy()
            for seed in range(25):
                choices = random.Random(seed)
                formula = ["10"] * tens + choices.choices([*"123456789+-*/() "], k=length - tens)
                choices.shuffle(formula)
                env._formula = formula
                pixels = redraw(env)
                assert pixels.shape == (size, size, 3)
                assert not (pixels != empty).any(axis=2)[(empty != 255).any(axis=2)].any()


@pytest.mark.parametrize("size", [32, 56, 300])
@pytest.mark.parametrize("cards", [2, 5, 6, 8, 10, 11, 12, 16, 20, 22])
def test_hands_of_any_size_fit_and_each_card_counts(cards: int, size: int) -> None:
    """22 cards is the largest hand there can be: 21 aces and one more."""
    runner = make("gym_cards/Blackjack", size=size)
    env: Any = runner.env
    runner.reset(0)
    env._player = [Card("A", "S")] * cards
    aces = redraw(env)
    last_row = aces[-1 - size // 100 :]
    assert (last_row == FELT).all()  # nothing is cut off at the bottom
    shown = [(aces != FELT).any()]
    for at in range(cards):
        env._player = [Card("A", "S")] * cards
        env._player[at] = Card("8", "D")
        shown.append((redraw(env) != aces).any())
    assert all(shown)


def test_a_hand_grows_as_if_drawn_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through all numbers of rows, the third of which moves those above it."""
    runner = make("gym_cards/Blackjack", size=100)
    env: Any = runner.env
    monkeypatch.setattr(env, "_draw", lambda: Card("A", "H"))
    result = runner.reset(0)
    cards = 2
    while result.end is None:
        result = runner.step("hit")
        cards += 1
        assert (picture(result).copy() == redraw(env)).all()
    assert cards == 22


@pytest.mark.parametrize("game", GAMES)
def test_a_picture_has_the_size_asked_for_and_is_the_same_each_time(game: str) -> None:
    for size in (32, 33, 56, 300, 1024):
        first = picture(make(f"gym_cards/{game}", size=size).reset(11)).copy()
        assert first.shape == (size, size, 3)
        other = make(f"gym_cards/{game}", size=size)
        other.reset(4)
        assert (picture(other.reset(11)) == first).all()


def test_large_pictures_are_drawn_at_their_size() -> None:
    """Edges of an enlarged small picture would be as many pixels wide as it was enlarged."""
    pixels = picture(make("gym_cards/NumberLine", size=1200).reset(0))[..., 0]
    grey = (pixels > 40) & (pixels < 215)
    assert grey.mean() < 0.01
    small = picture(make("gym_cards/NumberLine", size=300).reset(0))[..., 0]
    assert grey.mean() < 0.5 * ((small > 40) & (small < 215)).mean()


@pytest.mark.parametrize("game", GAMES)
def test_the_picture_is_drawn_into_the_hosts_memory(game: str) -> None:
    memory = noise(2, 300 * 300).reshape(-1)
    taken: list[int] = []

    def allocate(height: int, width: int) -> Pixels:
        start = sum(taken)
        taken.append(height * width * 3)
        return memory[start : start + height * width * 3].reshape(height, width, 3)

    runner, plain = make(f"gym_cards/{game}"), make(f"gym_cards/{game}")
    runner.reset(3)
    runner.env.draw_on(allocate)
    choices = random.Random(0)
    for seed in (5, 6):
        results = [runner.reset(seed), plain.reset(seed)]
        while True:
            assert np.shares_memory(picture(results[0]), memory)
            assert (picture(results[0]) == picture(results[1])).all()
            if results[0].end is not None:
                break
            action = choices.choice(runner.spec.action.vocabulary)
            results = [runner.step(action), plain.step(action)]
    assert taken == [300 * 300 * 3]
    before = memory.copy()
    runner.env.draw_on(None)
    runner.reset(8)
    assert (memory == before).all()


def test_the_cache_keeps_its_bound_and_the_latest() -> None:
    cache = SpriteCache(max_bytes=100_000)
    drawn = []

    def make_sprite(number: int) -> Pixels:
        drawn.append(number)
        return np.full((50, 50, 3), number, np.uint8)

    for number in (*range(40), 39, 38, 0):
        assert cache.get(number, lambda n=number: make_sprite(n))[0, 0, 0] == number  # type: ignore[misc]
        assert cache.bytes <= 100_000
    assert drawn == [*range(40), 0]  # 39 and 38 were still there, 0 was not
    huge = cache.get("huge", lambda: np.zeros((300, 300, 3), np.uint8))
    assert huge.shape == (300, 300, 3)
    assert cache.bytes <= 100_000


def test_sprites_cannot_be_drawn_over() -> None:
    with pytest.raises(ValueError, match="read-only"):
        face(Card("A", "S"), 20, 28, colours=False)[0] = 0


def test_the_cache_keeps_its_bound_over_many_sizes() -> None:
    def stored() -> int:
        return sum(sprite.nbytes for sprite in SPRITES._sprites.values())

    largest = 0
    for size in (2048, 1024, 1500, 1999, 2000, 640, *range(32, 90)):
        for game in GAMES:
            runner = make(f"gym_cards/{game}", size=size, colours=bool(size % 2))
            for seed in range(4 if size > 100 else 1):
                runner.reset(seed)
        largest = max(largest, stored())
        assert stored() <= SPRITES.bytes < 64_000_000
    assert largest > 30_000_000  # the bound was reached


def test_pillow_without_freetype_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    drawing._sized_font.cache_clear()
    monkeypatch.setattr(PIL.ImageFont, "load_default", lambda size: object())
    with pytest.raises(RuntimeError, match="FreeType"):
        drawing._sized_font(12)


def test_runners_share_sprites_but_not_pictures() -> None:
    runners: list[Runner] = [make("gym_cards/EZPoints") for _ in range(2)]
    one, other = (runner.reset(2) for runner in runners)
    assert (picture(one) == picture(other)).all()
    assert not np.shares_memory(picture(one), picture(other))
