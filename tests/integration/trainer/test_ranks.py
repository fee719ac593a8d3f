"""Several ranks come to the numbers of one, and resume one another's runs."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from overworld.evaluation.folder import EpisodeFolder
from overworld.host.process import ServerProcess
from overworld_trainer.train import train
from overworld_vlm.load import load, save
from safetensors.torch import load_file
from torch import nn

from tests.support.ranks import run_ranks
from tests.support.scripted_env import CHOICE, PUPPET
from tests.support.scripted_model import numbers, progress, run_fields, run_settings, tensors

UPDATES = 3
ENVS = [
    {
        "id": "puppet/Puppet",
        "slots": 5,
        "options": {"script": ["go", "fly", "raise", "win"], "max_turns": 5},
        "fallback_reward": 0.0,
    },
    {"id": "gym_cards/NumberLine", "slots": 3, "options": {"size": 56}, "weight": 0.5, "fallback_reward": 0.0},
]
"""Slots that two ranks cannot share evenly; steps that fail, replies without an action, time limits."""


TABLE = {"every": 1, "episodes": 1000}


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    arguments = ("--workers", "2", "--slots", "64", "--allow-expert")
    with ServerProcess(PUPPET, CHOICE, "gym_cards", arguments=arguments) as server:
        yield server


@pytest.fixture(scope="module")
def untied(obedient_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model, whose output embeddings are weights of their own."""
    vlm = load(obedient_folder)
    vlm.core.config.tie_word_embeddings = vlm.core.config.text_config.tie_word_embeddings = False
    vlm.core.lm_head.weight = nn.Parameter(vlm.core.lm_head.weight.detach().clone())
    folder = tmp_path_factory.mktemp("models") / "untied"
    save(vlm, folder)
    return folder


def fields(server: ServerProcess, folder: Path, model: Path, parallel: str, /, **changes: Any) -> dict[str, Any]:
    common = {"envs": ENVS, "updates": UPDATES, "checkpoint_every": 1, "parallel": parallel, "table": TABLE}
    return run_fields(server, folder, model, **common | changes)


def differences(ours: Path, theirs: Path) -> float:
    """The largest between two runs' metrics, relative where they exceed 1. Both have logged the same ones."""
    largest = 0.0
    for one, other in zip(numbers(ours), numbers(theirs), strict=True):
        mine, yours = json.loads(one), json.loads(other)
        assert mine.keys() == yours.keys()
        largest = max(largest, *(abs(mine[name] - yours[name]) / max(1.0, abs(yours[name])) for name in mine))
    return largest


def replies(folder: Path) -> dict[tuple[str, Any], list[str]]:
    """What was replied in the episodes of a run's tables, by env and task."""
    folders = [EpisodeFolder(place) for place in folder.glob("episodes/update-*/*")]
    return {
        (folder.spec.id, episode.seed): [turn.reply for turn in episode.turns]
        for folder in folders
        for episode in folder
    }


CASES: dict[str, tuple[str, dict[str, Any], bool]] = {
    "whole, replicated": ("replicate", {}, True),
    "whole, sharded": ("shard", {}, False),
    "adapter, replicated": ("replicate", {"lora": {"r": 4, "alpha": 8}}, False),
    "adapter, sharded": ("shard", {"lora": {"r": 4, "alpha": 8}, "gradient_checkpointing": True}, True),
}
"""What is shared, settings of the model, and whether its embeddings are untied."""


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_come_to_the_numbers_of_one(
    server: ServerProcess, obedient_folder: Path, untied: Path, tmp_path: Path, case: str
) -> None:
    parallel, settings, cut = CASES[case]
    path = untied if cut else obedient_folder
    model = {"model": {"path": str(path)} | settings}
    one, two = tmp_path / "one", tmp_path / "two"
    train(run_settings(server, one, path, envs=ENVS, updates=UPDATES, checkpoint_every=1, table=TABLE, **model))
    run_ranks(tmp_path, fields(server, two, path, parallel, **model), 2)
    assert differences(two, one) < 1e-5
    assert progress(two, UPDATES)["slots"] == progress(one, UPDATES)["slots"]
    assert len(replies(two)) >= 3
    assert replies(two).items() <= replies(one).items()  # rank 0 writes tables of its own slots
    ours, theirs = (folder / "checkpoints" / f"{UPDATES:06}" for folder in (two, one))
    files = [sorted(path.relative_to(folder) for path in folder.rglob("*")) for folder in (ours, theirs)]
    assert files[0] == files[1]
    for file in ours.rglob("*.safetensors"):
        mine, yours = load_file(file), load_file(theirs / file.relative_to(ours))
        assert mine.keys() == yours.keys()
        for name in mine:
            torch.testing.assert_close(mine[name], yours[name], rtol=1e-3, atol=1e-5)


def test_groups_of_whole_episodes_are_compared_across_ranks(
    server: ServerProcess, obedient_folder: Path, tmp_path: Path
) -> None:
    """The slots of the middle group are on different ranks; episodes end at different times, and some fail."""
    envs = [
        {"id": "puppet/Puppet", "slots": 6, "options": {"script": ["go", "fly", "win"], "max_turns": 4}},
        {"id": "puppet/Puppet", "slots": 2, "options": {"script": ["go", "raise"]}},
    ]
    changes = {"envs": envs, "algorithm": "gigpo", "group_size": 2, "temperature": 1.0, "updates": 2, "table": {}}
    one, two = tmp_path / "one", tmp_path / "two"
    train(run_settings(server, one, obedient_folder, **changes))
    run_ranks(tmp_path, fields(server, two, obedient_folder, "shard", **changes), 2)
    assert differences(two, one) < 1e-5
    assert progress(two, 2)["slots"] == progress(one, 2)["slots"]


def test_a_run_is_resumed_by_any_number_of_ranks(server: ServerProcess, obedient_folder: Path, tmp_path: Path) -> None:
    """By one, by two with a part of the weights each, and by one again."""
    undisturbed, folder = tmp_path / "undisturbed", tmp_path / "run"
    train(run_settings(server, undisturbed, obedient_folder, envs=ENVS, updates=UPDATES))
    policy = run_fields(server, "", "")["policy"] | {"lr_updates": UPDATES}
    train(run_settings(server, folder, obedient_folder, envs=ENVS, updates=1, policy=policy))
    run_ranks(tmp_path, fields(server, folder, obedient_folder, "shard", updates=2, policy=policy), 2)
    assert "resuming from" in (tmp_path / "rank-0.log").read_text()
    train(run_settings(server, folder, obedient_folder, envs=ENVS, updates=UPDATES, policy=policy))
    assert differences(folder, undisturbed) < 1e-5
    assert progress(folder, UPDATES)["slots"] == progress(undisturbed, UPDATES)["slots"]


def test_cloning_and_evaluations_are_the_first_ranks_and_the_others_wait(server: ServerProcess, tmp_path: Path) -> None:
    envs = [{"id": "gym_cards/NumberLine", "slots": 4, "options": {"size": 56, "max_turns": 3}}]
    sizes = {"hidden_size": 32, "intermediate_size": 64, "vision_layers": 1, "vocab_size": 340}
    changes = {
        "envs": envs,
        "clone": {"updates": 3},
        "model": {"path": "tiny", "tiny": sizes, "lora": {"r": 4, "alpha": 8}},
        "evaluation": {"every": 2, "episodes": 6, "slots": 3},
        "updates": 2,
    }
    one, two = tmp_path / "one", tmp_path / "two"
    train(run_settings(server, one, "tiny", **changes))
    run_ranks(tmp_path, fields(server, two, Path("tiny"), "shard", **changes), 2)
    assert differences(two, one) < 1e-5
    start = Path("checkpoints", "000000", "weights", "model.safetensors")
    assert (two / start).read_bytes() == (one / start).read_bytes()
    assert (two / "checkpoints" / "best").read_text() == "000002\n"
    said = (tmp_path / "rank-1.log").read_text()
    assert "update" not in said  # the first one tells


def test_shards_of_weights_in_bf16_have_masters_as_whole_weights_do(
    server: ServerProcess, obedient_folder: Path, tmp_path: Path
) -> None:
    """One rank that has all shards comes to the very bits, and its checkpoints are resumed without shards."""
    model = {"model": {"path": str(obedient_folder), "dtype": "bfloat16"}}
    policy = run_fields(server, "", "")["policy"] | {"lr_updates": UPDATES}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(run_settings(server, whole, obedient_folder, updates=UPDATES, policy=policy, **model))
    sharded = run_fields(server, cut, obedient_folder, updates=2, policy=policy, parallel="shard", **model)
    run_ranks(tmp_path, sharded, 1)
    train(run_settings(server, cut, obedient_folder, updates=UPDATES, policy=policy, **model))
    assert numbers(cut) == numbers(whole)
    assert tensors(cut, UPDATES) == tensors(whole, UPDATES)
