"""What a demo with targets says of an agent, and the fixed sequences that it is held against."""

import re
from collections.abc import Iterator

import pytest
import yaml

from demo.courses import COURSES, Targets
from demo.sequence import Sequences
from demo.verdict import judge

TARGETS = Targets(success=0.85, margin=0.15, invalid=0.02)
HALF = [True, False] * 50


def won(share: float) -> list[bool]:
    """That share of 100 episodes, the first ones."""
    return [number < round(100 * share) for number in range(100)]


def test_an_agent_that_looks_meets_all_targets() -> None:
    verdict = judge(won(0.9), {"blank": won(0.1), "sequence": won(0.6)}, 0.01, TARGETS)
    assert (verdict.missed, verdict.control, verdict.ceiling) == ((), "sequence", 0.6)
    assert verdict.margin.value == pytest.approx(0.3)
    assert 0 < verdict.margin.low < 0.3 < verdict.margin.high
    assert verdict.to_json()["margin"]["value"] == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("trained", "controls", "invalid", "said"),
    [
        (won(0.84), {"blank": won(0.1)}, 0.0, "success is 0.84"),
        (won(0.9), {"blank": won(0.1), "sequence": won(0.8)}, 0.0, r"blind ceiling, 0.80 \(sequence\), by 0.10"),
        (won(0.9), {"blank": won(0.1)}, 0.021, "2.1% of the sampled replies"),
    ],
)
def test_each_target_can_be_missed_alone(
    trained: list[bool], controls: dict[str, list[bool]], invalid: float, said: str
) -> None:
    (missed,) = judge(trained, controls, invalid, TARGETS).missed
    assert re.search(said, missed), missed


def test_a_large_margin_that_may_be_chance_is_missed() -> None:
    few = Targets(success=0.5, margin=0.15, invalid=0.02)
    (missed,) = judge([True, True, True, False], {"blank": [True, False, True, False]}, 0.0, few).missed
    assert "with an interval above 0" in missed


@pytest.fixture(scope="module")
def sequences() -> Iterator[Sequences]:
    found = Sequences("gym_cards/NumberLine", {"size": 32, "max_turns": 5})
    yield found
    found.close()


def test_the_best_sequence_is_found_and_always_the_same(sequences: Sequences) -> None:
    seeds = range(4)
    apart = max(sum(sequences.successes([action] * 5, seeds)) for action in "+-")
    best = sequences.best(seeds, 0)
    assert len(best) == 5
    assert sum(sequences.successes(best, seeds)) >= apart
    assert sequences.best(seeds, 0) == best


def test_a_sequence_is_found_where_random_ones_never_succeed() -> None:
    """A ceiling of 0 would flatter every agent: 2 + 10 = wins about a third of the hands of EZPoints."""
    sequences = Sequences("gym_cards/EZPoints", {"size": 32, "max_turns": 6})
    best = sequences.best(range(12), 0)
    assert sum(sequences.successes(best, range(100, 200))) >= 20
    sequences.close()


def test_a_sequence_succeeds_where_its_actions_lead_to_the_target(sequences: Sequences) -> None:
    up = sequences.successes(["+"] * 5, range(20))
    down = sequences.successes(["-"] * 5, range(20))
    assert [one != other for one, other in zip(up, down, strict=True)] == [True] * 20


def test_all_courses_have_the_same_algorithm() -> None:
    """Tuned per env is what the paper is against."""
    settings = [yaml.safe_load(course.config.read_text()) for course in COURSES.values()]
    for name in ("gamma", "kl", "policy", "critic", "rollout_steps", "temperature"):
        assert all(one.get(name) == settings[0].get(name) for one in settings), name
