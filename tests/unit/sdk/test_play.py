"""`overworld play`: in the terminal and as a GIF."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from overworld import End, make
from overworld.authoring.env import Image
from overworld.evaluation.film import side_by_side, write_gif
from overworld.evaluation.folder import EpisodeFolder
from overworld.evaluation.play import (
    expert,
    human,
    play,
    random_agent,
    show_in,
    terminal_picture,
)
from overworld.evaluation.verification import Status, verify
from overworld.host.process import ServerProcess
from rich.console import Console

from tests.support.toy_env import SEARCH


def typed(*lines: str) -> Console:
    """A terminal at which somebody types these lines."""
    console = Console(file=io.StringIO(), width=60)
    rest = iter(lines)

    def answer(prompt: str = "") -> str:
        try:
            return next(rest)
        except StopIteration:
            raise EOFError from None

    console.input = answer  # type: ignore[method-assign, assignment]
    return console


def said(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_person_types_numbers_words_or_nothing() -> None:
    runner = make("gym_cards/NumberLine", size=32)
    console = typed("1", "", "nonsense", "-", "q", "0")
    results = play(
        runner.step,
        runner.reset(0, split="deals", task=4),
        human(runner.spec, runner.env.resolve, console),
        show_in(console),
    )
    assert [result.executed for result in results] == [None, "+", "+", "-"]
    assert "'nonsense' is not an action here" in said(console)
    assert "[0] -  [1] +" in said(console)


def test_actions_that_are_numbers_are_meant_as_such() -> None:
    runner = make("gym_cards/EZPoints", size=32)
    console = typed("10")
    results = play(runner.step, runner.reset(0), human(runner.spec, runner.env.resolve, console), lambda result: None)
    assert results[1].executed == "10"
    assert "[0]" not in said(console)


def test_the_expert_plays_to_the_end_and_is_shown() -> None:
    runner = make("gym_cards/NumberLine", size=32, expert=True)
    console = typed()
    results = play(runner.step, runner.reset(0), expert(runner.spec), show_in(console))
    assert (results[-1].end, results[-1].success) == (End.TASK, True)
    assert "TASK: success" in said(console)


def test_chance_needs_a_list_to_draw_from() -> None:
    line, search = make("gym_cards/NumberLine"), make(SEARCH)
    assert random_agent(line.spec, 0)(line.reset(0)) in ("-", "+")
    with pytest.raises(ValueError, match="does not list its actions"):
        random_agent(search.spec, 0)(search.reset(0))


def test_a_picture_becomes_half_blocks_of_its_colours() -> None:
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[:2] = (255, 0, 0)
    picture = terminal_picture(pixels, 80)
    assert picture.plain == "▀▀▀▀\n" * 2
    assert str(picture.spans[0].style) == "rgb(255,0,0) on rgb(255,0,0)"
    assert max(map(len, terminal_picture(np.zeros((300, 300, 3), np.uint8), 50).plain.splitlines())) == 50


def test_pictures_stand_side_by_side() -> None:
    both = side_by_side([Image("a", np.zeros((2, 3, 3), np.uint8)), Image("b", np.full((4, 1, 1), 7, np.uint8))])
    assert both.shape == (4, 4, 3)
    assert both[3, 0].tolist() == [255] * 3
    assert both[0, 3].tolist() == [7] * 3


def test_a_gif_shows_every_turn(tmp_path: Path) -> None:
    file = tmp_path / "play.gif"
    command = ["play", "gym_cards/NumberLine", "--agent", "expert", "--gif", str(file), "options.size=40"]
    done = subprocess.run([sys.executable, "-m", "overworld", *command, "--seed", "1"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with PIL.Image.open(file) as picture:
        assert picture.size == (40, 40)
        turns = getattr(picture, "n_frames", 1) - 1
    assert f"{turns} turns, return 1, TASK, success" in done.stdout
    with pytest.raises(ValueError, match="no pictures"):
        write_gif([], file)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gym_cards/Nope"], "has no env"),
        (["gym_cards/NumberLine", "options.size=0"], "options.size: "),
        (["gym_cards/NumberLine", "--split", "nope"], "no split"),
        ([SEARCH, "--agent", "expert"], "has no expert"),
    ],
)
def test_what_cannot_be_played_is_one_line(arguments: list[str], message: str) -> None:
    done = subprocess.run([sys.executable, "-m", "overworld", "play", *arguments], capture_output=True, text=True)
    assert done.returncode == 1
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


COIN = """
from overworld import ActionSpec, End, Env, EnvSpec, Observation, Transition

class Coin(Env):
    spec = EnvSpec(id="games/Coin", task="Guess.", success="It was heads.", action=ActionSpec(("heads", "tails")))

    def reset(self, seed, split, task):
        return Observation(("The coin is on the table.",))

    def step(self, action):
        return Transition(Observation(("Heads.",)), float(action == "heads"), End.TASK, action == "heads")
"""


def test_a_class_in_the_current_folder_is_found(tmp_path: Path) -> None:
    (tmp_path / "coin.py").write_text(COIN)
    command = [sys.executable, "-P", "-m", "overworld", "play", "coin:Coin"]  # -P: as the script `overworld` runs
    done = subprocess.run(command, cwd=tmp_path, input="heads\n", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "1 turns, return 1, TASK, success" in done.stdout


def test_an_env_on_a_server_is_played_like_one_in_this_process(toy_server: ServerProcess, tmp_path: Path) -> None:
    def play_toy(*arguments: str, typed: str = "") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "overworld", "play", "toy/Count", "--servers", toy_server.address, *arguments]
        return subprocess.run(command, input=typed, capture_output=True, text=True)

    picture = tmp_path / "toy.gif"
    done = play_toy("--agent", "expert", "--gif", str(picture), "options.size=48")
    assert done.returncode == 0, done.stderr
    assert "3 turns, return 3, TASK, success" in done.stdout
    with PIL.Image.open(picture) as shown:
        assert (shown.size, getattr(shown, "n_frames", 1)) == ((48, 48), 4)
    kept = tmp_path / "kept"
    done = play_toy(f"keep={kept}", "options.size=48", typed="up\ndown\nup\nup\nup\n")
    assert done.returncode == 0, done.stderr
    assert "5 turns, return 3, TASK, success" in done.stdout
    (episode,) = EpisodeFolder(kept)
    assert [(turn.actor, turn.action) for turn in episode.turns[:2]] == [("person", "up"), ("person", "down")]
    assert verify(kept, [toy_server.address]).status is Status.VERIFIED
    done = play_toy(typed="0\n\nsideways\n DOWN\nq\n")
    assert "'sideways' is not an action here" in done.stdout
    assert "3 turns, return 1, stopped" in done.stdout
    failed = play_toy(typed="raise\n")
    assert failed.returncode == 1
    assert "toy/Count failed at turn 1, ENV_ERROR: RuntimeError: boom. See the env server's log" in failed.stderr
    wrong = play_toy("options.size=0")
    assert (wrong.returncode, len(wrong.stderr.splitlines())) == (1, 1)
    assert "OPTIONS_INVALID" in wrong.stderr
