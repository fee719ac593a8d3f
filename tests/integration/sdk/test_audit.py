"""`overworld audit` names what is wrong with an env, and finds nothing where nothing is."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from overworld.audit import audit
from overworld.audit.judging import JUDGEMENTS
from overworld.audit.questions import QUESTIONS
from overworld.authoring.env import Env, Transition
from overworld.commands.audit import main
from overworld.host.process import ServerProcess

from tests.support.defects import BY_PROCESS, DEFECTS
from tests.support.sound_envs import MEADOW, SOUND, Count, Meadow

PROCESSES = "runtime.process_determinism"


@pytest.mark.parametrize("env", SOUND, ids=lambda env: env.__name__)
def test_nothing_is_found_where_nothing_is_wrong(env: type[Env]) -> None:
    report = audit(env)
    assert not report.findings
    assert len(report.envs[0].answered) > 15


@pytest.mark.parametrize("what", DEFECTS)
def test_a_defect_is_named_by_its_question(what: str) -> None:
    question, env = DEFECTS[what]
    assert question in {finding.question for finding in audit(env).findings}


def test_an_env_that_cannot_be_learnt_is_audited_and_says_why() -> None:
    (report,) = audit(Count, learn=True, seconds=0.01).envs
    assert report.learned is None
    (table,) = (table for table in report.tables if table.title == "Learning: not possible")
    assert "its actions are free text" in table.rows[0][0]


def test_every_question_has_a_defect_and_is_asked() -> None:
    assert {question for question, _ in DEFECTS.values()} == set(QUESTIONS) - {PROCESSES}  # that needs a process
    assert {question for each in JUDGEMENTS for question in each.questions} == set(QUESTIONS)
    assert [question.number for question in QUESTIONS.values()] == [f"A{n}" for n in range(1, len(QUESTIONS) + 1)]


def test_an_env_is_played_in_two_processes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, page = tmp_path / "report.json", tmp_path / "report.html"
    assert main([BY_PROCESS, "--json", str(file), "--html", str(page)]) == 1
    shown = capsys.readouterr().out
    assert "✗ A5  Does another process give the same episode, to the pixel?" in shown
    report = json.loads(file.read_text())
    (env,) = report["envs"]
    assert [finding["question"] for finding in env["findings"]] == [PROCESSES]
    assert {each["id"]: each["status"] for each in env["questions"]}[PROCESSES] == "error"
    html = page.read_text()
    assert "data:image/png;base64," in html
    assert "http" not in html


def test_a_server_is_audited_as_a_class_is(capsys: pytest.CaptureFixture[str]) -> None:
    with ServerProcess(MEADOW, arguments=("--slots", "8", "--workers", "1", "--allow-expert")) as server:
        assert main([server.address, "sound/Meadow", "-v"]) == 0
        shown = capsys.readouterr().out
        assert "A5 Does another process give the same episode, to the pixel? Not answered" in " ".join(shown.split())
        assert main([server.address, "sound/Desert"]) == 2
    assert "sound/Desert" in capsys.readouterr().err


def test_the_same_seed_gives_the_same_audit() -> None:
    one, other, third = (audit(Meadow, seed=seed).as_json() for seed in (3, 3, 4))
    for report in (one, other, third):
        for env in report["envs"]:
            del env["seconds"], env["tables"][-1]  # what it costs
    assert one == other
    assert one != third


def test_what_there_is_no_time_for_is_not_answered() -> None:
    (env,) = audit(Count, seconds=1e-6).envs
    assert not env.answered
    assert not env.findings
    assert set(env.skipped) == set(QUESTIONS)


def test_an_env_that_hangs_is_left() -> None:
    class Hanging(Meadow):
        def step(self, action: str) -> Transition:
            if self.moves == 5:
                time.sleep(60)
            return super().step(action)

    (env,) = audit(Hanging, timeout=0.2).envs
    assert env.status("runtime.robustness") == "error"
    assert "did not return within 0.2 s" in env.findings[0].came
    assert env.seconds < 10


@pytest.mark.parametrize("subject", ["127.0.0.1:1", "no_such_module:Env", "no_such_simulator"])
def test_nothing_to_audit(subject: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([subject]) == 2
    assert "overworld audit: " in capsys.readouterr().err
