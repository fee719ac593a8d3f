"""What a diagnosis concludes from successes, and its statistics."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from overworld.evaluation.conversation import Recipe
from overworld.evaluation.diagnosis.conditions import AS_IS, BLANK, SWAPPED, Condition, aids, controls
from overworld.evaluation.diagnosis.contrasts import ERROR_RATE, contrasts, holm, least_gain, paired_interval
from overworld.evaluation.diagnosis.verdict import climbed, verdict
from overworld.evaluation.substitution import AIDS, is_known, is_repaired

TASKS = 200
OTHERS = ("blank_frames", "swapped_frames", "short_history", "long_history")


def successes(**rates: float) -> dict[str, list[bool]]:
    """Successes in the first tasks, so that few pairs differ; an aid that is not named gains nothing."""
    found, last = {}, rates["as_is"]
    for name in ("as_is", *AIDS, *OTHERS):
        last = rates.get(name, last) if name in AIDS else last
        rate = last if name in AIDS else rates.get(name, rates["as_is"])
        found[name] = [task < round(TASKS * rate) for task in range(TASKS)]
    return found


@pytest.mark.parametrize(
    ("rates", "named"),
    [
        ({"as_is": 0.9, "blank_frames": 0.1}, ()),
        ({"as_is": 0.1, "captions": 0.9}, ("sight",)),
        ({"as_is": 0.5, "captions": 0.9, "blank_frames": 0.1}, ("sight",)),
        # A blind agent in a task that takes memory: told of now only, it still does not know what it never saw.
        ({"as_is": 0.1, "captions": 0.3, "earlier_captions": 0.9}, ("sight",)),
        ({"as_is": 0.1, "captions": 0.3, "notes": 0.9}, ("sight",)),
        ({"as_is": 0.1, "earlier_captions": 0.9}, ("sight",)),
        ({"as_is": 0.3, "notes": 0.9, "swapped_frames": 0.1}, ("memory",)),
        ({"as_is": 0.3, "earlier_captions": 0.9, "swapped_frames": 0.1}, ("memory",)),
        ({"as_is": 0.3, "notes": 0.9}, ("memory",)),
        ({"as_is": 0.3, "thoughts": 0.9, "blank_frames": 0.1}, ("planning",)),
        ({"as_is": 0.3, "repairs": 0.9, "blank_frames": 0.1}, ("form",)),
        ({"as_is": 0.1, "captions": 0.3, "thoughts": 0.9, "blank_frames": 0.0}, ("planning", "sight")),
        ({"as_is": 0.9, "captions": 0.1}, ()),
        ({"as_is": 0.5, "captions": 0.55}, ()),  # ten tasks of 200 are too few
    ],
)
def test_what_a_gain_shows(rates: dict[str, float], named: tuple[str, ...]) -> None:
    found = verdict(successes(**rates))
    assert found.named == named
    assert sum(found.shares.values()) == pytest.approx(1 - rates["as_is"])
    assert set(found.shows) == {*AIDS}


def test_a_recipe_of_one_turn_has_no_earlier_pictures() -> None:
    one, three = Recipe(history=1), Recipe(history=3)
    assert aids(one) == ["captions", "notes", "thoughts", "repairs"]
    assert aids(three) == list(AIDS)
    assert [control.name for control in controls(one, 4)] == ["blank_frames", "long_history"]
    assert [control.recipe(three).history for control in controls(three, 9)] == [3, 1, 9]
    found = verdict({name: [True, False] for name in ("as_is", *aids(one), "blank_frames", "swapped_frames")})
    assert not found.named


def test_an_aid_that_does_harm_is_dropped() -> None:
    """What the later steps gain is told from what they would gain without it; undoing the harm is no gain."""
    rates = {"as_is": 0.9, "captions": 0.1, "notes": 0.2, "thoughts": 0.9, "repairs": 0.94, "blank_frames": 0.5}
    found = verdict({name: won for name, won in successes(**rates).items() if name != "earlier_captions"})
    assert found.named == ()
    assert found.dropped == ("captions", "notes")
    assert {aid: step.first for aid, step in found.steps.items()} == {
        "captions": "as_is", "notes": "as_is", "thoughts": "as_is", "repairs": "thoughts",
    }  # fmt: skip
    assert found.shares == pytest.approx({"sight": 0, "memory": 0, "planning": 0, "form": 0.04, "unexplained": 0.06})
    base = {name: won for name, won in successes(**rates).items() if name in ("as_is", "captions")}
    assert climbed(base) == ("as_is", ["captions"])


def test_substitutions_have_words() -> None:
    for condition in (AS_IS, BLANK, SWAPPED, *controls(Recipe(history=3), 9), Condition("notes", given=AIDS[:3])):
        assert is_known(condition.substitution), condition
    assert not is_known("captions+lies")
    assert [is_repaired(given) for given in ("", "captions", "captions+repairs")] == [False, False, True]


def test_an_agent_without_effects_is_rarely_found_to_have_one() -> None:
    """Successes by chance alone, other ones in each condition: the worst case for a false name."""
    chance = random.Random(0)
    names = ("as_is", *AIDS, *OTHERS)
    runs = [
        verdict({name: [chance.random() < rate for _ in range(TASKS)] for name in names})
        for rate in (0.5, 0.8)
        for _ in range(75)
    ]
    effects = sum(any(one.effect for one in (*run.steps.values(), *run.controls.values())) for run in runs)
    assert effects / len(runs) <= 3 * ERROR_RATE


def test_p_values_are_adjusted_for_their_number() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    ((one, other),) = [contrasts({"a": [False] * 11, "b": [True] * 11, "c": [False] * 11}, [("a", "b"), ("a", "c")])]
    assert (one.p, one.adjusted, one.effect) == (2 / 2**11, 4 / 2**11, 1)
    assert (other.p, other.effect) == (1.0, 0)
    assert least_gain(200, 2) == 9
    assert least_gain(8, 2) == 9


@pytest.mark.parametrize(("gained", "lost", "pairs"), [(0, 0, 50), (12, 2, 50), (50, 0, 50), (3, 9, 14), (0, 5, 200)])
def test_tangos_interval(gained: int, lost: int, pairs: int) -> None:
    """Its ends are where the score, written out as in Tango's equation (10), is the quantile."""
    z = 1.959964
    interval = paired_interval(gained, lost, pairs, z)
    mirrored = paired_interval(lost, gained, pairs, z)
    assert interval.value == (gained - lost) / pairs
    assert -1 <= interval.low <= interval.value <= interval.high <= 1
    assert interval.high > interval.low
    assert (mirrored.low, mirrored.high) == pytest.approx((-interval.high, -interval.low), abs=1e-9)
    for end, sign in ((interval.low, 1), (interval.high, -1)):
        if -1 < end < 1 and abs(end - interval.value) > 1e-9:
            shares = (count / 20_000 for count in range(20_001))
            likeliest = max(
                (share for share in shares if 0 <= share + end <= 1 and 2 * share + end <= 1),
                key=lambda share: _likelihood(share, end, gained, lost, pairs),
            )
            deviation = (2 * likeliest + end - end * end) * pairs
            assert (gained - lost - pairs * end) / deviation**0.5 == pytest.approx(sign * z, rel=5e-3)


def _likelihood(lost_share: float, difference: float, gained: int, lost: int, pairs: int) -> float:
    chances = (lost_share + difference, lost_share, 1 - 2 * lost_share - difference)
    counts = (gained, lost, pairs - gained - lost)
    if any(count and chance <= 0 for chance, count in zip(chances, counts, strict=True)):
        return -math.inf
    return sum(count * math.log(chance) for chance, count in zip(chances, counts, strict=True) if count)


def test_the_interval_covers_as_it_says() -> None:
    """Of all tables of 12 pairs, those whose interval misses the truth have a chance of about 5 %."""
    z, pairs = 1.959964, 12
    for gain, loss in ((0.3, 0.1), (0.1, 0.1), (0.6, 0.05)):
        missed = 0.0
        for gained, lost in itertools.product(range(pairs + 1), repeat=2):
            if gained + lost <= pairs:
                interval = paired_interval(gained, lost, pairs, z)
                if not interval.low <= gain - loss <= interval.high:
                    missed += _chance(gained, lost, pairs, gain, loss)
        assert missed < 0.07


def _chance(gained: int, lost: int, pairs: int, gain: float, loss: float) -> float:
    ways = math.comb(pairs, gained) * math.comb(pairs - gained, lost)
    return float(ways * gain**gained * loss**lost * (1 - gain - loss) ** (pairs - gained - lost))
