"""The algorithms beside VL-DAC in whole runs: whole episodes, groups that play the same task, and resuming."""

import functools
from pathlib import Path
from typing import Any, get_args

import pytest
from overworld.host.process import ServerProcess
from overworld_trainer.algorithms import ALGORITHMS, AlgorithmName
from overworld_trainer.config import TrainerConfig
from overworld_trainer.episodes import Episodes
from overworld_trainer.rollout import Collector, Rollout
from overworld_trainer.samples import make_samples
from overworld_trainer.seeds import episode_seed
from overworld_trainer.train import train
from overworld_vlm.engine import Engine
from overworld_vlm.load import VLM
from torch import Tensor

from tests.support.scripted_model import numbers, run_settings, tensors

BASELINES = [name for name in get_args(AlgorithmName) if name != "vl_dac"]
ENVS: list[dict[str, Any]] = [
    {"id": "puppet/Puppet", "slots": 4, "options": {"script": ["go", "fly", "win"], "max_turns": 3}},
    {"id": "gym_cards/NumberLine", "slots": 4, "options": {"max_turns": 3, "size": 32}},
]


def configured(server: ServerProcess, folder: Path, model: Path | str, **changes: Any) -> TrainerConfig:
    fields: dict[str, Any] = {"envs": ENVS, "group_size": 2, "temperature": 1.0}
    return run_settings(server, folder, model, **fields | changes)


def collected(config: TrainerConfig, vlm: VLM, times: int) -> list[Rollout]:
    seeds = functools.partial(episode_seed, config.seed, slots_per_task=config.slots_per_task)
    with Episodes.open(config, seeds) as episodes:
        collector = Collector(config, vlm, Engine(vlm), episodes)
        return [collector.collect(config.steps_per_slot) for _ in range(times)]


def test_every_slot_plays_one_whole_episode_and_groups_play_the_same(
    server: ServerProcess, obedient: VLM, tmp_path: Path
) -> None:
    script = ["go", "go", "win"]
    options = {"max_turns": 5, "script": script}
    envs = [{"id": "puppet/Puppet", "slots": 4, "options": options}, ENVS[1]]
    config = configured(server, tmp_path, "unused", algorithm="gigpo", envs=envs)
    seen = []
    for rollout in collected(config, obedient, 2):
        assert [row[0].turn for row in rollout.steps] == [0] * 8
        assert all(row[-1].end is not None and not any(step.end for step in row[:-1]) for row in rollout.steps)
        assert len(rollout.episodes) == 8
        tasks = [{step.task for step in row} for row in rollout.steps]
        assert all(len(task) == 1 for task in tasks)
        assert tasks[0::2] == tasks[1::2], "neighbours play the same"
        assert len(set.union(*tasks)) == 4
        # The same task shows the same at its start, another one another picture.
        assert [row[0].state for row in rollout.steps[0::2]] == [row[0].state for row in rollout.steps[1::2]]
        assert len({row[0].state for row in rollout.steps[:4]}) == 2
        assert len({step.state for step in rollout.steps[0]}) == len(rollout.steps[0]), "each turn shows another colour"
        seen += tasks
    assert len(set.union(*seen)) == 8, "the next update plays other tasks"


def test_an_episode_that_fails_on_the_way_is_left_out_and_the_groups_stay_in_step(
    server: ServerProcess, obedient: VLM, tmp_path: Path
) -> None:
    envs = [
        {"id": "puppet/Puppet", "slots": 2, "options": {"script": ["go", "raise"]}},
        {"id": "puppet/Puppet", "slots": 2, "options": {"script": ["go", "win"]}},
    ]
    config = configured(server, tmp_path, "unused", algorithm="grpo", envs=envs, temperature=0.1)
    first, second = collected(config, obedient, 2)
    for rollout in (first, second):
        assert [[step.failed for step in row] for row in rollout.steps] == [[False, True]] * 2 + [[False, False]] * 2
        assert rollout.steps[0][0].task == rollout.steps[1][0].task

    class Unused:
        def score(self, steps: Any, *_: Any) -> list[Tensor]:
            return [step.logps for step in steps]

    samples = make_samples(first, obedient, Unused(), lambda features: features[:, 0], config)  # type: ignore[arg-type]
    assert samples.slots.tolist() == [2, 2, 3, 3]
    assert samples.idle_tasks == 1.0
    assert samples.advantages.tolist() == [0.0] * 4


@pytest.mark.parametrize("name", BASELINES)
def test_each_algorithm_trains_in_any_env_by_one_setting(
    server: ServerProcess, obedient_folder: Path, tmp_path: Path, name: AlgorithmName
) -> None:
    config = configured(
        server,
        tmp_path / "run",
        obedient_folder,
        algorithm=name,
        updates=1 + ALGORITHMS[name].critic,
        max_new_tokens=10,
    )
    train(config)
    last = numbers(tmp_path / "run")[-1]
    assert ("losses/explained_variance" in last) == config.parts.critic
    assert ("losses/value_loss" in last) == config.parts.critic
    assert ("losses/idle_tasks" in last) == config.parts.grouped
    assert ("losses/normalised_advantage_std" in last) == config.parts.normalised
    assert "losses/policy_loss" in last
    # Without a critic there is no warm-up.
    assert ("losses/policy_loss" in numbers(tmp_path / "run")[0]) == (not config.parts.critic)


def test_a_run_of_whole_episodes_is_resumed_to_the_same_numbers(
    server: ServerProcess, obedient_folder: Path, tmp_path: Path
) -> None:
    policy = {"epochs": 1, "minibatch": 8, "lr": 1e-3, "lr_updates": 2}
    arguments: dict[str, Any] = {"algorithm": "loop", "policy": policy, "envs": ENVS[:1]}
    train(configured(server, tmp_path / "whole", obedient_folder, updates=2, **arguments))
    for updates in (1, 2):
        train(configured(server, tmp_path / "parts", obedient_folder, updates=updates, **arguments))
    assert numbers(tmp_path / "parts") == numbers(tmp_path / "whole")
    assert tensors(tmp_path / "parts", 2) == tensors(tmp_path / "whole", 2)
