"""The games deal, reward and end as the originals do: vectors recorded from RL4VLM's gym_cards (see their note)."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from overworld import End, Runner, make

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "vectors" / "originals.json").read_text())
GAMES = ("NumberLine", "EZPoints", "Points24", "Blackjack")


def cards(text: str) -> list[tuple[str, str]]:
    return [(card[1:].replace("T", "10"), card[0]) for card in text.split()]


def dealt(game: str, env: Any) -> list[Any]:
    if game == "NumberLine":
        return [env._current, env._target]
    if game == "Blackjack":
        return [env._dealer, env._player]
    return [env._cards, env._left]


def recorded(game: str, row: list[Any]) -> list[Any]:
    if game == "NumberLine":
        return row
    if game == "Blackjack":
        return [cards(row[0]), cards(row[1])]
    return [cards(row[0]), row[1]]


def test_vectors_cover_large_seeds_and_both_kinds_of_end() -> None:
    for game in GAMES:
        seeds = [row[0] for row in VECTORS["deals"][game]]
        assert len(seeds) == 200
        assert {0, 2**32 + 5, 2**63, 2**64 - 1} <= set(seeds)
        episodes = VECTORS["episodes"][game]
        assert len(episodes) > 100
        assert {row[3] for row in episodes} == ({"terminated"} if game == "Blackjack" else {"terminated", "truncated"})


@pytest.mark.parametrize("game", GAMES)
def test_a_seed_deals_what_the_original_deals(game: str) -> None:
    runner = make(f"gym_cards/{game}", size=32)
    for seed, *deal in VECTORS["deals"][game]:
        runner.reset(seed)
        assert dealt(game, runner.env) == recorded(game, deal), seed


@pytest.mark.parametrize("game", GAMES)
def test_episodes_run_as_in_the_original(game: str) -> None:
    runner = make(f"gym_cards/{game}", size=32)
    for seed, actions, rewards, end, state in VECTORS["episodes"][game]:
        assert played(game, runner, seed, actions) == (rewards, end, state), (seed, actions)


def played(game: str, runner: Runner, seed: int, actions: list[int]) -> tuple[list[float], str, Any]:
    env: Any = runner.env
    result = runner.reset(seed)
    rewards, positions = [], []
    for action in actions:
        assert result.end is None
        result = runner.step(action)
        rewards.append(result.reward)
        positions.append(getattr(env, "_current", None))
    assert result.end in (End.TASK, End.RULE)
    assert result.metrics == {"positive_return": float(sum(rewards) > 0)}
    won = rewards[-1] == (10 if game in ("EZPoints", "Points24") else 1)
    assert result.success is won
    if game == "NumberLine":
        state: Any = positions
    elif game == "Blackjack":
        state = [" ".join(card.suit + card.rank for card in hand) for hand in (env._dealer, env._player)]
    else:
        state = env._formula
    return rewards, "terminated" if result.end is End.TASK else "truncated", state


@pytest.mark.parametrize(
    ("formula", "reward"),
    [("24*1*1", 10), ("5**2-1*1", 10), ("10+10+4//1", 10), ("6*4*1**10", 10), (" 6*4+1//10", 10), ("8/(3-8/3)", -1)],
)
def test_vectors_hold_the_formulas_that_only_eval_explains(formula: str, reward: int) -> None:
    last = {"".join(row[4]): row[2][-1] for row in VECTORS["episodes"]["Points24"]}
    assert last[formula] == reward


def test_pluses_alone_are_cut_off_after_the_longest_formula() -> None:
    for game, turns in (("EZPoints", 7), ("Points24", 22)):
        result = make(f"gym_cards/{game}").reset(4, prefix=["+"] * turns)
        assert (result.end, result.success, result.reward, result.turn) == (End.RULE, False, -1, turns)


def test_equals_comes_too_late_after_the_longest_formula() -> None:
    result = make("gym_cards/EZPoints").reset(4, prefix=[*"++++++", "="])
    assert (result.end, result.reward) == (End.RULE, -1)


def test_the_split_of_deals_is_every_pair_once() -> None:
    runner = make("gym_cards/NumberLine", size=32)
    pairs = set()
    for task in range(30):
        runner.reset(seed=99, split="deals", task=task)
        pairs.add((runner.env._current, runner.env._target))  # type: ignore[attr-defined]
    assert pairs == {(start, target) for start in range(6) for target in range(6) if start != target}


@pytest.mark.parametrize("game", GAMES)
def test_an_episode_depends_on_its_seed_alone(game: str) -> None:
    """Neither on episodes before it nor on Python's global generator, which stays untouched."""
    runner = make(f"gym_cards/{game}", size=32)
    vocabulary = runner.spec.action.vocabulary

    def trace(seed: int) -> list[Any]:
        results = [runner.reset(seed)]
        choices = random.Random(seed)
        while results[-1].end is None:
            results.append(runner.step(choices.choice(vocabulary)))
        return [(r.reward, r.end, r.observation.text, dealt(game, runner.env)) for r in results]

    random.seed(1)
    before = random.getstate()
    first = [trace(seed) for seed in range(20)]
    random.seed(2)
    assert [trace(seed) for seed in reversed(range(20))] == first[::-1]
    random.seed(1)
    assert random.getstate() == before


def test_playing_leaves_the_global_generator_alone() -> None:
    before = random.getstate()
    for game in GAMES:
        make(f"gym_cards/{game}", size=32).reset(3)
    assert random.getstate() == before


def test_the_hosts_limit_of_turns_ends_with_the_metric() -> None:
    runner = make("gym_cards/EZPoints", max_turns=2)
    result = runner.reset(1, prefix=["+", "+"])
    assert (result.end, result.success, result.metrics) == (End.TIME_LIMIT, False, {"positive_return": 0.0})
