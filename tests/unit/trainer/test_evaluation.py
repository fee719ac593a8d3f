"""Which episodes an evaluation plays."""

from typing import Any

import pytest
from overworld import ActionSpec, EnvSpec, Reset
from overworld.errors import SettingsError
from overworld_trainer.config import EnvConfig, EvaluationConfig
from overworld_trainer.evaluation import choose_tasks
from overworld_trainer.seeds import episode_seed

SPEC = EnvSpec(
    id="toy/Tasks",
    task="Do it.",
    success="It was done.",
    action=ActionSpec(("do",)),
    splits={"endless": 0, "train": 40, "valid": 12},
    default_split="endless",
)


def choose(split: str = "", evaluation_split: str = "", spec: EnvSpec = SPEC, **evaluation: Any) -> list[Reset]:
    env = EnvConfig(id=spec.id, split=split, evaluation_split=evaluation_split)
    return choose_tasks(spec, env, EvaluationConfig(every=1, **evaluation))


def test_an_endless_split_gives_seeds_below_those_of_training() -> None:
    assert choose(episodes=3, seed=5) == [Reset(5), Reset(6), Reset(7)]
    assert choose("endless", episodes=1) == [Reset(0, "endless")]
    largest = EvaluationConfig(every=1, seed=2**31 - 1, episodes=2**31 - 1)
    assert largest.seed + largest.episodes <= min(episode_seed(seed, 0, 0, 0) for seed in range(100))


def test_a_finite_split_gives_each_task_once_or_as_many_as_are_asked_for() -> None:
    assert choose("train", "valid") == [Reset(0, "valid", task) for task in range(12)]
    some = [choose("train", "valid", episodes=5, seed=seed) for seed in (0, 0, 1)]
    assert some[0] == some[1]
    assert [one.task for one in some[0]] != [one.task for one in some[2]]
    tasks = [one.task for one in some[0] if one.task is not None]
    assert len(set(tasks)) == 5
    assert tasks == sorted(tasks)


def test_what_is_trained_on_is_not_evaluated_on() -> None:
    with pytest.raises(SettingsError, match=r"all 40 tasks of its split 'train'.*\['endless', 'valid'\]"):
        choose("train")
    with pytest.raises(SettingsError, match="is trained on all 40 tasks"):
        choose("train", "train")
    finite = EnvSpec(
        id="toy/Tasks", task="", success="", action=ActionSpec(("do",)), splits={"train": 40}, default_split="train"
    )
    with pytest.raises(SettingsError, match="is trained on all 40 tasks"):
        choose(spec=finite)


def test_a_split_that_is_not_there_is_named() -> None:
    with pytest.raises(SettingsError, match=r"no split 'test'; choose one of \['endless', 'train', 'valid'\]"):
        choose("train", "test")
