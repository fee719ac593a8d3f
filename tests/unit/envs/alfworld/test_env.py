"""The env: what it offers, how it rewards, what it does with commands that are not admissible."""

from pathlib import Path
from typing import Literal

import pytest
from overworld import End, Fallback, Outcome, make
from overworld.authoring.catalogue import load
from overworld_envs.alfworld.env import Household, env_classes
from overworld_envs.alfworld.games.generator import GameSet
from overworld_envs.alfworld.games.layout import MARK
from overworld_envs.alfworld.games.library import read_library
from overworld_envs.alfworld.games.tasks import TASK_TYPES
from overworld_envs.alfworld.pictures.thor import Thor, ThorError
from overworld_envs.alfworld.reward import REWARDS, Turn

from tests.support.optional import present


def test_there_is_an_env_for_all_games_and_one_per_type() -> None:
    envs = load(["alfworld"])
    assert list(envs) == ["alfworld/all", *(f"alfworld/{each}" for each in TASK_TYPES)]
    assert envs["alfworld/all"].spec.splits == {"train": 144, "valid_seen": 18, "valid_unseen": 18}
    assert envs["alfworld/look_at_obj_in_light"].spec.splits == {"train": 24, "valid_seen": 3, "valid_unseen": 3}


def test_the_spec_tells_what_is_played(tmp_path: Path) -> None:
    spec = make("alfworld/all").spec
    assert spec.provenance["games"].startswith("generated, ")
    assert "schematic" in spec.provenance["renderer"]
    assert spec.max_turns == 50
    assert make("alfworld/all", renderer="none").spec.provenance["renderer"] == "none"
    GameSet(4, 0).write(tmp_path / "data")
    (tmp_path / "data" / MARK).unlink()
    assert env_classes(read_library(tmp_path / "data"))[0].spec.provenance["games"].startswith("real, ")


def test_seed_split_and_task_choose_the_game() -> None:
    runner = make("alfworld/all", renderer="none")
    first = runner.reset(seed=3).observation.text
    assert runner.reset(seed=4).observation.text != first
    assert runner.reset(seed=3 + 144).observation.text == first
    assert runner.reset(seed=9, task=3).observation.text == first
    assert runner.reset(seed=3, split="valid_unseen").observation.text != first


def test_an_episode_of_the_expert() -> None:
    runner = make("alfworld/pick_heat_then_place_in_recep", expert=True, reward="delta")
    result = runner.reset(seed=0)
    assert result.observation.text.startswith("-= Welcome to TextWorld, ALFRED! =-")
    assert result.observation.images[0].pixels.shape == (300, 300, 3)
    rewards, rates = [], [0.0]
    while result.end is None:
        assert present(result.expert).action in result.observation.admissible
        result = runner.step(present(result.expert).action)
        assert result.observation.text.count("Your task is to: ") == 1
        rewards.append(result.reward)
        rates.append(result.metrics["goal_condition_rate"])
    assert (result.end, result.success, rates[-1]) == (End.TASK, True, 1.0)
    assert result.metrics == {"success": 1.0, "goal_condition_rate": 1.0, "legal": 1.0}
    assert sum(rewards) == pytest.approx(2.0)
    assert len(set(rates)) >= 3


def test_a_command_that_is_not_admissible_changes_nothing() -> None:
    runner = make("alfworld/all", reward="rl4vlm", expert=True)
    before = runner.reset(seed=1)
    view = before.observation.images[0].pixels.copy()
    result = runner.step("dance")
    assert (result.outcome, result.executed, result.reward) == (Outcome.NOT_ADMISSIBLE, None, -1.0)
    assert result.observation.text.startswith("Nothing happens.\nYour task is to: ")
    assert result.observation.admissible == before.observation.admissible
    assert result.metrics == {"success": 0.0, "goal_condition_rate": 0.0, "legal": 0.0}
    assert (result.observation.images[0].pixels == view).all()
    assert result.expert == before.expert
    result = runner.step(None)
    assert (result.outcome, result.metrics["legal"]) == (Outcome.NO_ACTION, 0.0)
    result = runner.step(present(result.expert).action)
    assert (result.outcome, result.metrics["legal"]) == (Outcome.EXECUTED, 1.0)


def test_the_fallback_reward_is_added() -> None:
    runner = make("alfworld/all", reward="rl4vlm", fallback_reward=-0.5, renderer="none")
    runner.reset(seed=1)
    assert runner.step("dance").reward == -1.5


def test_a_random_fallback_executes_an_admissible_command() -> None:
    runner = make("alfworld/all", fallback=Fallback.RANDOM, renderer="none")
    admissible = runner.reset(seed=1).observation.admissible
    result = runner.step("dance")
    assert result.outcome is Outcome.NOT_ADMISSIBLE
    assert result.executed in admissible


def test_commands_are_matched_whole() -> None:
    runner = make("alfworld/all", renderer="none")
    env = runner.env
    assert isinstance(env, Household)
    names = [file.path.parent.parent.name for file in env.games["train"]]
    seen = runner.reset(task=next(at for at, name in enumerate(names) if name.endswith("-24"))).observation
    assert env.resolve("go to cabinet 1", seen) == "go to cabinet 1"
    assert env.resolve("Go to  Cabinet 10 ", seen) == "go to cabinet 10"
    for wrong in ("go to cabinet", "go to cabinet 100", "to cabinet 1", "go to cabinet 1 and open it"):
        assert env.resolve(wrong, seen) is None


def test_the_limit_is_fifty_turns() -> None:
    runner = make("alfworld/all", renderer="none")
    result = runner.reset(seed=1)
    while result.end is None:
        result = runner.step("look")
    assert (result.turn, result.end, result.success) == (50, End.TIME_LIMIT, False)


@pytest.mark.parametrize(
    ("formula", "turn", "reward"),
    [
        ("success", Turn(True, 1.0, 0.5, True), 1.0),
        ("success", Turn(False, 0.5, 0.0, True), 0.0),
        ("rl4vlm", Turn(True, 1.0, 0.5, True), 51.0),
        ("rl4vlm", Turn(False, 0.5, 0.5, True), 0.5),
        ("rl4vlm", Turn(False, 0.5, 0.5, False), -0.5),
        ("delta", Turn(False, 0.5, 1.0, True), -0.5),
        ("delta", Turn(True, 1.0, 0.5, True), 1.5),
        ("delta", Turn(False, 0.5, 0.5, False), 0.0),
    ],
)
def test_reward_formulas(formula: Literal["success", "rl4vlm", "delta"], turn: Turn, reward: float) -> None:
    rule = REWARDS[formula]
    assert rule.of(turn) == pytest.approx(reward)
    assert rule.smallest <= reward <= rule.largest


def test_thor_without_its_build_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ThorError, match=r"needs ai2thor .*pip install 'ai2thor==2\.1\.0'"):
        make("alfworld/all", renderer="thor")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr("overworld_envs.alfworld.pictures.thor._BUILD", tmp_path / "releases")
    with pytest.raises(ThorError, match=r"Unity build below .*download_binary"):
        Thor()
    (tmp_path / "releases" / "build").mkdir(parents=True)
    monkeypatch.delenv("DISPLAY", raising=False)
    with pytest.raises(ThorError, match="X display"):
        Thor()
