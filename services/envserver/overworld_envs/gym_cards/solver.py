"""Finds formulas that hit the target of a point game, from nothing or from the beginning of one.

Values are computed with the game's own operations on ints and floats, so a formula that is right here is right by the
game's exact comparison of floats (3, 3, 8, 8 has only 8/(3-8/3), which is not quite 24). Solutions in whole numbers
are preferred. New symbols are numbers, + - * / and brackets, and a sign where an operand is due; `**`, `//` and joined
digits are understood in the beginning, but never added.
"""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from overworld_envs.gym_cards.formula import Number, is_right, power


@dataclass(frozen=True, slots=True)
class Rules:
    """A point game as the solver sees it."""

    target: int
    operators: str
    brackets: bool
    max_symbols: int
    """The longest formula that may be followed by "="."""


def complete(symbols: Sequence[str], numbers: Sequence[int], rules: Rules) -> list[str] | None:
    """Symbols that make `symbols` a right formula with each of `numbers` (those not yet used) once; None if none do."""
    begun = "".join(symbols)
    state = _parse(begun)
    if state is None:
        return None
    left = tuple(sorted(numbers))
    room = rules.max_symbols - len(symbols)
    if not _STRANGE.search(begun):
        # However it begins, signs included, it ends as a formula of all numbers: there must be one.
        solution = _solution(tuple(sorted((*map(int, _NUMBER.findall(begun)), *left))), rules)
        if solution is None:
            return None
        added = [*_SYMBOL.findall(solution), *")" * state.open_brackets]
        if state.idle and len(added) <= room:
            return added
    for whole, signs in ((True, False), (False, False), (False, True)):
        for added in _Search(rules, whole, signs and "-" in rules.operators).completions(state, left, room):
            if is_right(begun + "".join(added), rules.target):
                return added
    return None


_SYMBOL = re.compile(r"10|[1-9]|[-+*/()]")
_TOKEN = re.compile(r" *(\d+|\*\*|//|[-+*/()])")
_NUMBER = re.compile(r"10|[1-9]")
_STRANGE = re.compile(r"\*\*|//|(?!10(?!\d))\d\d")  # powers, floor divisions, joined digits

_SUM, _PRODUCT, _SIGN, _POWER = 1, 2, 3, 4
_BINARY: dict[str, tuple[int, Callable[[Any, Any], Any]]] = {
    "+": (_SUM, operator.add),
    "-": (_SUM, operator.sub),
    "*": (_PRODUCT, operator.mul),
    "/": (_PRODUCT, operator.truediv),
    "//": (_PRODUCT, operator.floordiv),
    "**": (_POWER, power),
}
_ATOM = 5


class _Pending(NamedTuple):
    """An operator that waits for its right operand; a sign has no left operand, a bracket "(" has neither."""

    symbol: str
    left: Number | None
    binding: int


@dataclass(frozen=True, slots=True)
class _State:
    """A formula read up to some point: pending operators, and the operand just read, or None where one must follow."""

    pending: tuple[_Pending, ...] = ()
    operand: Number | None = None

    @property
    def idle(self) -> bool:
        """Whether nothing has been read that changes a value: only brackets and plus signs."""
        return self.operand is None and all(symbol in "(+" and left is None for symbol, left, _ in self.pending)

    @property
    def open_brackets(self) -> int:
        """Brackets that have not been closed."""
        return sum(symbol == "(" for symbol, _, _ in self.pending)

    def settled(self, binding: int) -> _State:
        """Carries out what binds at least as tightly as `binding`, back to the innermost open bracket."""
        pending = self.pending
        value: Any = self.operand
        while pending and pending[-1].binding >= binding:
            symbol, left, _ = pending[-1]
            if left is None:
                value = operator.neg(value) if symbol == "-" else value
            else:
                value = _BINARY[symbol][1](left, value)
            pending = pending[:-1]
        return _State(pending, value)

    def then(self, symbol: str) -> _State | None:
        """The state after one more token; None if Python would raise an error."""
        if self.operand is None:
            if symbol.isdigit():
                return _State(self.pending, int(symbol))
            if symbol in ("+", "-"):
                return _State((*self.pending, _Pending(symbol, None, _SIGN)))
            return _State((*self.pending, _Pending("(", None, 0))) if symbol == "(" else None
        if symbol == ")":
            inside = self.settled(_SUM)
            return _State(inside.pending[:-1], inside.operand) if inside.pending else None
        if symbol not in _BINARY:
            return None
        binding = _BINARY[symbol][0]
        # Operators of equal precedence apply from the left, powers from the right.
        before = self.settled(binding + 1 if symbol == "**" else binding)
        return _State((*before.pending, _Pending(symbol, before.operand, binding)))


def _parse(begun: str) -> _State | None:
    state: _State | None = _State()
    at = 0
    text = begun.rstrip(" ")
    while state is not None and at < len(text):
        token = _TOKEN.match(text, at)
        if token is None:
            return None
        at = token.end()
        state = _attempt(state, token[1])
    return state


def _attempt(state: _State, symbol: str) -> _State | None:
    try:
        return state.then(symbol)
    except (ArithmeticError, TypeError):  # 1/0, or // of complex numbers: the formula can only be wrong
        return None


def _is_whole(state: _State) -> bool:
    """Whether the value computed last is a whole number."""
    value = state.pending[-1].left if state.operand is None else state.operand
    return isinstance(value, int) or (isinstance(value, float) and value.is_integer())


class _Search:
    """A depth-first search over what may follow."""

    def __init__(self, rules: Rules, whole: bool, signs: bool) -> None:
        self._rules = rules
        self._whole = whole
        self._signs = signs
        self._barren: dict[tuple[_State, tuple[int, ...]], int] = {}  # -> the most room that did not help

    def completions(self, state: _State, numbers: tuple[int, ...], room: int) -> Iterator[list[str]]:
        """All that is found, in at most `room` symbols."""
        if self._barren.get((state, numbers), -1) >= room:
            return
        none = True
        for found in self._continuations(state, numbers, room):
            none = False
            yield found
        if none:
            self._barren[state, numbers] = room

    def _continuations(self, state: _State, numbers: tuple[int, ...], room: int) -> Iterator[list[str]]:
        opened = state.open_brackets
        if room < 2 * len(numbers) + opened - (state.operand is None):
            return  # each number left needs an operator, and each open bracket its end
        if state.operand is None:
            yield from self._with_operand(state, numbers, room)
            return
        if not opened and not numbers:
            try:
                if state.settled(_SUM).operand == self._rules.target:
                    yield []
            except (ArithmeticError, TypeError):
                pass
            return
        if opened:
            yield from self._with_token(")", state, numbers, room)
        if numbers:
            for symbol in self._rules.operators:
                yield from self._with_token(symbol, state, numbers, room)

    def _with_token(self, symbol: str, state: _State, numbers: tuple[int, ...], room: int) -> Iterator[list[str]]:
        after = _attempt(state, symbol)
        if after is not None and (not self._whole or _is_whole(after)):
            for rest in self.completions(after, numbers, room - 1):
                yield [symbol, *rest]

    def _with_operand(self, state: _State, numbers: tuple[int, ...], room: int) -> Iterator[list[str]]:
        if not numbers:
            return
        largest = len(numbers) if self._rules.brackets else 1
        if largest > 1 and (not state.pending or state.pending[-1].symbol == "("):
            largest -= 1  # brackets around all that is left would be idle here
        for count in range(1, largest + 1):
            for used, left in _subsets(numbers, count):
                for value, term in _reachable(used, self._rules.operators, self._whole).items():
                    added = _SYMBOL.findall(term.bracketed(_ATOM))
                    for rest in self.completions(_State(state.pending, value), left, room - len(added)):
                        yield [*added, *rest]
                    if self._signs:
                        for rest in self.completions(_State(state.pending, -value), left, room - len(added) - 1):
                            yield ["-", *added, *rest]


class _Term(NamedTuple):
    """A formula and how tightly its weakest operator binds."""

    text: str
    binding: int

    def bracketed(self, least: int) -> str:
        """The text, in brackets unless it binds at least as tightly as `least`."""
        return self.text if self.binding >= least else f"({self.text})"


@functools.lru_cache(maxsize=2048)
def _solution(numbers: tuple[int, ...], rules: Rules) -> str | None:
    """The shortest formula of all `numbers`, in whole numbers if possible. None is longer than the game allows."""
    for whole in (True, False):
        found = [
            term.text
            for value, term in _combinations(numbers, rules.operators, whole)
            if value == rules.target and (rules.brackets or "(" not in term.text) and is_right(term.text, rules.target)
        ]
        if found:
            return min(found, key=len)
    return None


@functools.lru_cache(maxsize=64)  # up to a hundred terms of three numbers, a thousand of four
def _reachable(numbers: tuple[int, ...], operators: str, whole: bool) -> dict[float, _Term]:
    """The values that `numbers` can make, each with its shortest formula."""
    if len(numbers) == 1:
        return {numbers[0]: _Term(str(numbers[0]), _ATOM)}
    shortest: dict[float, _Term] = {}
    for value, term in _combinations(numbers, operators, whole):
        known = shortest.get(value)
        if known is None or len(term.text) < len(known.text):
            shortest[value] = term
    return shortest


def _combinations(numbers: tuple[int, ...], operators: str, whole: bool) -> Iterator[tuple[float, _Term]]:
    """The last operation of a formula, in all ways: two parts that share out `numbers`, and an operator."""
    for count in range(1, len(numbers)):
        for some, others in _subsets(numbers, count):
            lefts, rights = _reachable(some, operators, whole), _reachable(others, operators, whole)
            for a, left in lefts.items():
                for b, right in rights.items():
                    for symbol in operators:
                        if symbol == "/" and (b == 0 or (whole and a % b)):
                            continue
                        binding, operate = _BINARY[symbol]
                        term = f"{left.bracketed(binding)}{symbol}{right.bracketed(binding + 1)}"
                        yield operate(a, b), _Term(term, binding)


@functools.lru_cache(maxsize=2048)
def _subsets(numbers: tuple[int, ...], count: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Each way to take `count` of `numbers`, as (taken, left), both in order; equal numbers count as one."""
    found: dict[tuple[int, ...], tuple[int, ...]] = {}
    for chosen in range(2 ** len(numbers)):
        if chosen.bit_count() == count:
            taken = tuple(number for at, number in enumerate(numbers) if chosen >> at & 1)
            found[taken] = tuple(number for at, number in enumerate(numbers) if not chosen >> at & 1)
    return list(found.items())
