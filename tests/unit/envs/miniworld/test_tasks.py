"""Tasks, options, ends, experts; and what does not work says why."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from overworld import End, Outcome, Runner, make
from overworld.authoring.catalogue import load
from pydantic import ValidationError

from tests.unit.envs.miniworld import upstream

SMALL: dict[str, Any] = {"width": 32, "height": 32, "render": "fast"}
PAPER = ("Hallway", "OneRoom", "FourRooms", "WallGap")
NAVIGATION = (
    *PAPER, "OneRoomS6", "OneRoomS6Fast", "TMaze", "TMazeLeft", "TMazeRight", "YMaze", "YMazeLeft", "YMazeRight",
    "MazeS2", "MazeS3", "MazeS3Fast", "Maze", "Sidewalk",
)  # fmt: skip


def finish(runner: Runner, seed: int) -> Any:
    """The last result of an episode in which the expert is obeyed."""
    result = runner.reset(seed)
    while result.end is None:
        assert result.expert is not None
        result = runner.step(result.expert.action)
    return result


def test_every_task_that_upstream_registers_is_there() -> None:
    assert {env_id.partition("/")[2] for env_id in load(["miniworld"])} == set(upstream.tasks())


def test_the_paths_of_the_paper_have_a_way_back() -> None:
    for task in PAPER:
        spec = load([f"miniworld/{task}"])[f"miniworld/{task}"].spec
        assert spec.action.vocabulary == ("turn left", "turn right", "move forward", "move back")
        assert spec.task == "Go to the red box."
        assert spec.has_expert


@pytest.mark.parametrize("task", NAVIGATION)
def test_the_expert_arrives(task: str) -> None:
    runner = make(f"miniworld/{task}", expert=True, **SMALL)
    for seed in range(1 if task == "Maze" else 3):
        result = finish(runner, seed)
        assert (result.end, result.success) == (End.TASK, True), (task, seed)
        assert 0.8 < result.reward <= 1.0
    runner.close()


def test_the_expert_arrives_in_few_decisions_when_they_reach_far() -> None:
    for task in PAPER:
        runner = make(f"miniworld/{task}", expert=True, move_repeat=8, turn_repeat=2, max_turns=32, **SMALL)
        results = [finish(runner, seed) for seed in range(10)]
        assert sum(result.success for result in results) >= 9, task
        runner.close()


def test_the_expert_finds_its_way_from_wherever_others_led() -> None:
    runner = make("miniworld/FourRooms", expert=True, domain_rand=True, max_turns=1000, max_episode_steps=1000, **SMALL)
    choices = np.random.default_rng(0)
    result = runner.reset(3)
    while result.end is None:
        assert result.expert is not None
        result = runner.step(result.expert.action if choices.random() < 0.7 else int(choices.integers(4)))
    assert result.success
    runner.close()


def test_texts_tell_nothing_that_the_picture_should() -> None:
    for seed in range(5):
        for text in ("short", "describing"):
            runner = make("miniworld/TMaze", task_text=text, **SMALL)
            result = runner.reset(seed)
            assert result.observation.text == ""
            assert runner.spec.task == make("miniworld/TMaze", task_text=text, **SMALL).spec.task
            runner.close()


def test_integers_are_explained() -> None:
    runner = make(
        "miniworld/Hallway", actions="integers", task_text="describing", turn_repeat=3, move_repeat=4, **SMALL
    )
    assert runner.spec.action.vocabulary == ("0", "1", "2", "3")
    assert "0: turn left, 1: turn right, 2: move forward, 3: move back." in runner.spec.task
    assert "45 degrees" in runner.spec.task
    assert "0.6 m" in runner.spec.task
    runner.reset(0)
    assert runner.step("2").outcome is Outcome.EXECUTED
    runner.close()


@pytest.mark.parametrize("action", [7, -1, 4, "fly", "done", None])
def test_an_action_outside_the_vocabulary_is_not_executed(action: Any) -> None:
    runner = make("miniworld/Hallway", **SMALL)
    first = runner.reset(0)
    before = first.observation.images[0].pixels.copy()
    result = runner.step(action)
    assert result.outcome is (Outcome.NO_ACTION if action is None else Outcome.NOT_ADMISSIBLE)
    assert result.executed is None
    assert runner.env._world.step_count == 0  # type: ignore[attr-defined]
    np.testing.assert_array_equal(result.observation.images[0].pixels, before)
    runner.close()


@pytest.mark.parametrize(
    "options",
    [
        {"width": 0}, {"height": 0}, {"width": 10_000, "height": 10_000}, {"width": 80.5}, {"render": "quick"},
        {"move_repeat": 0}, {"turn_repeat": 13}, {"max_episode_steps": 0}, {"size": 80}, {"domain_rand": "perhaps"},
    ],
)  # fmt: skip
def test_wrong_options_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(options))):
        make("miniworld/Hallway", **options)


def test_sign_cannot_be_randomised_but_asks_for_what_is_chosen() -> None:
    with pytest.raises(ValidationError, match="domain_rand"):
        make("miniworld/Sign", domain_rand=True)
    runner = make("miniworld/Sign", colour="any", goal="any", **SMALL)
    seen = set()
    for seed in range(20):
        text = runner.reset(seed).observation.text
        assert runner.reset(seed).observation.text == text
        seen.add((text, runner.env._world._color_index))  # type: ignore[attr-defined]
    assert len(seen) == 6
    runner.close()


def test_the_tasks_own_limit_scales_the_reward_and_the_hosts_does_not() -> None:
    def reward(**options: Any) -> tuple[int, float]:
        runner = make("miniworld/Hallway", expert=True, **options, **SMALL)
        result = finish(runner, 0)
        runner.close()
        assert result.success
        return result.turn, result.reward

    turns, stock = reward()
    assert stock == pytest.approx(1 - 0.2 * turns / 250)
    assert reward(max_turns=128) == (turns, stock)
    again, shorter = reward(max_episode_steps=125)
    assert again == turns
    assert shorter == pytest.approx(1 - 0.2 * turns / 125)


@pytest.mark.parametrize(
    ("options", "end", "turns"),
    [({}, End.RULE, 250), ({"max_episode_steps": 9}, End.RULE, 9), ({"max_turns": 7}, End.TIME_LIMIT, 7)],
)
def test_episodes_are_cut_off(options: dict[str, Any], end: End, turns: int) -> None:
    runner = make("miniworld/Hallway", **options, **SMALL)
    result = runner.reset(0)
    while result.end is None:
        result = runner.step("turn left")
    assert (result.end, result.turn, result.success, result.truncated) == (end, turns, False, True)
    assert runner.spec.max_turns >= turns
    runner.close()


@pytest.mark.parametrize(("task", "seed"), [("OneRoomS6Fast", 0), ("MazeS3Fast", 1), ("CollectHealth", 0)])
def test_who_starts_beside_the_box_and_does_nothing_has_not_reached_it(task: str, seed: int) -> None:
    runner = make(f"miniworld/{task}", max_turns=2, **SMALL)
    runner.reset(seed)
    runner.step("")
    result = runner.step("")
    assert (result.end, result.success, result.reward) == (End.TIME_LIMIT, False, 0.0)
    runner.close()


def test_a_repeated_move_is_as_many_of_upstreams() -> None:
    once, often = make("miniworld/OneRoom", **SMALL), make("miniworld/OneRoom", move_repeat=5, turn_repeat=2, **SMALL)
    for runner in (once, often):
        runner.reset(4)
    for action, times in (("turn left", 2), ("move forward", 5), ("turn right", 2), ("move back", 5)):
        for _ in range(times):
            single = once.step(action)
        repeated = often.step(action)
        np.testing.assert_array_equal(
            repeated.observation.images[0].pixels, single.observation.images[0].pixels, err_msg=action
        )
    for runner in (once, often):
        runner.close()


def test_metrics_of_partial_success() -> None:
    runner = make("miniworld/CollectHealth", **SMALL)
    runner.reset(0)
    assert runner.step("turn left").metrics == {"health": 98.0}
    runner.close()
    runner = make("miniworld/PickupObjects", **SMALL)
    runner.reset(0)
    assert runner.step("turn left").metrics == {"picked_up": 0.0}
    runner.close()


def test_another_thread_is_told_off() -> None:
    runner = make("miniworld/Hallway", **SMALL)
    errors: list[BaseException] = []

    def use() -> None:
        try:
            runner.reset(0)
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert "one thread" in str(errors[0])
    runner.reset(0)
    runner.close()


def test_frame_buffers_are_shared_and_freed() -> None:
    runners = [make("miniworld/Hallway", **SMALL) for _ in range(3)]
    from overworld_envs.miniworld import framebuffer

    key = (32, 32, framebuffer.Render.FAST)
    assert framebuffer._frames[key].users >= 3
    others = framebuffer._frames[key].users - 3
    for runner in runners:
        runner.close()
    assert (key in framebuffer._frames) == (others > 0)


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, timeout=120
    )


def test_looking_at_the_catalogue_loads_neither_miniworld_nor_opengl() -> None:
    code = (
        "import sys; from overworld.authoring.catalogue import load; load(['miniworld', 'gym_cards']); "
        "print(sorted({'miniworld', 'pyglet'} & set(sys.modules)), "
        "'swrast' in open('/proc/self/maps').read())"
    )
    assert run(code).stdout.strip() == "[] False"


def test_gym_cards_does_not_ask_for_opengl(tmp_path: Path) -> None:
    broken = broken_egl(tmp_path)
    code = "from overworld.authoring.catalogue import load; print(len(load(['gym_cards'])))"
    assert run(code, LD_LIBRARY_PATH=broken).stdout.strip() == "4"


def test_a_missing_library_is_one_line_that_names_the_packages(tmp_path: Path) -> None:
    served = subprocess.run(
        [sys.executable, "-m", "overworld", "serve", "miniworld", "--port", "0", "--workers", "1"],
        env=os.environ | {"LD_LIBRARY_PATH": broken_egl(tmp_path)}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert served.returncode == 1
    (line,) = [line for line in served.stderr.splitlines() if line]
    assert "libEGL.so.1" in line
    assert "apt-get install libegl1 libgl1 libgl1-mesa-dri libglu1-mesa libfreetype6" in line


def broken_egl(folder: Path) -> str:
    """A folder whose libEGL is found first, and is none."""
    (folder / "libEGL.so.1").write_bytes(b"not a library")
    return str(folder)
