"""A study: its file, the runs it asks for, what they cost and measured, and what it says of its claims."""

import fcntl
import json
import math
import os
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from overworld.errors import OverworldError, SettingsError
from overworld_trainer.config import TrainerConfig
from overworld_trainer.study import command
from overworld_trainer.study.plan import RunKey, StudyConfig
from overworld_trainer.study.results import area, note_attempt, read_cost, read_result
from overworld_trainer.study.runner import Runner
from overworld_trainer.study.statistics import estimate, holm, sign_flips
from overworld_trainer.study.verdicts import Verdict, judge
from pydantic import ValidationError

STUDIES = Path(__file__).parents[3] / "studies"
FILE: dict[str, Any] = {
    "name": "small",
    "about": "A study.",
    "budget": 100,
    "base": {"clone": {"updates": 3}, "evaluation": {"every": 2}, "policy": {"lr": 1e-3, "epochs": 3}},
    "envs": {"One": {"id": "toy/Count", "slots": 8}, "Two": {"id": "toy/Count", "options": {"length": 9}}},
    "arms": {"a": {}, "b": {"slots": 4, "settings": {"algorithm": "loop", "policy": {"epochs": 1}}}},
    "experiments": {
        "first": {"about": "?", "envs": ["One"], "arms": ["a", "b"], "seeds": 5},
        "second": {"about": "?", "envs": ["One", "Two"], "arms": ["a"], "seeds": 2},
    },
    "claims": [
        {"says": "a beats b", "contrast": {"a": 1, "b": -1}, "envs": ["One"]},
        {"says": "a likes One", "contrast": {"One/a": 1, "Two/a": -1}},
        {"says": "it transfers", "unseen": "nothing is known"},
    ],
}


def study(folder: Path, **changes: Any) -> StudyConfig:
    return StudyConfig(**FILE | {"runs": folder, "servers": "127.0.0.1:1"} | changes)


def test_runs_are_those_of_all_experiments_each_once_and_seed_by_seed(tmp_path: Path) -> None:
    runs = [str(key) for key in study(tmp_path).every_run]
    assert runs[:6] == [
        "One/a/seed-0", "One/b/seed-0", "Two/a/seed-0", "One/a/seed-1", "One/b/seed-1", "Two/a/seed-1",
    ]  # fmt: skip
    assert len(runs) == len(set(runs)) == 12


def test_arms_differ_in_what_they_say_and_begin_at_one_clone(tmp_path: Path) -> None:
    one = study(tmp_path)
    ours, theirs = (one.run_settings(RunKey("One", arm, 3)) for arm in ("a", "b"))
    start = one.start_settings("One", 3)
    weights = f"{start['run']}/checkpoints/000000/weights"
    assert ours["model"]["path"] == theirs["model"]["path"] == weights
    assert "clone" not in ours
    assert start["clone"] == {"updates": 3}
    differing = {name for name in theirs if theirs[name] != ours.get(name)}
    assert differing == {"algorithm", "envs", "policy", "run"}
    assert theirs["policy"] == {"lr": 1e-3, "epochs": 1}
    assert [settings["envs"][0]["slots"] for settings in (ours, theirs, start)] == [8, 4, 8]
    config = TrainerConfig(**ours)
    assert (config.seed, config.max_env_steps, config.evaluation.every) == (3, 100, 2)
    warm_up = TrainerConfig(**start)
    assert (warm_up.updates, warm_up.warmup_updates, warm_up.evaluation.every) == (1, 1, 1)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"seed": 3}, "seed"),
        ({"arms": FILE["arms"] | {"a": {"clone": {"updates": 2}}}}, "clone"),
        ({"arms": FILE["arms"] | {"a": {"settings": {"clone": {"updates": 2}}}}}, "all arms share"),
        ({"arms": FILE["arms"] | {"a": {"settings": {"evaluation": {"episodes": 2}}}}}, "evaluated alike"),
        ({"base": FILE["base"] | {"seed": 2}}, "the study sets itself"),
        ({"base": {}}, "evaluation.every"),
        ({"envs": {"One": FILE["envs"]["One"]}}, "there is no \\['Two'\\]"),
        ({"claims": [{"says": "x", "contrast": {"b": 1}, "envs": ["Two"]}]}, "no experiment plays \\['Two/b'\\]"),
        ({"claims": [{"says": "x"}]}, "contrast"),
        ({"name": "../x"}, "name"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        study(tmp_path, **changes)


def test_settings_that_the_trainer_refuses_are_refused_before_the_first_run(tmp_path: Path) -> None:
    arms = FILE["arms"] | {"b": {"settings": {"algorithm": "loop", "polisy": {}}}}
    with pytest.raises(SettingsError, match=r"One/b.*polisy"):
        study(tmp_path, arms=arms).check_settings()


@pytest.mark.parametrize("file", sorted(STUDIES.glob("*.yaml")), ids=lambda path: path.stem)
def test_our_studies_are_accepted(file: Path) -> None:
    one = StudyConfig.load([str(file)])
    one.check_settings()
    assert one.name == file.stem


def test_the_area_is_the_mean_height_up_to_the_budget() -> None:
    assert area([(0, 0.2)], 10) == pytest.approx(0.2)
    assert area([(0, 0.0), (10, 1.0)], 10) == pytest.approx(0.5)
    assert area([(0, 0.0), (5, 1.0)], 10) == pytest.approx(0.75)  # level after the last point
    assert area([(0, 0.0), (20, 1.0)], 10) == pytest.approx(0.25)  # cut at the budget
    assert area([(0, 1.0), (4, 0.0), (8, 0.5), (16, 1.0)], 12) == pytest.approx((2 + 1 + 2.5) / 12)


def test_the_interval_is_what_the_permutation_test_does_not_reject() -> None:
    random = np.random.default_rng(0)
    for count in (5, 6, 9):
        values = list(random.normal(0.4, 1.0, count))
        found = estimate(values)
        assert found.value == pytest.approx(np.mean(values))
        for bound, sign in ((found.low, 1), (found.high, -1)):
            inside, outside = ([sign * (value - bound - sign * shift) for value in values] for shift in (1e-9, -1e-9))
            assert sign_flips(inside) > 0.05 >= sign_flips(outside) - 1e-12
    assert estimate([1.0, 2.0, 3.0, 4.0]).low == -math.inf
    assert (estimate([3.0, 1.0, 2.0, 5.0, 4.0]).low, estimate([3.0, 1.0, 2.0, 5.0, 4.0]).high) == (1.0, 5.0)


def test_the_interval_misses_the_truth_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    found = [estimate(list(random.normal(0.0, 1.0, 6))) for _ in range(2000)]
    below, above = np.mean([one.low > 0 for one in found]), np.mean([one.high < 0 for one in found])
    assert abs(below - 3 / 64) < 0.015  # of 64 parts of the line, three lie outside on each side
    assert abs(above - 3 / 64) < 0.015


def test_p_values_by_hand() -> None:
    assert sign_flips([1.0, 2.0, 3.0]) == 1 / 8
    assert sign_flips([1.0, 2.0, -3.0]) == 5 / 8
    assert sign_flips([0.0, 0.0]) == 1.0
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


def measured(one: StudyConfig, key: RunKey, success: float, *, tokens: float = 10.0, stopped: str = "") -> None:
    """Leaves what a finished run leaves."""
    start, folder = one.start_folder(key.env, key.seed), one.run_folder(key)
    update = {"update": 0, "env_steps": 40, "replies/tokens": tokens}
    evaluation = {"update": 0, "env_steps": 40, "eval/success_rate": success, "eval/invalid_replies": 0.25}
    lines = {start: [update, evaluation | {"eval/success_rate": 0.5}], folder: [update, evaluation]}
    for place, said in lines.items():
        note_attempt(place)
        note_attempt(place, 30.0)
        (place / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in said))
    (folder / "finished.json").write_text(json.dumps({"stopped": stopped}))


def test_what_a_run_measured_and_cost(tmp_path: Path) -> None:
    one, key = study(tmp_path), RunKey("One", "a", 0)
    assert read_result(one, key) is None
    measured(one, key, 1.0, stopped="no more")
    result = read_result(one, key)
    assert result is not None
    assert result.curve == [(0, 0.5), (40, 1.0)]
    assert result.area == pytest.approx(0.4 * 0.75 + 0.6)
    assert (result.invalid, result.stopped) == (0.25, "no more")
    assert (result.cost.cpu_seconds, result.cost.env_steps, result.cost.reply_tokens) == (30.0, 40, 400)
    note_attempt(one.run_folder(key))  # killed together with the study
    assert read_cost(one.run_folder(key)).cpu_seconds is None


def test_verdicts(tmp_path: Path) -> None:
    def verdicts(heights: Mapping[str, list[float]], folder: str) -> list[Verdict]:
        one = study(tmp_path / folder)
        for arm, values in heights.items():
            for seed, value in enumerate(values):
                measured(one, RunKey("One", arm, seed), value)
        results = {key: found for key in one.every_run if (found := read_result(one, key)) is not None}
        return [finding.verdict for finding in judge(one, results)]

    high, low = [0.9, 0.8, 0.7, 0.9, 0.6], [0.5, 0.6, 0.5, 0.4, 0.5]
    few, unseen = Verdict.TOO_FEW, Verdict.UNSEEN
    assert verdicts({"a": high, "b": low}, "better") == [Verdict.SEEN, few, unseen]
    assert verdicts({"a": low, "b": high}, "worse") == [Verdict.OPPOSITE, few, unseen]
    assert verdicts({"a": [*high[:4], 0.3], "b": low}, "mixed") == [Verdict.NOT_SEEN, few, unseen]
    assert verdicts({"a": high[:4], "b": low}, "early") == [few, few, unseen]


def test_the_page_is_the_same_each_time_and_says_what_is_missing(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump(FILE))
    arguments = [str(file), f"runs={tmp_path}", f"page={tmp_path}/page", "page_only=true"]
    one = study(tmp_path)
    for seed in range(5):
        measured(one, RunKey("One", "a", seed), 0.9)
        measured(one, RunKey("One", "b", seed), 0.2 + seed / 10, stopped="the reason" if seed == 4 else "")
    assert command.main(arguments) == 0
    pages = {path.name: path.read_bytes() for path in (tmp_path / "page").iterdir()}
    assert sorted(pages) == [
        "small-first-One.svg", "small-second-One.svg", "small-second-Two.svg", "small.md",
    ]  # fmt: skip
    text = pages["small.md"].decode()
    assert "10 of 12 runs are finished. **The study is not finished**" in text
    assert "| a beats b |  | One | +0.400 [+0.240, +0.560] | 5 | 0.031 | 0.031 | **seen** |" in text
    assert "| it transfers |  | nothing is known |  |  |  |  | **cannot be seen here** |" in text
    assert "One/b/seed-4: the reason" in text
    assert command.main(arguments) == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "page").iterdir()} == pages


TRAINER = '''
"""Stands for `overworld train`: takes an argument of settings, and does as `told` says."""
import json, pathlib, signal, sys, time
settings = pathlib.Path(sys.argv[1])
folder = settings.parent
told = json.loads(pathlib.Path(__file__).with_name("told.json").read_text())
with pathlib.Path(__file__).with_name("calls").open("a") as calls:
    calls.write(str(folder) + "\\n")
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
what = next((told[name] for name in told if name in str(folder)), "")
if what == "wait":
    folder.joinpath("waiting").touch()
    time.sleep(60)
if what != "refuse":
    line = {"env_steps": 40, "eval/success_rate": 0.5, "eval/invalid_replies": 0.0}
    folder.joinpath("metrics.jsonl").write_text(json.dumps(line) + "\\n")
print("overworld_trainer: it said so")
sys.exit({"refuse": 1, "guard": 1, "later": 75}.get(what, 0))
'''


class Stand:
    """A trainer, found before the real one by processes that are started from here."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        package = folder / "stand" / "overworld_trainer"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "__main__.py").write_text(TRAINER)
        self.package = package
        self.tell({})

    def tell(self, told: Mapping[str, str]) -> None:
        (self.package / "told.json").write_text(json.dumps(told))

    def calls(self) -> list[str]:
        path = self.package / "calls"
        return [line.partition("/small/")[2] for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stand:
    one = Stand(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{one.package.parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    return one


def test_a_finished_run_is_not_run_again_and_a_failed_one_is(stand: Stand, tmp_path: Path) -> None:
    one = study(tmp_path, jobs=2, experiments={"first": FILE["experiments"]["first"] | {"seeds": 1}}, claims=[])
    stand.tell({"runs/One/b": "later"})
    with pytest.raises(OverworldError, match="One/b/seed-0: status 75: overworld_trainer: it said so"):
        Runner(one).run(one.every_run)
    assert sorted(stand.calls()) == ["runs/One/a/seed-0", "runs/One/b/seed-0", "starts/One/seed-0"]
    stand.tell({"runs/One/b": "guard"})
    assert Runner(one).run(one.every_run)
    assert stand.calls()[3:] == ["runs/One/b/seed-0"], "the start and what is finished are not made again"
    assert Runner(one).run(one.every_run)
    assert len(stand.calls()) == 4
    result = read_result(one, RunKey("One", "b", 0))
    assert result is not None
    assert result.stopped == "overworld_trainer: it said so"
    changed = study(tmp_path, budget=200, experiments=one.experiments, claims=[])
    with pytest.raises(SettingsError, match="begun with other settings"):
        Runner(changed).run(changed.every_run)


def test_a_start_that_is_refused_fails_its_runs(stand: Stand, tmp_path: Path) -> None:
    one = study(tmp_path, experiments={"first": FILE["experiments"]["first"] | {"seeds": 1}}, claims=[])
    stand.tell({"starts": "refuse"})
    with pytest.raises(OverworldError, match=r"2 runs failed: .*status 1: overworld_trainer: it said so"):
        Runner(one).run(one.every_run)


def test_sigterm_ends_the_runs_and_the_next_time_they_are_resumed(stand: Stand, tmp_path: Path) -> None:
    one = study(tmp_path, experiments={"first": FILE["experiments"]["first"] | {"seeds": 1}}, claims=[])
    stand.tell({"runs/One/a": "wait"})
    folder = one.run_folder(RunKey("One", "a", 0))

    def end() -> None:
        while not (folder / "waiting").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=end)
    thread.start()
    assert not Runner(one).run(one.every_run)
    thread.join()
    assert signal.getsignal(signal.SIGTERM) == before
    assert stand.calls() == ["starts/One/seed-0", "runs/One/a/seed-0"], "the other run was not begun"
    assert read_cost(folder).cpu_seconds is not None
    stand.tell({})
    assert Runner(one).run(one.every_run)
    assert stand.calls()[2:] == ["runs/One/a/seed-0", "runs/One/b/seed-0"]


def test_one_run_is_not_done_by_two_processes(stand: Stand, tmp_path: Path) -> None:
    one = study(tmp_path, experiments={"first": FILE["experiments"]["first"] | {"seeds": 1}}, claims=[])
    folder = one.run_folder(RunKey("One", "a", 0))
    folder.mkdir(parents=True)
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert Runner(one).run(one.every_run)
    assert stand.calls() == ["starts/One/seed-0", "runs/One/b/seed-0"]


def test_one_run_by_its_number_and_the_plan(stand: Stand, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump(FILE))
    arguments = [str(file), f"runs={tmp_path}", "servers=127.0.0.1:1"]
    assert command.main([*arguments, "index=2"]) == 0
    assert stand.calls() == ["starts/Two/seed-0", "runs/Two/a/seed-0"]
    assert not (tmp_path / "small" / "page").exists()
    with pytest.raises(SettingsError, match="0 to 11"):
        command.main([*arguments, "index=12"])
    measured(study(tmp_path), RunKey("One", "a", 0), 1.0)
    assert command.main([*arguments, "dry_run=true"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "12 runs, 2 of them finished" in shown
    # Nine runs in One are expected to cost 30 s each; the run in Two took next to nothing.
    assert "those left: 0.07 CPU-hours" in shown or "those left: 0.08 CPU-hours" in shown
    assert len(stand.calls()) == 2
