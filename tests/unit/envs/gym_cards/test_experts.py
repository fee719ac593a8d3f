"""The experts win what can be won, and say true things."""

from __future__ import annotations

import itertools
import json
import math
import random
import re
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from overworld import End, Expert, Result, make
from overworld_envs.gym_cards.odds import best_win_rate, chances, dealer_scores
from overworld_envs.gym_cards.points24 import Points24
from overworld_envs.gym_cards.solver import complete

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "vectors" / "originals.json").read_text())


def advice(result: Result) -> Expert:
    assert result.expert is not None
    return result.expert


def finish(runner: Any, result: Result) -> Result:
    while result.end is None:
        result = runner.step(advice(result).action)
    return result


def test_number_line_is_always_won_on_the_shortest_way() -> None:
    runner = make("gym_cards/NumberLine", size=32, expert=True)
    for task in range(30):
        result = runner.reset(split="deals", task=task)
        start, target = runner.env._current, runner.env._target  # type: ignore[attr-defined]
        result = finish(runner, result)
        assert (result.success, result.reward, result.turn) == (True, 1.0, abs(start - target))


def test_number_line_thoughts_say_what_the_picture_shows() -> None:
    runner = make("gym_cards/NumberLine", size=32, expert=True)
    result = runner.reset(5)  # from 4 to 2, as the original deals it
    seen = "The target is 2 and the current number is 4"
    assert advice(result) == Expert("-", f"{seen}, so the number must go down.", caption=f"{seen}.")
    result = runner.reset(0)
    seen = "The target is 4 and the current number is 3"
    assert advice(result) == Expert("+", f"{seen}, so the number must go up.", caption=f"{seen}.")


def test_ez_points_is_always_won() -> None:
    runner = make("gym_cards/EZPoints", size=32, expert=True)
    for seed in range(1000):
        result = finish(runner, runner.reset(seed))
        assert (result.success, result.reward, result.turn) == (True, 10.0, 4)


def test_points24_is_won_where_it_can_be() -> None:
    runner = make("gym_cards/Points24", size=32, expert=True)
    wins = 0
    for seed in range(400):
        result = runner.reset(seed)
        numbers = sorted(card.value for card in runner.env._cards)  # type: ignore[attr-defined]
        solvable = can_make_24(numbers) and numbers != [3, 3, 8, 8]
        if not solvable:
            assert advice(result).action == "="
            assert "They cannot make 24" in advice(result).thoughts
        result = finish(runner, result)
        assert result.success is solvable
        wins += solvable
    assert 260 < wins < 325


def can_make_24(numbers: list[int]) -> bool:
    """Exact, by an own way: join any two of the numbers until one is left."""

    def makes(values: tuple[Fraction, ...]) -> bool:
        if len(values) == 1:
            return values[0] == 24
        for i, j in itertools.permutations(range(len(values)), 2):
            a, b = values[i], values[j]
            rest = tuple(value for at, value in enumerate(values) if at not in (i, j))
            joined = [a + b, a - b, a * b, *([a / b] if b else [])]
            if any(makes((*rest, value)) for value in joined):
                return True
        return False

    return makes(tuple(map(Fraction, numbers)))


def test_the_solver_solves_every_deal_but_one_that_has_a_solution() -> None:
    """20876 of 28561 deals have a solution; 3, 3, 8, 8 has none that floats hold exactly."""
    solved = exact = 0
    for deal in itertools.combinations_with_replacement(range(1, 11), 4):
        ways = math.factorial(4)
        for number, count in Counter(deal).items():
            ways = ways // math.factorial(count) * (4 if number == 10 else 1) ** count
        formula = complete([], deal, Points24.rules)
        if formula is not None:
            assert eval("".join(formula)) == 24
            assert sorted(int(symbol) for symbol in formula if symbol.isdigit()) == list(deal)
            assert len(formula) <= 20
            solved += ways
        if formula is not None or can_make_24(list(deal)):
            exact += ways
            assert formula is not None or deal == (3, 3, 8, 8)
    assert (exact, solved) == (20876, 20870)


def test_solutions_are_in_whole_numbers_where_there_are_any() -> None:
    assert "".join(complete([], (1, 5, 5, 5), Points24.rules) or []) in {"5*(5-1/5)", "(5-1/5)*5"}  # has no other
    for deal in [(2, 4, 6, 8), (1, 2, 3, 4), (4, 4, 10, 10), (5, 6, 8, 10)]:
        formula = "".join(complete([], deal, Points24.rules) or [])
        exact = re.sub(r"\d+", r"Fraction(\g<0>)", formula)
        assert eval(exact) == 24


def plain(symbols: list[str]) -> bool:
    """Only what the solver itself writes: no power, floor division, or digits side by side."""
    pairs = itertools.pairwise([symbol for symbol in symbols if symbol != " "])
    return not any((a.isdigit() and b.isdigit()) or a + b in ("**", "//") for a, b in pairs)


@pytest.mark.parametrize("game", ["EZPoints", "Points24"])
def test_an_expert_continues_what_can_still_become_right(game: str) -> None:
    """Behind every beginning of every right formula that was recorded, blanks and signs included."""
    runner = make(f"gym_cards/{game}", size=32, expert=True)
    right = [row for row in VECTORS["episodes"][game] if row[2][-1] == 10 and plain(row[4])]
    assert len(right) > 25
    for seed, actions, *_ in right:
        for length in range(len(actions)):
            assert finish(runner, runner.reset(seed, prefix=actions[:length])).success, (seed, actions, length)


@pytest.mark.parametrize(
    ("begun", "left"),
    [
        ("5**2", (1, 1)),
        ("24", (1, 1)),
        ("(", (1, 2, 3, 4)),
        ("(-", (4, 4, 10, 10)),
        ("10//4*6*(", (1, 1)),
        ("--4", (2, 3, 1)),
        ("8**1**2", (3,)),
        ("(3+3+", (9, 8)),
        ("10+10-", (4, 1)),
        ("  10 + 10", (1, 3)),
    ],
)
def test_an_expert_understands_what_python_understands(begun: str, left: tuple[int, ...]) -> None:
    added = complete(re.findall(r"10|.", begun), left, Points24.rules)
    assert added is not None
    assert eval(begun + "".join(added)) == 24
    assert sorted(int(symbol) for symbol in added if symbol.isdigit()) == sorted(left)


@pytest.mark.parametrize("begun", ["()", ")", "*", "3(", "3 3", "3* *", "1/(1-1)", "((((((((((((", "3//(", "* 3"])
def test_an_expert_gives_up_what_cannot_become_right(begun: str) -> None:
    assert complete(list(begun), (7, 7), Points24.rules) is None


def test_completions_fit_into_the_longest_formula() -> None:
    begun = ["("] * 6
    added = complete(begun, (1, 2, 3, 4), Points24.rules)
    assert added is not None
    assert len(begun) + len(added) <= 20
    assert complete(["("] * 8, (1, 2, 3, 4), Points24.rules) is None  # 8 + 7 + 8 symbols


def test_a_lost_formula_is_handed_in_with_the_reason() -> None:
    runner = make("gym_cards/EZPoints", size=32, expert=True)
    result = runner.reset(1, prefix=["*"])
    assert advice(result).action == "="
    assert "Formula so far: *, which I cannot turn into 12" in advice(result).thoughts
    result = runner.step("=")
    assert (result.end, result.reward) == (End.TASK, -1.0)


def test_point_thoughts_name_the_cards_a_right_formula_and_the_next_symbol() -> None:
    for game, target in (("EZPoints", 12), ("Points24", 24)):
        runner = make(f"gym_cards/{game}", size=32, expert=True)
        for seed in range(60):
            result = runner.reset(seed)
            names = [card.rank for card in runner.env._cards]  # type: ignore[attr-defined]
            while result.end is None:
                expert = advice(result)
                assert re.findall(r"\b(10|[2-9AJQK])\b(?! *\()|\b([AJQK]) \(", expert.thoughts.split(".")[0])
                shown = re.sub(r" \(\d+\)", "", expert.thoughts.split(".")[0])
                assert re.findall(r"\b(?:10|[2-9AJQK])\b", shown) == names
                if "so I end" not in expert.thoughts:
                    formula = expert.thoughts.split(". ")[1].removesuffix(f"={target}")
                    assert eval(formula) == target
                    assert expert.thoughts.endswith(f"the next symbol is {expert.action}.")
                result = runner.step(expert.action)


def test_best_win_rate_at_blackjack_is_the_known_one() -> None:
    assert best_win_rate() == pytest.approx(0.4316, abs=5e-5)


def test_dealer_scores_are_a_distribution() -> None:
    for card in range(1, 11):
        scores = dict(dealer_scores(card, card == 1))
        assert set(scores) <= {0, 17, 18, 19, 20, 21}
        assert sum(scores.values()) == pytest.approx(1)


def test_blackjack_is_played_as_well_as_can_be() -> None:
    assert chances(11, False, 6).hit > chances(11, False, 6).stand
    assert chances(20, False, 6).stand > chances(20, False, 6).hit
    assert chances(21, False, 1).hit == 0
    runner = make("gym_cards/Blackjack", size=32, expert=True)
    episodes = 20_000
    wins = sum(bool(finish(runner, runner.reset(seed)).success) for seed in range(episodes))
    expected = best_win_rate()
    assert abs(wins / episodes - expected) < 3 * math.sqrt(expected * (1 - expected) / episodes)


def test_blackjack_thoughts_say_what_the_picture_shows() -> None:
    runner = make("gym_cards/Blackjack", size=32, expert=True)
    chosen = random.Random(3)
    for seed in range(200):
        result = runner.reset(seed)
        while result.end is None:
            env: Any = runner.env
            thoughts = advice(result).thoughts
            shown, hand = env._dealer[0], env._player
            hard = sum(card.value for card in hand)
            soft = any(card.rank == "A" for card in hand) and hard + 10 <= 21
            assert f", {'a soft ' if soft else ''}{hard + 10 * soft} in all" in thoughts
            named = re.sub(r" \(\d+\)", "", thoughts)
            assert re.findall(r"\b(?:10|[2-9AJQK])\b", named.split(" in all")[0].rsplit(",", 1)[0]) == [
                card.rank for card in hand
            ]
            assert f"the dealer shows {shown.rank}." in named
            result = runner.step(chosen.choice(["hit", advice(result).action]))
