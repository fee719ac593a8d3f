"""Which envs are played: by share, by schedule, once the one before is mastered, where most is being learnt."""

import json
from typing import Any

import pytest
from overworld import End
from overworld_trainer.config import TrainerConfig
from overworld_trainer.episodes import EpisodeStatistics
from overworld_trainer.sampling import Sampler, apportion
from pydantic import ValidationError


def configured(*envs: dict[str, Any], **changes: Any) -> TrainerConfig:
    entries = [{"id": "toy/Count", "slots": 8} | env for env in envs]
    return TrainerConfig(**{"run": "runs/one", "envs": entries, "clone": {"updates": 1}} | changes)


def episodes(env: int, *rewards: float, success: bool = False) -> list[EpisodeStatistics]:
    return [EpisodeStatistics(env=env, reward=one, length=3, success=success, end=End.TASK) for one in rewards]


def test_all_slots_play_unless_told_otherwise() -> None:
    config = configured({}, {"slots": 3})
    assert not config.is_sampled
    assert Sampler(config).slots(10**9) == [8, 3]
    assert Sampler(config).metrics(0) == {}


@pytest.mark.parametrize(
    ("total", "shares", "room", "counts"),
    [
        (7, [0.5, 0.25, 0.25], [9, 9, 9], [4, 2, 1]),
        (8, [0.5, 0.25, 0.25], [9, 9, 9], [4, 2, 2]),
        (8, [0.5, 0.25, 0.25], [3, 9, 9], [3, 3, 2]),
        (8, [0.98, 0.01, 0.01], [9, 9, 9], [6, 1, 1]),
        (8, [1.0, 0.0], [9, 9], [8, 0]),
        (8, [0.5, 0.5], [2, 2], [2, 2]),
    ],
)
def test_seats_by_hand(total: int, shares: list[float], room: list[int], counts: list[int]) -> None:
    assert apportion(total, shares, room) == counts


def test_shares_divide_the_slots_and_groups_stay_whole() -> None:
    config = configured({"share": 3}, {}, sampling={"slots": 8})
    assert Sampler(config).slots(0) == [6, 2]
    grouped = configured({"share": 3}, {}, sampling={"slots": 8}, algorithm="grpo", group_size=4)
    assert Sampler(grouped).slots(0) == [4, 4]
    assert Sampler(config).metrics(0) == {"charts/played_slots": 8, "charts/played_slots/toy/Count": 8}


def test_a_schedule_of_horizons() -> None:
    config = configured(
        {"options": {"max_turns": 10}, "until_env_steps": 100},
        {"options": {"max_turns": 20}, "from_env_steps": 50, "until_env_steps": 200},
        {"options": {"max_turns": 40}, "from_env_steps": 200},
    )
    played = {steps: Sampler(config).slots(steps) for steps in (0, 49, 50, 99, 100, 199, 200)}
    assert played == {
        0: [8, 0, 0], 49: [8, 0, 0], 50: [8, 8, 0], 99: [8, 8, 0], 100: [0, 8, 0], 199: [0, 8, 0], 200: [0, 0, 8],
    }  # fmt: skip


def test_a_curriculum_goes_on_when_the_env_before_is_mastered_and_not_back() -> None:
    sampler = Sampler(configured({}, {"split": "hard", "from_success": 0.6}))
    assert sampler.slots(0) == [8, 0]
    sampler.learn(episodes(0, 1.0, success=True) + episodes(0, 0.0), [1.0, 1.0])
    assert sampler.slots(100) == [8, 0], "one of two"
    sampler.learn(episodes(0, 1.0, success=True), [1.0, 1.0])
    assert sampler.slots(200) == [8, 8], "a running mean of .75"
    sampler.learn(episodes(1, 0.0), [1.0, 1.0])
    sampler.learn(episodes(0, 0.0, 0.0), [1.0, 1.0])
    assert sampler.slots(300) == [8, 8]


def test_progress_gives_slots_to_what_changes_in_units_of_its_rewards() -> None:
    config = configured({}, {}, sampling={"slots": 10, "by": "progress"})
    sampler = Sampler(config)
    assert sampler.slots(0) == [5, 5], "nothing is known yet"
    sampler.learn(episodes(0, 0.0) + episodes(1, 0.0), [1.0, 10.0])
    sampler.learn(episodes(0, 0.5) + episodes(1, 0.5), [1.0, 10.0])
    # Running means: .25 and .05 of the first env; a tenth of these of the second. .2 x .5 + .8 x 10/11 = .83
    assert sampler.slots(100) == [8, 2]
    for _ in range(60):
        sampler.learn(episodes(0, 0.5), [1.0, 10.0])
        sampler.learn(episodes(1, 5.0), [1.0, 10.0])
    assert sampler.slots(200) == Sampler(config, json.loads(json.dumps(sampler.state()))).slots(200)
    assert sum(sampler.slots(200)) == 10


def test_the_state_is_its_own_and_continues_to_the_bit() -> None:
    config = configured({}, {}, sampling={"slots": 10, "by": "progress"})
    whole = Sampler(config)
    whole.learn(episodes(0, 0.1, 0.2), [1.0, 3.0])
    kept = json.loads(json.dumps(whole.state()))
    parts = Sampler(config, kept)
    for one in (whole, parts):
        one.learn(episodes(0, 0.7) + episodes(1, 0.3), [1.0, 3.0])
    assert parts.state() == whole.state()
    assert kept != whole.state()


@pytest.mark.parametrize(
    ("envs", "changes", "says"),
    [
        ([{"from_success": 0.5}], {}, "no env before"),
        ([{"from_env_steps": 5}], {}, "after 0 env steps"),
        ([{"until_env_steps": 5}, {"from_env_steps": 6}], {}, "after 5 env steps"),
        ([{"until_env_steps": 5}, {"from_success": 0.5}], {}, "after 5 env steps"),
        ([{}, {}], {"sampling": {"slots": 1}}, "at least 2"),
        ([{}], {"sampling": {"slots": 3}, "algorithm": "loop"}, "at least 4"),
        ([{}], {"sampling": {"slots": 4}, "parallel": "replicate"}, "one process"),
    ],
)
def test_what_would_leave_a_run_without_an_env_is_refused(
    envs: list[dict[str, Any]], changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValidationError, match=says):
        configured(*envs, **changes)
