"""Which games are played, where they come from, and what becomes of broken ones."""

import json
import logging
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from overworld_envs.alfworld.engine import translation
from overworld_envs.alfworld.engine.deadline import TimeLimitError, deadline
from overworld_envs.alfworld.games.generator import DEFAULT_SET, GameSet
from overworld_envs.alfworld.games.layout import MARK
from overworld_envs.alfworld.games.library import GameError, library, open_game, read_library
from overworld_envs.alfworld.games.scenes import OPENABLE, ROOMS, UNSEEN, furnish, receptacles
from overworld_envs.alfworld.games.tasks import TASK_TYPES, task_of_problem

from tests.unit.envs.alfworld.conftest import MakeGame


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder in the layout of ALFWorld's data, with 18 games."""
    folder = tmp_path / "data"
    GameSet(18, 1).write(folder)
    (folder / MARK).unlink()
    return folder


def first_game(data: Path) -> Path:
    return min((data / "json_2.1.1" / "train").rglob("game.tw-pddl"))


def rewrite(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def problem_of(path: Path) -> str:
    return json.loads(path.read_text())["pddl_problem"]


def test_the_games_of_a_data_folder(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALFWORLD_DATA", str(data))
    found = library()
    assert found.source == "real"
    assert {split: len(games) for split, games in found.splits().items()} == {
        "train": 16, "valid_seen": 1, "valid_unseen": 1,
    }  # fmt: skip
    assert library() == found
    only = found.splits(("look_at_obj_in_light",))
    assert {game.task.type for games in only.values() for game in games} == {"look_at_obj_in_light"}


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda path: path.write_text("{"), "cannot be read"),
        (lambda path: path.write_text("[]"), "is no game"),
        (lambda path: rewrite(path, solvable=False), 'not marked as "solvable"'),
        (lambda path: rewrite(path, grammar=3), "is no game"),
        (lambda path: rewrite(path, pddl_problem="(define (problem x))"), "goal"),
        (lambda path: path.with_name("traj_data.json").write_text("{}"), "names no task_type"),
        (lambda path: path.with_name("traj_data.json").write_text('{"task_type": "dance"}'), "'dance' is not one of"),
        (lambda path: rewrite(path, pddl_problem=problem_of(path).replace("(pickupable", "(x")), "cannot be reached"),
    ],
)
def test_a_game_that_cannot_be_played_is_skipped_with_its_name(
    data: Path, spoil: Callable[[Path], object], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    whole = read_library(data)
    path = first_game(data)
    spoil(path)
    with caplog.at_level(logging.WARNING):
        left = read_library(data)
    assert len(left.games) == len(whole.games) - 1
    assert left.digest != whole.digest
    assert str(path) in caplog.text
    assert why in caplog.text


@pytest.mark.parametrize("word", ["Sliced", "movable"])
def test_tasks_that_upstream_does_not_support_are_left_out(data: Path, word: str) -> None:
    folder = first_game(data).parent.parent
    folder.rename(folder.with_name(f"{folder.name}-{word}"))
    assert len(read_library(data).games) == 17


def test_without_any_game_there_is_an_error_and_no_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALFWORLD_DATA", str(tmp_path))
    with pytest.raises(GameError, match=r"no folder .*json_2\.1\.1.*alfworld-download"):
        library()
    (tmp_path / "json_2.1.1" / "train").mkdir(parents=True)
    with pytest.raises(GameError, match="holds no game that can be played; 0 were looked at"):
        library()


def test_what_the_translator_cannot_read_is_an_error_with_the_games_name(data: Path) -> None:
    path = first_game(data)
    rewrite(path, pddl_domain="(define (domain alfred")
    game = next(game for game in read_library(data).games if game.path == path)
    with pytest.raises(GameError, match=f"{path.name}: its PDDL cannot be translated"):
        open_game(game)


def test_names_that_would_overrun_the_state_machine_are_refused(game_file: MakeGame) -> None:
    file = game_file("pick_and_place_simple", seed=8)
    rewrite(file.path, pddl_problem=problem_of(file.path).replace("agent1", "agent" + 1000 * "x"))
    with pytest.raises(GameError, match=f"{file.path}: .* use shorter names"):
        open_game(file)


def test_a_translation_has_a_time_limit(game_file: MakeGame, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(translation, "TIME_LIMIT", 0.05)
    file = game_file("pick_heat_then_place_in_recep", plan=9, seed=99)
    started = time.monotonic()
    with pytest.raises(GameError, match=r"game.tw-pddl: its PDDL takes longer than 0\.05 s"):
        open_game(file)
    assert time.monotonic() - started < 60


def test_a_deadline_interrupts_and_leaves_others_alone() -> None:
    with pytest.raises(TimeLimitError), deadline(0.05):
        while True:
            pass
    with deadline(5):
        pass
    time.sleep(0.01)


def test_a_cut_off_cache_entry_is_made_anew(game_file: MakeGame, cache: Path) -> None:
    file = game_file("pick_and_place_simple", seed=4)
    before = set((cache / "translations").rglob("*.z"))
    sas = open_game(file).translation.sas
    (entry,) = set((cache / "translations").rglob("*.z")) - before
    entry.write_bytes(entry.read_bytes()[:100])
    assert open_game(file).translation.sas == sas


def test_processes_that_start_at_once_make_the_games_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVERWORLD_ALFWORLD_CACHE", str(tmp_path))
    code = (
        "from overworld_envs.alfworld.games.library import library; "
        "found = library(); print(found.digest, len(found.games))"
    )
    racers = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = {racer.communicate(timeout=120)[0] for racer in racers}
    assert len(outputs) == 1
    assert outputs.pop().endswith(" 180\n")
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == [DEFAULT_SET.name]


def test_generated_games_are_the_seeds(tmp_path: Path) -> None:
    def content(seed: int) -> list[tuple[str, str, str]]:
        return [(split, made.name, made.content["pddl_problem"]) for split, made in GameSet(12, seed).make()]

    assert content(3) == content(3)
    assert content(3) != content(4)


def test_the_default_set_has_thirty_games_of_each_type() -> None:
    found = library()
    assert found.source == "generated"
    for task_type in TASK_TYPES:
        assert sum(game.task.type == task_type for game in found.games) == 30
    seen = {game.path.parent.parent.name.split("-")[4] for game in found.splits()["train"]}
    unseen = {game.path.parent.parent.name.split("-")[4] for game in found.splits()["valid_unseen"]}
    assert all(int(plan) not in UNSEEN for plan in seen)
    assert all(int(plan) in UNSEEN for plan in unseen)


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_are_furnished_as_such_rooms_are(room: str) -> None:
    for plan in list(ROOMS[room])[::7]:
        scene = furnish(plan, random.Random(0))
        standpoints = [receptacle.standpoint for receptacle in receptacles(plan)]
        assert len(set(standpoints)) == len(standpoints)
        kinds = {receptacle.kind for receptacle in scene.receptacles}
        wanted = {"Kitchen": {"Fridge", "Microwave", "SinkBasin"}, "Bathroom": {"SinkBasin", "Toilet"}}
        assert wanted.get(room, set()) <= kinds
        assert len(scene.things) >= 10
        assert kinds & (OPENABLE | {"Bed", "Sofa", "SideTable", "Shelf", "GarbageCan"})


@pytest.mark.parametrize(
    ("task_type", "goal", "why"),
    [
        ("dance", "", "is not one of"),
        ("pick_and_place_simple", "", "speaks of nothing"),
        ("pick_heat_then_place_in_recep", "(:goal (inReceptacle ?o ?r)", "is not that of"),
        ("pick_and_place_simple", "(:goal (and (inReceptacle ?o ?r) (objectType ?o AType) (objectType ?o BType) "
         "(receptacleType ?r CType)", "one kind of object"),
    ],
)  # fmt: skip
def test_goals_of_other_forms_are_refused(task_type: str, goal: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        task_of_problem(task_type, goal)


def test_both_forms_of_the_goal_to_look_at_something_are_read() -> None:
    goal = (
        "(:goal (and (exists (?ot - object ?a - agent ?l - location) (and (objectType ?ot DeskLampType) "
        "(toggleable ?ot) (isToggled ?ot) {here} (atLocation ?a ?l))) (exists (?o - object ?a - agent) "
        "(and (objectType ?o BookType) (holds ?a ?o)))))"
    )
    for here in ("(objectAtLocation ?ot ?l)", "(inReceptacle ?ot ?r) (receptacleAtLocation ?r ?l)"):
        task = task_of_problem("look_at_obj_in_light", goal.format(here=here))
        assert (task.object, task.target) == ("book", "desklamp")


def test_the_generator_command(tmp_path: Path, cache: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "overworld_envs.alfworld", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    made = run("generate", "--games", "3", "--seed", "2", str(tmp_path / "out"))
    assert (made.returncode, made.stdout) == (0, f"3 of 3 games won by the expert; {tmp_path / 'out'}\n"), made.stderr
    assert run("generate", str(tmp_path / "out")).returncode == 1
    assert run("generate", "--games", "0", str(tmp_path / "none")).returncode == 2
    rewrite(first_game(tmp_path / "out"), pddl_domain="(")
    checked = run("check", str(tmp_path / "out"))
    assert checked.returncode == 1
    assert str(first_game(tmp_path / "out")) in checked.stderr
