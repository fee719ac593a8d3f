"""The evaluator against Python's own `eval`, which runs in a process that may be killed."""

from __future__ import annotations

import json
import select
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from overworld_envs.gym_cards import formula as formulas
from overworld_envs.gym_cards.formula import MAX_POWER_BITS, evaluate, is_right, power

NUMBERS = [str(number) for number in range(1, 11)]
EZ_POINTS = [*NUMBERS, "+", "*"]
POINTS24 = [*NUMBERS, "+", "-", "*", "/", "(", ")"]

EVAL = """
import json, resource, sys, warnings
warnings.simplefilter("ignore")
resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
for line in sys.stdin:
    try:
        value = eval(json.loads(line))
    except Exception as error:
        answer = {"error": type(error).__name__}
    else:
        number = isinstance(value, (int, float, complex))
        small = number and not (isinstance(value, int) and value.bit_length() > 8000)
        shown = repr(value) if small or not number else ""
        answer = {"value": shown, "number": number, "right": [value == 12, value == 24]}
    print(json.dumps(answer), flush=True)
"""


class PythonsEval:
    """`eval` with a limit of time and memory."""

    SECONDS = 0.5

    def __init__(self) -> None:
        self._process = self._start()

    def __call__(self, text: str) -> dict[str, object] | None:
        """What it says, None if it does not end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(text) + "\n")
        self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], self.SECONDS)
        answer = self._process.stdout.readline() if ready else ""
        if not answer:
            self.close()
            self._process = self._start()
            return None
        parsed: dict[str, object] = json.loads(answer)
        return parsed

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _start(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", EVAL], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write('"1"\n')  # so that the limit of time does not count the start
        process.stdin.flush()
        process.stdout.readline()
        return process


@pytest.fixture(scope="module")
def pythons_eval() -> Iterator[PythonsEval]:
    child = PythonsEval()
    yield child
    child.close()


def compare(text: str, python: dict[str, object] | None, *, complete: bool = True) -> None:
    """`complete`: the formula has at most four numbers, so that nothing right is lost to the bound."""
    ours = evaluate(text)
    if python is None:
        return
    if ours is not None:
        assert python.get("number"), (text, ours, python)
        if not (isinstance(ours, int) and ours.bit_length() > 8000):
            assert repr(ours) == python["value"], text
    elif "**" not in text:
        assert not python.get("number"), (text, python)
    rights = [is_right(text, 12), is_right(text, 24)]
    if complete or any(rights):
        assert rights == python.get("right", [False, False]), text


def played(vocabulary: list[str], numbers: int, longest: int) -> st.SearchStrategy[str]:
    """Symbols as the game joins them: a number beyond those on the cards becomes a blank."""

    def join(symbols: list[str]) -> str:
        left = numbers
        shown = []
        for symbol in symbols:
            if symbol.isdigit():
                left -= 1
            shown.append(" " if symbol.isdigit() and left < 0 else symbol)
        return "".join(shown)

    return st.lists(st.sampled_from(vocabulary), max_size=longest).map(join)


def sensible() -> st.SearchStrategy[str]:
    """Well-formed formulas of at most four numbers, with powers, floor divisions, signs, brackets and blanks."""

    def combine(parts: list[str], operators: list[str], shapes: list[int], signs: list[str]) -> str:
        parts = [sign + part for sign, part in zip(signs, parts, strict=True)]
        while len(parts) > 1:
            at = shapes.pop() % (len(parts) - 1)
            joined = parts[at] + operators.pop() + parts[at + 1]
            parts[at : at + 2] = [f"({joined})" if shapes.pop() % 2 else joined]
        return parts[0]

    def of(count: int) -> st.SearchStrategy[str]:
        return st.builds(
            combine,
            st.lists(st.sampled_from(NUMBERS), min_size=count, max_size=count),
            st.lists(st.sampled_from(["+", "-", "*", "/", "//", "**", " *", ""]), min_size=3, max_size=3),
            st.lists(st.integers(0, 60), min_size=6, max_size=6),
            st.lists(st.sampled_from(["", "", "", "-", "+", " "]), min_size=count, max_size=count),
        )

    return st.integers(1, 4).flatmap(of)


def test_the_eval_in_a_process_answers_and_survives_a_formula_without_end(pythons_eval: PythonsEval) -> None:
    assert pythons_eval("9**9**9**9") is None
    assert pythons_eval("3*8") == {"value": "24", "number": True, "right": [False, True]}
    assert pythons_eval("3(8)") == {"error": "TypeError"}


@settings(max_examples=1500, deadline=None)
@given(played(POINTS24, 4, 21))
def test_random_symbols_of_points24_mean_what_eval_says(pythons_eval: PythonsEval, text: str) -> None:
    compare(text, pythons_eval(text))


@settings(max_examples=500, deadline=None)
@given(played(EZ_POINTS, 2, 6))
def test_random_symbols_of_ez_points_mean_what_eval_says(pythons_eval: PythonsEval, text: str) -> None:
    compare(text, pythons_eval(text))


@settings(max_examples=1500, deadline=None)
@given(sensible())
@example("5**2-1*1")
@example("8/(3-8/3)")
@example("(1-9)**(1/3)")
@example("24*1*1")
def test_sensible_formulas_mean_what_eval_says(pythons_eval: PythonsEval, text: str) -> None:
    compare(text, pythons_eval(text))


@settings(max_examples=500, deadline=None)
@given(st.lists(st.sampled_from(POINTS24), max_size=21).map("".join))
def test_any_number_of_numbers_is_never_right_where_eval_says_wrong(pythons_eval: PythonsEval, text: str) -> None:
    compare(text, pythons_eval(text), complete=False)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("24*1*1", 24),
        ("5**2-1*1", 24),
        ("10//4", 2),
        ("-7//2", -4),
        ("--4", 4),
        ("2**-1", 0.5),
        ("-2**2", -4),
        ("  3+9", 12),
        ("3 + 9 ", 12),
        ("6/2", 3.0),
        ("1**99999", 1),
        ("(1-2)**99999", -1),
        ("(1-1)**9**5", 0),
        ("(1-1)**(1-1)", 1),
        ("", None),
        (" ", None),
        ("1 2", None),
        ("1* *2", None),
        ("3(4)", None),
        ("()", None),
        ("()*9", None),
        ("(2", None),
        ("2)", None),
        ("3(*4)", None),
        ("3(**4)", None),
        ("1/0", None),
        ("1/(2-2)", None),
        ("(1-1)**-1", None),
        ("__import__", None),
        ("1_0", None),
        ("1e3", None),
        ("2\n", None),
    ],
)
def test_edge_cases(text: str, value: object) -> None:
    assert evaluate(text) == value


def test_floats_are_compared_exactly() -> None:
    assert evaluate("8/(3-8/3)") == pytest.approx(24)
    assert not is_right("8/(3-8/3)", 24)
    assert is_right("(5-1/5)*5", 24)


def test_complex_numbers_can_be_right_as_in_python() -> None:
    value = evaluate("(-4)**(1/2)")
    assert isinstance(value, complex)
    assert value == pytest.approx(2j)
    assert evaluate("(-4)**(1/2)//1") is None  # no floor division of complex numbers


@pytest.mark.parametrize(
    "text",
    [
        "9**9**9**9",
        "10**10**10**10",
        "9**9**9",
        "((9**9)**9**9)**9",
        "2**65536*2**65536",
        "1**9**9**6",
        "(1-2)**9**6**5",
        "10101010**10101010",
        "1**-9**9**9",
        "(" * 20,
        "(" * 64,
        ")" * 64,
        "(" * 30 + "1" + ")" * 30,
        "-" * 63 + "1",
        "+" * 64,
        "*" * 64,
        "3(" * 32,
        "9" * 64,
        "9" * 100_000,
        "(" * 100_000,
        "9**" * 21,
        "9//" * 21 + "1",
    ],
)
def test_hostile_formulas_cost_milliseconds(text: str) -> None:
    def seconds() -> float:
        started = time.process_time()
        is_right(text, 24)
        return time.process_time() - started

    assert min(seconds() for _ in range(3)) < 0.02
    assert not is_right(text, 24)


def test_no_formula_makes_python_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for text in ("3(4)", "(3)(4)", "()()", "1(*2)"):
            assert evaluate(text) is None


@pytest.mark.parametrize("base", [2, -2, 3, 7, 10, 255, 256, -1023])
def test_the_bound_of_powers_is_exact(base: int) -> None:
    assert MAX_POWER_BITS == 65_536
    fits = 1
    while abs(base ** (fits * 2)).bit_length() <= MAX_POWER_BITS:
        fits *= 2
    step = fits
    while step := step // 2:
        if abs(base ** (fits + step)).bit_length() <= MAX_POWER_BITS:
            fits += step
    assert power(base, fits) == base**fits
    with pytest.raises(OverflowError):
        power(base, fits + 1)


def test_long_powers_below_the_bound_are_computed() -> None:
    assert evaluate("9**9**4") == 9**6561
    assert evaluate("10**1010") == 10**1010


def test_powers_beside_the_bound_are_pythons() -> None:
    assert power(2, -3) == 0.125
    assert power(1, 10**4000) == 1
    assert power(-1, 10**4000 + 1) == -1
    assert power(-1, 10**4000) == 1
    assert power(0, 10**4000) == 0
    assert power(0, 0) == 1
    assert power(2.0, 10) == 1024
    with pytest.raises(OverflowError):
        power(2.0, 10_000)
    with pytest.raises(OverflowError):
        power(2, 10**4000)
    with pytest.raises(ZeroDivisionError):
        power(0, -1)


HUGE = ["2**(4**9)", "3**3**10", "2**(7**6)", "(-3)**(3**10)", "-5**6**6", "(10**10)**(10000-1)", "(2**10)**(9**5)"]
JOINED = ["{H}+{d}", "{H}-{d}", "{d}-{H}", "{H}*{d}", "{H}/{d}", "{d}/{H}", "{H}//{d}", "{d}//{H}", "{H}**-{d}",
          "{H}**{d}", "1**{H}", "(-1)**{H}", "1**-{H}", "{H}", "-{H}", "-{H}+{d}", "-{H}/{d}", "{d}/-{H}"]  # fmt: skip


@pytest.mark.parametrize("huge", HUGE)
def test_beyond_the_bound_nothing_is_right(pythons_eval: PythonsEval, huge: str) -> None:
    """The argument in `power`: whatever joins a power beyond the bound, `eval` too finds it wrong."""
    for shape in JOINED:
        for d in (1, 2, 9, 10):
            if shape == "{H}**{d}" and d > 2:
                continue  # `eval` would take long; it is only larger
            text = shape.format(H=f"({huge})", d=d)
            python = pythons_eval(text)
            assert evaluate(text) is None
            assert python is None or python.get("right", [False, False]) == [False, False], text


@settings(max_examples=1500, deadline=None)
@given(sensible())
def test_a_lower_bound_would_lose_nothing_either(pythons_eval: PythonsEval, text: str) -> None:
    """With 1100 bits, just above what a float holds, far more formulas meet the bound, and `eval` can check them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(formulas, "MAX_POWER_BITS", 1100)
        rights = [is_right(text, 12), is_right(text, 24)]
    python = pythons_eval(text)
    if python is not None:
        assert rights == python.get("right", [False, False]), text
