"""Evaluations on a real env server; the models are scripted where their replies are what is tested."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from overworld import ContractError, Fleet, Reset
from overworld.authoring.env import Pixels
from overworld.contract.frames import pixels_hash
from overworld.errors import ModelChangedError
from overworld.evaluation.conversation import Recipe
from overworld.evaluation.evaluate import (
    Episode,
    Model,
    Report,
    compare,
    evaluate,
    read_episodes,
    tasks_of_split,
)
from overworld.evaluation.openai_client import Answer
from overworld.host.process import ServerProcess
from overworld_vlm.batch import Message


class Scripted:
    """Answers what `reply(text, pixels, seed)` says."""

    name = "scripted"
    temperature = 0.0

    def __init__(
        self,
        reply: Callable[[str, list[Pixels], int], str],
        fingerprint: Callable[[], str] = lambda: "weights",
    ) -> None:
        self._reply = reply
        self._fingerprint = fingerprint
        self.asked: list[tuple[str, list[Pixels], int]] = []

    def answer_all(self, prompts: Sequence[tuple[list[Message], int]]) -> list[Answer]:
        answers = []
        for messages, seed in prompts:
            *images, text = messages[0]["content"]
            self.asked.append((text["text"], [part["image"].pixels.copy() for part in images], seed))
            answers.append(Answer(self._reply(*self.asked[-1]), False, self._fingerprint()))
        return answers


def act(action: str) -> str:
    return f'{{"thoughts": "hm", "action": "{action}"}}'


def always(action: str) -> Scripted:
    return Scripted(lambda *_: act(action))


def seeds(*numbers: int) -> list[Reset]:
    return [Reset(seed=number) for number in numbers]


@pytest.fixture
def fleet(toy_server: ServerProcess) -> Iterator[Fleet]:
    with Fleet([toy_server.address], "toy/Count", 4) as fleet:
        yield fleet


def play(model: Model, fleet: Fleet, tasks: list[Reset], **arguments: Any) -> tuple[Report, list[Episode]]:
    return evaluate(model, fleet, tasks, recipe=Recipe(), **arguments)


def test_wins_and_losses_are_counted(fleet: Fleet) -> None:
    report, episodes = play(Scripted(lambda text, *_: act("up")), fleet, seeds(*range(10)))
    assert (report.episodes, report.success.value, report.positive_return, report.mean_return) == (10, 1.0, 1.0, 3.0)
    assert report.success.low == pytest.approx(0.722467, abs=1e-5)
    assert report.ends == {"TASK": 10}
    assert report.mean_length == 3.0
    assert [episode.seed for episode in episodes] == list(range(10))
    assert episodes[0].metrics == {"count": 3.0}
    report, _ = play(always("down"), fleet, seeds(1, 2, 3))
    assert (report.success.value, report.positive_return, report.ends) == (0.0, 0.0, {"RULE": 3})


def test_replies_without_an_admissible_action_skip_the_turn_and_are_counted(toy_server: ServerProcess) -> None:
    def stutter(text: str, *_: object) -> str:
        return "I don't know" if "count 0" in text else act("fly") if "count 1" in text else act("up")

    turns = iter(range(1000))
    model = Scripted(lambda text, *_: act("up") if next(turns) % 3 == 2 else stutter(text))
    with Fleet([toy_server.address], "toy/Count", 1, options={"max_turns": 30}) as fleet:
        report, (episode,) = play(model, fleet, seeds(5))
    outcomes = [turn.outcome for turn in episode.turns]
    assert set(outcomes) == {"no_action", "not_admissible", "executed"}
    invalid = sum(outcome != "executed" for outcome in outcomes)
    assert report.invalid_replies == pytest.approx(invalid / len(outcomes))
    assert [turn.executed for turn in episode.turns if turn.outcome != "executed"] == [None] * invalid


def test_an_episode_that_crashes_is_a_failure_and_the_others_count(fleet: Fleet) -> None:
    model = Scripted(lambda text, pixels, seed: act("raise" if pixels[0][0, 0, 1] == 10 and seed % 2 else "up"))
    report, episodes = play(model, fleet, seeds(*range(12)))
    crashed = [episode for episode in episodes if episode.error]
    assert 0 < len(crashed) < 12
    assert report.success.value == (12 - len(crashed)) / 12
    assert report.ends == {"TASK": 12 - len(crashed), "ERROR": len(crashed)}
    assert crashed[0].error == "ENV_ERROR: RuntimeError: boom"


def test_the_number_of_slots_does_not_matter(toy_server: ServerProcess) -> None:
    def noisy(text: str, pixels: list[Pixels], seed: int) -> str:
        return act(("up", "down")[seed >> 20 & 1])

    results = []
    for slots in (1, 3, 8):
        with Fleet([toy_server.address], "toy/Count", slots, options={"max_turns": 9}) as fleet:
            results.append(play(Scripted(noisy), fleet, seeds(*range(8))))
    assert results[0] == results[1] == results[2]


def test_the_noise_is_keyed_by_task_and_turn(fleet: Fleet) -> None:
    model = always("up")
    play(model, fleet, seeds(1, 2, 3))
    asked = [seed for _, _, seed in model.asked]
    assert len(set(asked)) == 9
    assert all(0 <= seed < 2**53 for seed in asked)
    again = always("up")
    play(again, fleet, seeds(1, 2, 3))
    assert [seed for _, _, seed in again.asked] == asked


def test_blank_frames_show_nothing(fleet: Fleet) -> None:
    model = always("up")
    report, _ = play(model, fleet, seeds(1, 2), blank_frames=True)
    assert report.blank_frames
    for text, pixels, _ in model.asked:
        assert np.unique(pixels[0]).tolist() == [255]
        assert re.search(r"count \d", text), "only the pictures are blank"


def test_episodes_and_pictures_are_kept(fleet: Fleet, tmp_path: Path) -> None:
    report, episodes = play(always("up"), fleet, seeds(3, 4), keep=tmp_path)
    assert json.loads((tmp_path / "report.json").read_text()) == report.to_json()
    assert read_episodes(tmp_path) == episodes
    for turn in episodes[0].turns:
        (name,) = turn.frames
        pixels = np.asarray(PIL.Image.open(tmp_path / "frames" / f"{name}.png"))
        assert f"{pixels_hash(pixels):016x}" == name
        assert turn.reply == act("up")


def test_a_model_that_changes_on_the_way_is_noticed(fleet: Fleet) -> None:
    names = iter("aaab" * 100)
    with pytest.raises(ModelChangedError, match="changed in the middle"):
        play(Scripted(lambda *_: act("up"), fingerprint=lambda: next(names)), fleet, seeds(1, 2))


def test_each_task_of_a_split_once(fleet: Fleet) -> None:
    tasks = tasks_of_split(fleet.spec.splits, "four")
    assert [task.task for task in tasks] == [0, 1, 2, 3]
    _, episodes = play(always("up"), fleet, tasks)
    assert [episode.task for episode in episodes] == [0, 1, 2, 3]
    for split in ("endless", "nothing"):
        with pytest.raises(ContractError, match="four"):
            tasks_of_split(fleet.spec.splits, split)


def test_two_models_are_compared_in_the_same_episodes(fleet: Fleet) -> None:
    _, good = play(always("up"), fleet, seeds(*range(9)))
    _, bad = play(always("down"), fleet, seeds(*range(9)))
    result = compare(bad, good)
    assert (result["success"]["value"], result["return"]["value"]) == (1.0, 6.0)
    assert result["mcnemar_p"] == pytest.approx(2 / 2**9)
    with pytest.raises(ValueError, match="same episodes"):
        compare(good, bad[:-1])


def test_damaged_episode_files_are_refused(tmp_path: Path) -> None:
    for line in ("{", '{"seed": 1}', '{"turns": 5}', "[]", '{"seed": 1, "split": "", "task": null, "turns": [{}]}'):
        (tmp_path / "episodes.jsonl").write_text(line + "\n")
        with pytest.raises(ValueError, match=r"episodes.jsonl|Expecting"):
            read_episodes(tmp_path)


def overworld(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "overworld", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "150"},
        timeout=120,
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--url", "http://127.0.0.1:1/v1", "--timeout", "0.3"], "127.0.0.1:1"),
        (["--seeds", "1-x"], "seeds are numbers and ranges"),
        (["--options", "colour"], "options"),
        (["recipe.history=0"], "history"),
        (["--servers", "127.0.0.1:1", "--timeout", "0.3"], "overworld serve toy/Count"),
        (["--split", "nothing"], "four"),
    ],
)
def test_the_command_says_what_was_wrong(toy_server: ServerProcess, arguments: list[str], says: str) -> None:
    given = ["--servers", toy_server.address, "recipe.history=1", "--options.max_turns=20", *arguments]
    failed = overworld("eval", "toy/Count", "--model", "m", *given)
    assert failed.returncode == 1
    assert says in failed.stderr
    assert "Traceback" not in failed.stderr


def test_comparing_folders(tmp_path: Path) -> None:
    for name, success in (("a", False), ("b", True)):
        (tmp_path / name).mkdir()
        lines = [json.dumps({"seed": n, "split": "", "task": None, "turns": [], "success": success}) for n in range(8)]
        (tmp_path / name / "episodes.jsonl").write_text("\n".join(lines))
    shown = overworld("compare", str(tmp_path / "a"), str(tmp_path / "b"))
    assert shown.returncode == 0
    assert "+1.000" in shown.stdout
    assert "0.00781" in shown.stdout
    failed = overworld("compare", str(tmp_path / "a"), str(tmp_path / "c"))
    assert failed.returncode == 1
