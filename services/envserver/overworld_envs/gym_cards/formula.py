"""Formulas of the point games: what Python makes of the played symbols, in bounded time and memory.

Upstream hands the joined symbols to `eval`, so digits of neighbouring cards form one number, `**` is a power, `//` a
floor division, and floats are compared exactly. All of that is a rule of the game and holds here. The one
difference: `eval` may run for ever (`9**9**9**9`), `evaluate` does not.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from typing import Any

Number = int | float | complex

MAX_POWER_BITS = 65_536
"""Whole powers beyond this make a formula wrong; see `power`."""

_FORMULA = re.compile(r"[-+*/() 0-9]{0,64}")
"""What games can write, and more: at most 21 symbols of one or two characters."""


def power(base: Number, exponent: Number) -> Number:
    """`base ** exponent`; raises OverflowError if that is an int of more than MAX_POWER_BITS bits.

    No right formula is lost. A formula counts only if it uses the numbers of the cards, 2 or 4 of them from 1 to 10,
    once each. Two numbers make at most 10**10, or 1010 when their digits are joined, so a power H beyond the bound
    takes at least three of them, and at most one number d, not 0, is left to join it in one operation. H+d, H-d, H*d,
    H//d and H**d are as huge as H, or smaller by a factor of 10; H/d and H**-d do not fit a float, which is an error;
    d/H, d//H and (+-1)**H lie between -1 and 1; other d**H are larger still. Signs change none of that, and nothing of
    it is 12 or 24.
    """
    if isinstance(base, int) and isinstance(exponent, int) and exponent > 0:
        if abs(base) <= 1:  # by hand: Python takes milliseconds over a long exponent
            return base if exponent % 2 else base * base
        bits = abs(base).bit_length()  # (bits - 1) * exponent < bits of the result <= bits * exponent
        if (bits - 1) * exponent >= MAX_POWER_BITS:
            raise OverflowError("the power is too large")
        result: int = base**exponent
        if result.bit_length() > MAX_POWER_BITS:
            raise OverflowError("the power is too large")
        return result
    smaller: Number = base**exponent
    return smaller


_BINARY: dict[type[ast.operator], Callable[[Any, Any], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Pow: power,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Number]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}


class _NoNumberError(ValueError):
    """Part of the formula is not a number."""


def evaluate(formula: str) -> Number | None:
    """The value of `formula` by Python's rules, None where Python raises an error or the value is not a number."""
    if not _FORMULA.fullmatch(formula):
        return None
    try:
        return _value(ast.parse(formula.lstrip(" "), mode="eval").body)  # eval, too, skips spaces in front
    except (SyntaxError, TypeError, ValueError, ArithmeticError, MemoryError, RecursionError):
        return None


def is_right(formula: str, target: int) -> bool:
    """Whether `formula` equals `target`, floats compared exactly: 8/(3-8/3) is not 24."""
    value = evaluate(formula)
    return value is not None and value == target


def _value(node: ast.expr) -> Number:
    match node:
        case ast.Constant(value=int() as number):
            return number
        case ast.BinOp(left=left, op=operation, right=right):
            return _BINARY[type(operation)](_value(left), _value(right))
        case ast.UnaryOp(op=sign, operand=operand):
            return _UNARY[type(sign)](_value(operand))
        case _:  # a call, "3(4)", or an empty tuple, "()": an error, or at best a tuple
            raise _NoNumberError
