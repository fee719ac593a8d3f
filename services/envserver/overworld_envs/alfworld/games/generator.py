"""Makes games: each is a furnished floor plan with a task that the planner can solve there.

`train` and `valid_seen` share floor plans; `valid_unseen` has the ones that ALFRED reserves for it.
"""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from overworld_envs.alfworld.engine.upstream import VERSIONS, constants, goals
from overworld_envs.alfworld.games.layout import GAME, MARK, SPLITS, TRAJECTORY, VERSION
from overworld_envs.alfworld.games.planner import DEVICES, facts_of_problem, plan
from overworld_envs.alfworld.games.problems import game, problem, treatable
from overworld_envs.alfworld.games.scenes import HOLDS, LAMPS, ROOMS, UNSEEN, Scene, furnish, room_of
from overworld_envs.alfworld.games.tasks import TASK_TYPES, TREATMENTS, task_of_problem

_REVISION = 1
"""Increment it when a seed no longer makes the same games."""


@dataclass(frozen=True, slots=True)
class Made:
    """A generated game. `name` is its folder within the split."""

    name: str
    task_type: str
    thing: str
    target: str
    plan: int
    content: dict[str, Any]


@dataclass(frozen=True, slots=True)
class GameSet:
    """A set of games: the task types alternate, and each validation split gets a tenth."""

    games: int
    seed: int

    @property
    def name(self) -> str:
        """A folder name that is unique to this set."""
        return f"generated-{_REVISION}-{self.games}-{self.seed}"

    def counts(self) -> dict[str, int]:
        """Split -> number of games."""
        held_out = max(1, self.games // 10) if self.games > 2 else 0
        return {"train": self.games - 2 * held_out, "valid_seen": held_out, "valid_unseen": held_out}

    def write(self, folder: Path, on_game: Callable[[], None] = lambda: None) -> None:
        """Writes all games; `folder` appears once it is complete. Raises OSError, also if `folder` already exists."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
        try:
            for split, made in self.make():
                _write(made, unfinished / VERSION / split / made.name / "trial_generated")
                on_game()
            about = {**asdict(self), "revision": _REVISION, "versions": VERSIONS}
            (unfinished / MARK).write_text(json.dumps(about, indent=1))
            unfinished.chmod(0o755)
            unfinished.rename(folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)

    def make(self) -> Iterator[tuple[str, Made]]:
        """Yields each split and game."""
        names: set[str] = set()
        for split in SPLITS:
            for number in range(self.counts()[split]):
                rng = random.Random(f"{_REVISION} {self.seed} {split} {number}")
                made = make_game(TASK_TYPES[number % len(TASK_TYPES)], split, rng)
                name = made.name if made.name not in names else f"{made.name}-{number}"
                names.add(name)
                yield split, replace(made, name=name)


DEFAULT_SET = GameSet(games=180, seed=0)
"""The games if ALFWORLD_DATA is not set: 144 for training, 18 in each validation split."""


def make_game(task_type: str, split: str, rng: random.Random, plan_number: int | None = None) -> Made:
    """A game of this type, in one of the split's floor plans or in the given one."""
    while True:
        number = rng.choice(_plans(task_type, split)) if plan_number is None else plan_number
        scene = furnish(number, rng)
        choices = _goals(scene, task_type)
        if not choices:
            continue
        thing, target = rng.choice(choices)
        text = problem(scene, task_type, thing, target)
        steps = plan(task_of_problem(task_type, text), facts_of_problem(text))
        if steps:
            words = rng.choice(goals[task_type]["templates"])
            described = words.format(obj=thing.lower(), recep=target.lower(), toggle=target.lower())
            name = f"{task_type}-{thing}-None-{target}-{number}"
            return Made(name, task_type, thing, target, number, game(text, described))


def _plans(task_type: str, split: str) -> list[int]:
    rooms: set[str] = constants.GOALS_VALID[task_type]
    plans = [number for room in sorted(rooms) for number in ROOMS[room]]
    return [number for number in plans if (number in UNSEEN) == (split == "valid_unseen")]


def _goals(scene: Scene, task_type: str) -> list[tuple[str, str]]:
    """Kinds of object and target that make a task here which is possible and not yet done."""
    receptacles = {receptacle.kind for receptacle in scene.receptacles}
    lamps = sorted({thing.kind for thing in scene.things if thing.kind in LAMPS})
    things = sorted({thing.kind for thing in scene.things if thing.kind not in LAMPS})
    if task_type == "look_at_obj_in_light":
        return [(kind, lamp) for kind in things for lamp in lamps]
    treatment = TREATMENTS.get(task_type)
    if treatment is not None:
        device = next((kind for kind in receptacles if kind.lower() == DEVICES[treatment]), None)
        things = [kind for kind in things if treatable(kind, treatment)] if device else []
        receptacles -= {device}
    found = []
    for kind in things:
        count = sum(thing.kind == kind for thing in scene.things)
        if task_type == "pick_two_obj_and_place" and count < 2:
            continue
        already = {thing.receptacle.kind for thing in scene.things if thing.kind == kind}
        found += [(kind, target) for target in sorted(receptacles - already) if kind in HOLDS[target]]
    return found


def _write(made: Made, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / GAME).write_text(json.dumps(made.content))
    looking = made.task_type == "look_at_obj_in_light"
    trajectory = {
        "task_type": made.task_type,
        "pddl_params": {
            "object_target": made.thing,
            "parent_target": "" if looking else made.target,
            "toggle_target": made.target if looking else "",
            "mrecep_target": "",
            "object_sliced": False,
        },
        "scene": {"scene_num": made.plan, "floor_plan": f"FloorPlan{made.plan}", "room": room_of(made.plan)},
    }
    (folder / TRAJECTORY).write_text(json.dumps(trajectory))
