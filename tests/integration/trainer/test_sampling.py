"""A run whose envs change as it goes, killed and resumed: the same tasks, the same numbers."""

import json
from pathlib import Path
from typing import Any

from overworld.host.process import ServerProcess
from overworld_trainer.train import train

from tests.support.scripted_model import lines, numbers, run_settings, tensors

PUPPET: dict[str, Any] = {"id": "puppet/Puppet", "slots": 4, "options": {"script": ["go", "go", "win"]}}


def test_a_curriculum_is_resumed_to_the_same_numbers(
    server: ServerProcess, obedient_folder: Path, tmp_path: Path
) -> None:
    envs = [
        PUPPET | {"until_env_steps": 36},
        PUPPET | {"options": {"script": ["win"]}, "from_success": 0.5},
        PUPPET | {"options": {"script": ["go", "win"]}, "from_env_steps": 12},
    ]
    fields: dict[str, Any] = {"envs": envs, "sampling": {"slots": 6, "by": "progress"}, "rollout_steps": 2}
    fields |= {"temperature": 0.1, "critic": {"layers": [4], "warmup_updates": 0}, "checkpoint_every": 1}
    fields |= {"policy": {"lr_updates": 5}}
    train(run_settings(server, tmp_path / "whole", obedient_folder, updates=5, **fields))
    for updates in (2, 3, 5):
        train(run_settings(server, tmp_path / "parts", obedient_folder, updates=updates, **fields))
    assert numbers(tmp_path / "parts") == numbers(tmp_path / "whole")
    assert tensors(tmp_path / "parts", 5) == tensors(tmp_path / "whole", 5)
    played = [json.loads(line)["env_steps"] for line in lines(tmp_path / "whole")]
    assert played == [8, 16, 28, 40, 52], "four slots, then six"
