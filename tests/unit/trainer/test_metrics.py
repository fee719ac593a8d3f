"""Metrics: names, numbers, and the files they are written to."""

import dataclasses

import pytest
import torch
from overworld import End, Outcome
from overworld_trainer.episodes import EpisodeStatistics
from overworld_trainer.metrics import Metric, valid_replies
from overworld_trainer.rollout import Rollout, Step
from overworld_trainer.samples import Samples
from overworld_trainer.summary import rollout_metrics, sample_metrics

from tests.support.learning import PROMPT, rollout_of


def step(turn: int, tokens: int, outcome: Outcome | None, cut: bool = False, failed: bool = False) -> Step:
    return Step(
        env=0,
        turn=turn,
        prompt=PROMPT,
        reply=torch.zeros(tokens),
        logps=torch.zeros(tokens),
        features=None,
        thinking=0,
        cut=cut,
        outcome=outcome,
        failed=failed,
    )


def episode(env: int, reward: float, length: int, success: bool, end: End) -> EpisodeStatistics:
    return EpisodeStatistics(env=env, reward=reward, length=length, success=success, end=end)


@pytest.fixture
def rollout() -> Rollout:
    steps = [
        [step(0, 4, Outcome.EXECUTED), step(1, 8, Outcome.NO_ACTION, cut=True)],
        [step(3, 2, Outcome.NOT_ADMISSIBLE), step(0, 6, None, failed=True)],
    ]
    episodes = [
        episode(0, 1.0, 4, True, End.TASK),
        episode(1, -3.0, 10, False, End.RULE),
        episode(1, 0.5, 6, False, End.TIME_LIMIT),
        episode(0, 0.0, 8, False, End.TASK),
    ]
    return dataclasses.replace(rollout_of(steps, [1.0, 1.0]), episodes=episodes)


def test_a_rollouts_metrics(rollout: Rollout) -> None:
    assert rollout_metrics(rollout, ["toy/A", "toy/B"]) == {
        "replies/unparseable": 0.25,
        "replies/inadmissible": 0.25,
        "replies/cut": 0.25,
        "replies/tokens": 5.0,
        "charts/failed_steps": 1.0,
        "charts/episodes": 4.0,
        "ends/task": 0.5,
        "ends/rule": 0.25,
        "ends/time_limit": 0.25,
        "charts/episodic_return": -0.375,
        "charts/episodic_length": 7.0,
        "charts/success_rate": 0.25,
        "charts/episodic_return/toy/A": 0.5,
        "charts/episodic_length/toy/A": 6.0,
        "charts/success_rate/toy/A": 0.5,
        "charts/episodic_return/toy/B": -1.25,
        "charts/episodic_length/toy/B": 8.0,
        "charts/success_rate/toy/B": 0.0,
    }


def test_one_env_is_not_listed_by_itself_and_no_episodes_have_no_return(rollout: Rollout) -> None:
    assert not [name for name in rollout_metrics(rollout, ["toy/A"]) if name.endswith("toy/A")]
    rollout.episodes.clear()
    metrics = rollout_metrics(rollout, ["toy/A"])
    assert metrics["charts/episodes"] == metrics["ends/task"] == 0
    assert "charts/success_rate" not in metrics


def test_one_env_with_several_options_is_one_env(rollout: Rollout) -> None:
    metrics = rollout_metrics(rollout, ["toy/A", "toy/A"])
    assert metrics["charts/episodic_return/toy/A"] == metrics["charts/episodic_return"]


def samples(targets: list[float], values: list[float], value_at_start: float | None = None) -> Samples:
    wanted = torch.tensor(targets)
    return Samples(
        decisions={},
        advantages=wanted,
        weights=wanted,
        features=wanted,
        targets=wanted,
        old_values=torch.tensor(values),
        slots=torch.arange(len(targets)),
        advantage_std=0.7,
        normalised_std=0.4,
        value_at_start=value_at_start,
    )


def test_explained_variance() -> None:
    # Targets 0, 2: variance 1. Residuals -1, 0: variance .25. A constant error explains all of it.
    metrics = sample_metrics(samples([0.0, 2.0], [1.0, 2.0]), reward_scale=4.0)
    assert metrics == {
        "losses/explained_variance": pytest.approx(0.75),
        "losses/relative_target_std": pytest.approx(0.25),
        "losses/advantage_std": 0.7,
        "losses/normalised_advantage_std": 0.4,
    }
    assert sample_metrics(samples([0.0, 2.0], [5.0, 7.0]), 1.0)["losses/explained_variance"] == pytest.approx(1.0)
    assert sample_metrics(samples([3.0, 3.0], [1.0, 2.0]), 1.0)["losses/explained_variance"] == 0.0


def test_the_value_at_start_is_logged_where_episodes_began() -> None:
    assert sample_metrics(samples([0.0, 2.0], [1.0, 2.0], 1.0), 1.0)["charts/value_at_start"] == 1.0
    assert "charts/value_at_start" not in sample_metrics(samples([0.0, 2.0], [1.0, 2.0]), 1.0)


def test_every_name_in_the_log_is_listed_in_one_place(rollout: Rollout) -> None:
    logged = rollout_metrics(rollout, ["toy/A"]).keys() | sample_metrics(samples([0.0], [1.0], 1.0), 1.0).keys()
    assert logged < set(Metric)
    by_env = rollout_metrics(rollout, ["toy/A", "toy/B"]).keys() - logged
    assert {name.removesuffix("/toy/A").removesuffix("/toy/B") for name in by_env} < set(Metric)


def test_valid_replies_are_those_that_hold_an_admissible_action(rollout: Rollout) -> None:
    assert valid_replies(rollout_metrics(rollout, ["toy/A"])) == 0.5
    rounded: dict[str, float] = {Metric.REPLIES_UNPARSEABLE: 0.8, Metric.REPLIES_INADMISSIBLE: 0.2 + 1e-15}
    assert sum(rounded.values()) > 1
    assert valid_replies(rounded) == 0
