"""The layout of ALFWorld's data: each game has a folder `json_2.1.1/<split>/<task>-<object>-...-<scene>/<trial>/`."""

from __future__ import annotations

import os
from pathlib import Path

VERSION = "json_2.1.1"
"""ALFWorld's name for the layout; the folder at the root of the data."""
SPLITS = ("train", "valid_seen", "valid_unseen")
GAME = "game.tw-pddl"
"""What is played: a JSON object with the PDDL and the grammar."""
TRAJECTORY = "traj_data.json"
"""What it was made from: the task's type and, for a real game, the scene."""
MARK = "generated.json"
"""Its presence in a data folder says that the games are generated; its content says how."""


def game_files(folder: Path) -> list[Path]:
    """The games of all splits, in order; `folder` is the one called `VERSION`.

    As upstream does, this leaves out games without a trajectory and tasks that slice or that move receptacles.
    """
    found = []
    for split in SPLITS:
        for root, _, files in os.walk(folder / split):
            if TRAJECTORY in files and GAME in files and "movable" not in root and "Sliced" not in root:
                found.append(Path(root) / GAME)
    return sorted(found)
