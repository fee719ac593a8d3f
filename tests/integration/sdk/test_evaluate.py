"""Evaluations on a real env server; the models are scripted where their replies are what is tested."""

import dataclasses
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import PIL.Image
import pytest
from overworld import ActionSpec, ContractError, Fallback, Fleet, Reset
from overworld.authoring.env import Pixels
from overworld.commands import eval as eval_command
from overworld.contract.frames import pixels_hash
from overworld.errors import EvaluationError, ModelChangedError, OverworldError, SettingsError
from overworld.evaluation.baselines import ExpertAgent, PersonAgent, RandomAgent
from overworld.evaluation.comparison import compare, compare_folders
from overworld.evaluation.conversation import Conversation, Message, Recipe
from overworld.evaluation.episodes import Episode, ObservationRecord
from overworld.evaluation.evaluate import evaluate, tasks_of_split
from overworld.evaluation.folder import VARYING, EpisodeFolder, decisions
from overworld.evaluation.game import Game
from overworld.evaluation.model import Agent, Answer, Model
from overworld.evaluation.report import Report
from overworld.evaluation.verification import Status, verify
from overworld.host.process import ServerProcess
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

from tests.support import mortal_evaluation
from tests.support.json_endpoint import JsonHandler, serving_json
from tests.support.toy_env import ENVS, Toy

SMALL = ("--workers", "1", "--slots", "32")


class Scripted:
    """Answers what `reply(text, pixels, seed)` says."""

    name = "scripted"
    temperature = 0.0
    max_tokens = 64
    url = "nowhere"

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
    folder = EpisodeFolder(tmp_path)
    assert list(folder) == episodes
    assert folder.spec == fleet.spec
    assert (folder.header.options, folder.header.fallback) == (fleet.options, "SKIP")
    for count, turn in enumerate(episodes[0].turns):
        (image,) = turn.observation.images
        pixels = np.asarray(PIL.Image.open(tmp_path / "frames" / f"{image.xxh64}.png"))
        assert f"{pixels_hash(pixels):016x}" == image.xxh64
        assert pixels[0, 0, 0] == count + 10
        assert turn.observation.parts == (image, f"count {count}")
        assert (turn.reply, turn.thoughts, turn.action, turn.executed) == (act("up"), "hm", "up", "up")
        assert (turn.reward, turn.metrics, turn.fingerprint) == (1.0, {"count": count + 1.0}, "weights")
    assert episodes[0].final is not None
    assert episodes[0].final.parts[1] == "count 3"
    seen = [observed for one in episodes for observed in (*(turn.observation for turn in one.turns), one.final)]
    used = {image.xxh64 for observed in seen if observed is not None for image in observed.images}
    assert {path.stem for path in (tmp_path / "frames").iterdir()} == used
    run = json.loads((tmp_path / "run.json").read_text())
    (attempt,) = run["attempts"]
    assert (attempt["servers"], attempt["slots"], attempt["agent_url"]) == (fleet.addresses, 4, "nowhere")
    assert attempt["seconds"] >= 0


def test_a_kept_folder_is_not_overwritten_unasked(fleet: Fleet, tmp_path: Path) -> None:
    play(always("up"), fleet, seeds(*range(5)), keep=tmp_path)
    before = contents(tmp_path)
    model = always("down")
    with pytest.raises(EvaluationError, match="another folder"):
        play(model, fleet, seeds(1), keep=tmp_path)
    assert model.asked == [], "nothing is played"
    assert contents(tmp_path) == before
    play(model, fleet, seeds(1), keep=tmp_path, overwrite=True)
    fresh = tmp_path / "fresh"
    play(always("down"), fleet, seeds(1), keep=fresh)
    after = {name: data for name, data in contents(tmp_path).items() if not name.startswith("fresh")}
    assert after == contents(fresh), "nothing of the first evaluation is left"


def test_an_evaluation_that_fails_before_its_first_episode_ends_leaves_no_files(fleet: Fleet, tmp_path: Path) -> None:
    names = iter("ab" * 100)
    with pytest.raises(ModelChangedError):
        play(Scripted(lambda *_: act("up"), lambda: next(names)), fleet, seeds(1, 2), keep=tmp_path)
    assert list(tmp_path.iterdir()) == []
    play(always("up"), fleet, seeds(1, 2), keep=tmp_path)
    assert EpisodeFolder(tmp_path).count() == 2


def contents(folder: Path, without: Sequence[str] = VARYING) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in without)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_what_is_kept_depends_neither_on_the_run_nor_on_the_slots(toy_server: ServerProcess, tmp_path: Path) -> None:
    def noisy(text: str, pixels: list[Pixels], seed: int) -> str:
        return ("hm", act("fly"), act("up"), act("down"))[seed >> 20 & 3]

    kept = []
    for number, slots in enumerate((1, 3, 8, 8)):
        with Fleet([toy_server.address], "toy/Count", slots, options={"max_turns": 9}) as fleet:
            play(Scripted(noisy), fleet, seeds(*range(8)), keep=tmp_path / str(number))
        kept.append(contents(tmp_path / str(number)))
    assert kept[0] == kept[1] == kept[2] == kept[3]
    assert {"episodes.jsonl", "header.json", "report.json"} < set(kept[0])


def test_what_a_killed_evaluation_kept_can_be_read(fleet: Fleet, tmp_path: Path) -> None:
    class KilledError(Exception):
        pass

    def dies(done: int) -> None:
        if done >= 4:
            raise KilledError

    with pytest.raises(KilledError):
        play(always("up"), fleet, seeds(*range(12)), keep=tmp_path, on_progress=dies)
    folder = EpisodeFolder(tmp_path)
    assert sorted(episode.seed for episode in folder) == [0, 1, 2, 3]
    assert not (tmp_path / "report.json").exists(), "a folder without a report is not complete"
    assert [len(decision.messages) for decision in decisions(folder)] == [1] * 12
    model = always("up")
    told: list[int] = []
    _, episodes = play(
        model, fleet, seeds(*range(12)), keep=tmp_path, on_episode=lambda episode, usage: told.append(episode.seed)
    )
    assert len(model.asked) == 8 * 3, "what had ended is not played again"
    assert sorted(told) == [episode.seed for episode in episodes] == list(range(12))


@pytest.mark.parametrize("blank", [False, True])
@pytest.mark.parametrize("history", [1, 3])
def test_the_messages_of_each_turn_are_rebuilt(
    toy_server: ServerProcess, tmp_path: Path, history: int, blank: bool
) -> None:
    """From the folder alone: what the model saw, to the pixel, through skipped turns and crashes."""

    def noisy(text: str, pixels: list[Pixels], seed: int) -> str:
        replies = ("hm", act("fly"), act("up"), act("up"), act("down"), act("private"), act("raise"))
        return replies[(seed >> 20) % len(replies)]

    recipe = Recipe(history=history, turns_left=True)
    options = {"max_turns": 12, "second_image": True}
    model = Scripted(noisy)
    with Fleet([toy_server.address], "toy/Count", 1, options=options) as fleet:
        _, episodes = evaluate(
            model, fleet, [*seeds(*range(6)), Reset(7, "four", 2, ("up", None))],
            recipe=recipe, blank_frames=blank, keep=tmp_path,
        )  # fmt: skip
    assert any(episode.error for episode in episodes)
    assert {"no_action", "not_admissible", "failed"} <= {turn.outcome for one in episodes for turn in one.turns}
    rebuilt = list(decisions(EpisodeFolder(tmp_path)))
    assert len(rebuilt) == len(model.asked) > 20
    for decision, (text, pixels, seed) in zip(rebuilt, model.asked, strict=True):
        *images, last = decision.messages[0]["content"]
        assert last["text"] == text
        assert [part["image"].pixels.tolist() for part in images] == [one.tolist() for one in pixels]
        assert decision.turn.sampling_seed == seed
        assert decision.turn.reply == model._reply(text, pixels, seed)
    assert max(len(pixels) for _, pixels, _ in model.asked) == 2 * history


@pytest.mark.parametrize(("env", "fallback"), [("toy/Count", Fallback.SKIP), ("toy/Commands", Fallback.RANDOM)])
def test_any_turn_can_be_reached_again(toy_server: ServerProcess, tmp_path: Path, env: str, fallback: Fallback) -> None:
    """By a reset of a new session that knows only the folder, without the model."""

    def noisy(text: str, pixels: list[Pixels], seed: int) -> str:
        return ("hm", act("fly"), act("up"), act("down"))[seed >> 20 & 3]

    arguments: dict[str, Any] = {"options": {"max_turns": 9}, "fallback": fallback, "fallback_reward": -0.1}
    with Fleet([toy_server.address], env, 4, **arguments) as fleet:
        tasks = [*seeds(0, 1, 2), Reset(3, prefix=("up", "nonsense", None))]
        play(Scripted(noisy), fleet, tasks, keep=tmp_path)
    folder = EpisodeFolder(tmp_path)
    header = folder.header
    checked = 0
    with Fleet(
        [toy_server.address], folder.spec.id, 1, options=header.options, fallback=Fallback[header.fallback],
        fallback_reward=header.fallback_reward,
    ) as fleet:  # fmt: skip
        for episode in folder:
            seen = [*(turn.observation for turn in episode.turns), episode.final]
            for number, expected in enumerate(seen):
                (result,) = fleet.step([episode.reset_at(number)])
                assert expected is not None
                if number:
                    before = episode.turns[number - 1]
                    assert (result.reward, result.executed) == (before.reward, before.executed)
                assert ObservationRecord.of(result.observation) == expected
                checked += 1
            assert result.end is not None
            assert result.end.name == episode.end
    assert checked > 12


def test_a_model_that_changes_on_the_way_is_noticed(fleet: Fleet) -> None:
    names = iter("aaab" * 100)
    with pytest.raises(ModelChangedError, match="changed in the middle"):
        play(Scripted(lambda *_: act("up"), fingerprint=lambda: next(names)), fleet, seeds(1, 2))


class Slow(Scripted):
    """Replies one at a time: that to seed 0 takes until all others have ended."""

    def __init__(self) -> None:
        super().__init__(lambda *_: act("up"))
        self._executor = ThreadPoolExecutor(4)
        self.others_ended = threading.Event()

    def submit(self, prompt: tuple[list[Message], int]) -> Future[Answer]:
        return self._executor.submit(self._answer, prompt)

    def _answer(self, prompt: tuple[list[Message], int]) -> Answer:
        (answer,) = self.answer_all([prompt])
        if prompt[1] == NOISE_OF_SEED_0:
            assert self.others_ended.wait(30)
        return answer


NOISE_OF_SEED_0 = Game(Reset(0), 0, lambda *_: Conversation(Toy.spec, Recipe())).noise


def test_a_slow_reply_holds_up_no_other_episode(fleet: Fleet) -> None:
    model = Slow()
    _, episodes = play(
        model, fleet, seeds(*range(20)), on_progress=lambda done: model.others_ended.set() if done == 19 else None
    )
    assert [episode.seed for episode in episodes] == list(range(20))
    assert model.others_ended.is_set()


def test_samples_have_noise_of_their_own_and_are_counted_by_task(fleet: Fleet) -> None:
    model = Scripted(lambda text, pixels, seed: act("up" if "count 0" not in text or seed >> 20 & 1 else "down"))
    report, episodes = play(model, fleet, seeds(*range(6)), samples=range(4))
    assert [(one.seed, one.sample) for one in episodes] == [(seed, k) for seed in range(6) for k in range(4)]
    assert (report.episodes, report.tasks, report.samples, report.seeds) == (24, 6, 4, "0-5")
    assert len({turn.sampling_seed for one in episodes for turn in one.turns}) == report.mean_length * 24
    by_task = [[one.success for one in episodes if one.seed == seed] for seed in range(6)]
    assert report.pass_at["1"] == pytest.approx(report.success.value)
    assert report.pass_at["4"] == sum(any(task) for task in by_task) / 6
    assert list(report.pass_at) == ["1", "2", "4"]
    _, first = play(model, fleet, seeds(*range(6)))
    assert first == [one for one in episodes if one.sample == 0], "sample 0 is the evaluation without samples"
    _, others = play(model, fleet, seeds(*range(6)), samples=(7,))
    assert not {turn.sampling_seed for one in first for turn in one.turns} & {
        turn.sampling_seed for one in others for turn in one.turns
    }
    with pytest.raises(EvaluationError, match="named twice"):
        play(model, fleet, seeds(1, 2, 1))


def test_what_an_episode_took_stands_in_a_file_of_its_own(fleet: Fleet, tmp_path: Path) -> None:
    mortal_evaluation.play(fleet.addresses, tmp_path)
    usages = [json.loads(line) for line in (tmp_path / "usage.jsonl").read_text().splitlines()]
    for usage, episode in zip(usages, EpisodeFolder(tmp_path), strict=True):
        assert usage["prompt_tokens"] == 3 * len(episode.turns)
        assert usage["completion_tokens"] == 4 * len(episode.turns)
        assert 0 <= usage["agent_seconds"] <= usage["seconds"] < 60


def test_a_killed_evaluation_is_resumed_to_the_same_bytes(toy_server: ServerProcess, tmp_path: Path) -> None:
    """It is killed at each of a few points, and plays on from there."""
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    mortal_evaluation.play([toy_server.address], whole)
    draw = random.Random(0)
    killed = 0
    for point in (2, draw.randrange(5, 40), draw.randrange(20, 60)):
        command = [sys.executable, "-m", "tests.support.mortal_evaluation", toy_server.address, str(folder), str(point)]
        killed += subprocess.run(command, check=False).returncode == -signal.SIGKILL
        assert not (folder / "report.json").exists()
    assert killed == 3
    mortal_evaluation.play([toy_server.address], folder)
    assert contents(folder) == contents(whole)
    attempts = json.loads((folder / "run.json").read_text())["attempts"]
    assert len(attempts) > 1
    assert "seconds" not in attempts[0], "it did not end"
    assert [one["episodes_before"] for one in attempts] == sorted(one["episodes_before"] for one in attempts)
    assert verify(folder, [toy_server.address]).status is Status.VERIFIED
    before = (folder / "run.json").read_bytes()
    mortal_evaluation.play([toy_server.address], folder)
    assert (folder / "run.json").read_bytes() == before, "what is finished is not played again"


def test_an_evaluation_that_dies_while_it_finishes_is_resumed(fleet: Fleet, tmp_path: Path) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    mortal_evaluation.play(fleet.addresses, whole)
    mortal_evaluation.play(fleet.addresses, folder)
    (folder / "report.json").unlink()
    frame = min((folder / "frames").iterdir())
    frame.write_bytes(frame.read_bytes()[:-30])  # as a machine leaves it that loses its power
    (folder / "frames" / f"{'0' * 16}.png.part").write_bytes(b"torn")
    (folder / "frames" / f"{'0' * 16}.png").write_bytes(b"of an episode that was not finished")
    with (folder / "episodes.jsonl").open("ab") as file:
        file.write(b'{"seed": 7, "tur')
    mortal_evaluation.play(fleet.addresses, folder)
    assert contents(folder) == contents(whole)
    assert verify(folder, fleet.addresses).status is Status.VERIFIED


def test_only_the_same_evaluation_is_resumed(fleet: Fleet, tmp_path: Path) -> None:
    mortal_evaluation.play(fleet.addresses, tmp_path)
    for report in ("finished", "unfinished"):
        with Fleet(fleet.addresses, "toy/Count", 2, options={"max_turns": 9, "size": 8}) as same:
            arguments: dict[str, Any] = {"samples": mortal_evaluation.SAMPLES, "keep": tmp_path}
            before = contents(tmp_path)
            with pytest.raises(EvaluationError, match=r"options\.max_turns was 9, is"):
                play(mortal_evaluation.Dice(), fleet, mortal_evaluation.TASKS, **arguments)
            with pytest.raises(EvaluationError, match="2 episodes that are not to be played"):
                play(mortal_evaluation.Dice(), same, mortal_evaluation.TASKS[:-1], **arguments)
            with pytest.raises(EvaluationError, match=r'model\.name was "dice", is "scripted"'):
                play(always("up"), same, mortal_evaluation.TASKS, **arguments)
            if report == "finished":
                with pytest.raises(EvaluationError, match="16 of these 18 episodes"):
                    play(mortal_evaluation.Dice(), same, seeds(*range(9)), **arguments)
        assert contents(tmp_path) == before
        (tmp_path / "report.json").unlink(missing_ok=True)


@pytest.mark.parametrize("name", ["run.json", "usage.jsonl", "frames/0123456789abcdef.png", "header.json"])
def test_a_file_of_somebody_else_is_not_taken_for_an_interrupted_evaluation(
    fleet: Fleet, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(EvaluationError, match="already holds"):
        play(always("up"), fleet, seeds(1), keep=tmp_path)
    assert contents(tmp_path, ()) == {name: b"mine"}


def test_two_processes_do_not_write_to_one_folder(fleet: Fleet, tmp_path: Path) -> None:
    def at_once(done: int) -> None:
        with pytest.raises(EvaluationError, match="another process is writing"):
            play(always("up"), fleet, seeds(1), keep=tmp_path)

    play(always("up"), fleet, seeds(1), keep=tmp_path, on_progress=at_once)


def test_servers_and_slots_do_not_matter(toy_server: ServerProcess, tmp_path: Path) -> None:
    """One server and three, one slot and 64, most of them never used."""
    with ServerProcess(*ENVS, arguments=SMALL) as second, ServerProcess(*ENVS, arguments=SMALL) as third:
        servers = [toy_server.address, second.address, third.address]
        for number, (used, slots) in enumerate([(servers[:1], 1), (servers, 7), (servers, 64)]):
            mortal_evaluation.play(used, tmp_path / str(number), slots)
            assert contents(tmp_path / str(number)) == contents(tmp_path / "0")
        attempts = json.loads((tmp_path / "2" / "run.json").read_text())["attempts"]
        assert set(attempts[0]["servers"]) == set(servers)


def test_servers_of_two_provenances_are_refused(
    toy_server: ServerProcess, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TOY_RULES", "toy 2")
    with (
        ServerProcess(*ENVS, arguments=SMALL) as other,
        Fleet([toy_server.address, other.address], "toy/Count", 4) as mixed,
        pytest.raises(EvaluationError, match=r"rules is 'toy [12]' at .*; name servers of one provenance"),
    ):
        play(always("up"), mixed, seeds(1, 2), keep=tmp_path / "kept")


@pytest.mark.parametrize("name", ["expert", "random", "person"])
def test_baselines_play_the_same_episodes(toy_server: ServerProcess, tmp_path: Path, name: str) -> None:
    with Fleet([toy_server.address], "toy/Count", 3, expert=name == "expert", options={"max_turns": 9}) as fleet:
        person = iter(("up", "down", "up", "up", "up") * 9)
        agents: dict[str, Agent] = {
            "expert": ExpertAgent(fleet.spec),
            "random": RandomAgent(dataclasses.replace(fleet.spec, action=ActionSpec(("up", "down")))),
            "person": PersonAgent(lambda result: next(person)),
        }
        report, episodes = evaluate(agents[name], fleet, seeds(*range(9)), recipe=Recipe(), keep=tmp_path / name)
    assert report.model == name
    assert {turn.actor for one in episodes for turn in one.turns} == {name}
    assert {turn.outcome for one in episodes for turn in one.turns} == {"executed"}
    if name == "expert":
        assert report.success.value == 1.0
        assert episodes[0].turns[1].thoughts == "The count is 1."
    else:
        assert len({turn.action for one in episodes for turn in one.turns}) > 1
    assert verify(tmp_path / name, [toy_server.address]).status is Status.VERIFIED
    assert EpisodeFolder(tmp_path / name).header.model is None


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
    assert (result.success.value, result.returns.value) == (1.0, 6.0)
    assert result.p == pytest.approx(2 / 2**9)
    with pytest.raises(ValueError, match="same episodes"):
        compare(good, bad[:-1])


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


class Replies(JsonHandler):
    """An OpenAI-compatible server whose replies are those of `actions`, then "up"; "mine@3" always goes down.

    It has the checkpoints `updates` of the run "mine", as ours would.
    """

    actions: ClassVar[list[str]] = []
    updates: ClassVar[list[int]] = []

    def do_GET(self) -> None:
        runs = [{"id": f"mine@{update}", "overworld": described(update)} for update in self.updates]
        latest = [{"id": "mine@latest", "overworld": described(self.updates[-1])}] if self.updates else []
        self.send({"data": [{"id": "m"}, {"id": "silent"}, *runs, *latest]})

    def do_POST(self) -> None:
        body = self.read()
        action = self.actions.pop() if self.actions else "down" if body["model"] == "mine@3" else "up"
        reply = "hm" if body["model"] == "silent" else act(action)
        usage = {"prompt_tokens": 11, "completion_tokens": 7}
        self.send({"choices": [{"message": {"content": reply}, "finish_reason": "stop"}], "usage": usage})


def described(update: int) -> dict[str, Any]:
    return {"run": "mine", "update": update, "env_steps": 512 * update, "recipe": {"history": 1}, "envs": []}


@pytest.fixture
def model_url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where `Replies` is served."""
    monkeypatch.setattr(Replies, "actions", [])
    monkeypatch.setattr(Replies, "updates", [])
    with serving_json(Replies) as url:
        yield url


def rows(shown: str) -> list[list[str]]:
    """The lines of the table of a suite."""
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines() if "│" in line]


def test_a_suite_is_one_table_of_the_same_episodes(
    toy_server: ServerProcess, model_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("COLUMNS", "200")
    Replies.updates[:] = [3, 20]
    arguments = [
        "toy/Count,toy/Commands", "model=mine@all,silent", f"url={model_url}", f"servers={toy_server.address}",
        "seeds=5-9", "slots=3", f"keep={tmp_path}", "options.max_turns=9",
    ]  # fmt: skip
    assert eval_command.main(arguments) == 0
    shown = capsys.readouterr()
    table = rows(shown.out)
    assert [row[:3] for row in table] == [
        ["toy/Count", "mine@3", "0.000"], ["", "mine@20", "1.000"], ["", "silent", "0.000"],
        ["toy/Commands", "mine@3", "0.000"], ["", "mine@20", "0.000"], ["", "silent", "0.000"],
    ]  # fmt: skip
    assert table[1][4].startswith("+1.000 (")
    assert "21 tokens" in table[1][-1], "three replies of seven"
    assert shown.err.count("100% of the replies of silent") == 2
    kept = {str(path.parent.relative_to(tmp_path)) for path in tmp_path.rglob("report.json")}
    agents = ("mine@3", "mine@20", "silent")
    assert kept == {f"{env}/{agent}" for env in ("toy-Count", "toy-Commands") for agent in agents}
    usage = json.loads((tmp_path / "toy-Count" / "mine@20" / "usage.jsonl").read_text().splitlines()[0])
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (33, 21)
    before = contents(tmp_path)
    assert eval_command.main(arguments) == 0
    assert rows(capsys.readouterr().out) == table, "what is finished is shown again"
    assert contents(tmp_path) == before


def test_a_suite_may_stand_in_a_file(toy_server: ServerProcess, model_url: str, tmp_path: Path) -> None:
    file = tmp_path / "suite.yaml"
    file.write_text("envs: [toy/Count, {id: toy/Count, split: four}, {id: toy/Commands, seeds: 1-2}]\nseeds: 5-7\n")
    with pytest.raises(SettingsError, match="toy/Count is named twice"):
        eval_command.main([str(file), "model=m"])
    file.write_text("envs: [{id: toy/Count, split: four}, {id: toy/Commands, seeds: 1-2}]\nseeds: 5-7\n")
    given = [str(file), "model=m", f"url={model_url}", f"servers={toy_server.address}", f"keep={tmp_path / 'kept'}"]
    assert eval_command.main([*given, "options.max_turns=5"]) == 0
    counts = {env: EpisodeFolder(tmp_path / "kept" / env / "m").count() for env in ("toy-Count", "toy-Commands")}
    assert counts == {"toy-Count": 4, "toy-Commands": 2}


def test_moving_names_mean_the_same_until_the_suite_is_finished(
    toy_server: ServerProcess, model_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Replies.updates[:] = [3, 20]
    Replies.actions[:] = ["raise"] * 3
    arguments = [
        "toy/Count", "model=random,mine@latest", f"url={model_url}", f"servers={toy_server.address}",
        "seeds=5-7", f"keep={tmp_path}", "options.max_turns=9", "options.size=0",
    ]  # fmt: skip
    assert eval_command.main(arguments) == 1, "the env refuses pictures of size 0"
    assert "mine@20 in toy/Count" in capsys.readouterr().err
    arguments = [*arguments[:1], "model=expert,mine@latest", *arguments[2:-1]]
    Replies.updates[:] = [3, 20, 40]
    assert eval_command.main(arguments) == 1, "all three episodes crash"
    assert (tmp_path / "toy-Count" / "mine@20").exists()
    Replies.actions.clear()
    assert eval_command.main([*arguments, "overwrite=true"]) == 0
    assert (tmp_path / "toy-Count" / "mine@40" / "report.json").exists()


def test_an_interrupted_evaluation_goes_on_with_the_checkpoint_that_was_the_latest(
    toy_server: ServerProcess, model_url: str, tmp_path: Path
) -> None:
    Replies.updates[:] = [20]
    arguments = [
        "toy/Count", "model=mine@latest", f"url={model_url}", f"servers={toy_server.address}", "seeds=5-7",
        f"keep={tmp_path}",
    ]  # fmt: skip
    assert eval_command.main(arguments) == 0
    before = contents(tmp_path)
    (tmp_path / "report.json").unlink()
    Replies.updates[:] = [20, 40]
    assert eval_command.main(arguments) == 0
    assert contents(tmp_path) == before
    with pytest.raises(EvaluationError, match=r'model\.name was "mine@20", is "mine@40"'):
        eval_command.main(arguments)
    with pytest.raises(EvaluationError, match="holds one evaluation, not several"):
        eval_command.main(["toy/Commands", *arguments])


def test_each_checkpoint_of_a_run_is_evaluated_as_it_appears(
    toy_server: ServerProcess, model_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "mine"
    given = [
        "toy/Count,toy/Commands", f"watch={run}", f"url={model_url}", f"servers={toy_server.address}", "seeds=1-3",
        "options.max_turns=5",
    ]  # fmt: skip
    with pytest.raises(SettingsError, match="not the folder of a training run"):
        eval_command.main(given)
    run.mkdir()
    (run / "config.yaml").write_text("updates: 40\n")
    (run / "metrics.jsonl").write_text('{"update": 2, "env_steps": 1536, "charts/SPS": 1.0}\n')
    arrivals = iter([3, 20, 40])
    monkeypatch.setattr(eval_command, "sleep", lambda seconds: Replies.updates.append(next(arrivals)))
    assert eval_command.main(given) == 0
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [(line["update"], line["env_steps"]) for line in lines] == [
        (2, 1536), (2, 1536), (19, 512 * 20), (39, 512 * 40),
    ]  # fmt: skip
    assert "charts/SPS" in lines[0], "the trainer's own line"
    assert [line["watch/success_rate/toy/Count"] for line in lines[1:]] == [0.0, 1.0, 1.0]
    assert lines[1]["watch/episodes/toy/Commands"] == 3
    board = EventAccumulator(str(run / "tensorboard" / "watch")).Reload()
    points = board.Tensors("watch/success_rate/toy/Count")
    assert [(point.step, tensor_util.make_ndarray(point.tensor_proto).item()) for point in points] == [
        (512 * 3, 0.0), (512 * 20, 1.0), (512 * 40, 1.0),
    ]  # fmt: skip
    assert verify(run / "watch" / "toy-Count" / "mine@20", [toy_server.address]).status is Status.VERIFIED
    before = (run / "metrics.jsonl").read_bytes()
    assert eval_command.main(given) == 0
    assert (run / "metrics.jsonl").read_bytes() == before, "what was logged is not logged again"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (["watch=runs/mine"], "watch: leave out model"),
        (["model="], "model: name one or more"),
        (["samples=3"], "at temperature 0 the 3 plays of a task would be the same"),
        (["model=expert,other"], "no model 'other'"),
        (["model=other@all"], "has no checkpoint of 'other'"),
    ],
)
def test_suites_that_cannot_be_played(
    toy_server: ServerProcess, model_url: str, changes: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["toy/Count", "model=m", f"url={model_url}", f"servers={toy_server.address}", "seeds=1", *changes]
    try:
        assert eval_command.main(arguments) == 1
        assert says in capsys.readouterr().err
    except OverworldError as error:
        assert says in str(error)


@pytest.mark.parametrize(
    ("failing", "status", "says"),
    [
        (3, 1, "all 3 episodes failed, so these figures say nothing about m; the first, of seed 5: ENV_ERROR:"),
        (2, 0, ""),
    ],
)
def test_an_evaluation_of_which_every_episode_failed_is_an_error(
    toy_server: ServerProcess, model_url: str, failing: int, status: int, says: str
) -> None:
    Replies.actions[:] = ["raise"] * failing
    given = ["--model", "m", "--url", model_url, "--servers", toy_server.address, "--seeds", "5-7", "--slots", "3"]
    ended = overworld("eval", "toy/Count", *given)
    assert ended.returncode == status, ended.stderr
    assert says in ended.stderr
    assert "Traceback" not in ended.stderr
    failed = next(line for line in ended.stdout.splitlines() if "failed" in line)
    assert re.search(rf"{failing}, the first of seed [567]: ENV_ERROR: RuntimeError: boom", failed)


def test_comparing_folders(fleet: Fleet, tmp_path: Path) -> None:
    play(always("down"), fleet, seeds(*range(8)), keep=tmp_path / "a")
    play(always("up"), fleet, seeds(*range(8)), keep=tmp_path / "b")
    shown = overworld("compare", str(tmp_path / "a"), str(tmp_path / "b"))
    assert shown.returncode == 0
    assert "+1.000" in shown.stdout
    assert "0.00781" in shown.stdout
    (tmp_path / "a" / "header.json").unlink()
    for first, says in (("a", "version 0"), ("c", "header.json cannot be read")):
        failed = overworld("compare", str(tmp_path / first), str(tmp_path / "b"))
        assert failed.returncode == 1
        assert says in failed.stderr
        assert "Traceback" not in failed.stderr


def test_what_is_not_comparable_is_not_compared(toy_server: ServerProcess, tmp_path: Path) -> None:
    def kept(name: str, env: str = "toy/Count", recipe: Recipe | None = None, **arguments: Any) -> EpisodeFolder:
        path = tmp_path / name
        blank = arguments.pop("blank_frames", False)
        with Fleet([toy_server.address], env, 4, **({"options": {"max_turns": 5}} | arguments)) as fleet:
            tasks, recipe = seeds(*range(6)), recipe or Recipe()
            evaluate(always("up"), fleet, tasks, recipe=recipe, blank_frames=blank, keep=path)
        return EpisodeFolder(path)

    base = kept("base")
    for name, arguments, says in (
        ("env", {"env": "toy/Commands"}, r"env\.action"),
        ("options", {"options": {"max_turns": 6}}, r"env\.max_turns was 5 in the first and 6 in the second"),
        ("reward", {"fallback_reward": -1.0}, r"fallback_reward was 0\.0"),
    ):
        with pytest.raises(EvaluationError, match=f"cannot be compared: {says}"):
            compare_folders(base, kept(name, **arguments))
    blank = compare_folders(base, kept("blank", blank_frames=True))
    assert blank.differences == ('substitution: "" and "blank_frames"',)
    assert (blank.success.value, blank.p) == (0.0, 1.0)
    assert blank.success.low < 0 < blank.success.high
    other = compare_folders(base, kept("recipe", recipe=Recipe(history=2)))
    assert other.differences == ("recipe.history: 1 and 2",)


def test_tasks_that_were_played_several_times_are_compared_by_task(fleet: Fleet) -> None:
    def luck(share: int) -> Scripted:
        return Scripted(lambda text, pixels, seed: act("up" if (seed >> 20) % 10 < share else "down"))

    first, second = (play(luck(share), fleet, seeds(*range(20)), samples=range(3))[1] for share in (4, 9))
    result = compare(first, reversed(second))
    assert (result.episodes, result.tasks) == (60, 20)
    share, other = (sum(one.success for one in episodes) / 60 for episodes in (first, second))
    assert result.success.value == pytest.approx(other - share)
    assert result.success.low > 0
    assert result.p < 0.01
