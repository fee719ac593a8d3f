"""The demo as a user runs it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.optional import present

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "demo"]


def run_demo(folder: Path, seed: int) -> dict[str, Any]:
    """The report of a demo that was run to its end."""
    done = subprocess.run(
        [*COMMAND, "--seed", str(seed), "--run", str(folder)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "trained, blank" in done.stdout
    return json.loads((folder / "report.json").read_text())


def check(report: dict[str, Any]) -> None:
    """What the demo promises."""
    assert report["trained"]["success"] >= 0.95
    assert report["trained"]["positive_return"] >= 0.85
    assert report["cloned"]["positive_return"] <= 0.6
    assert report["trained_blank"]["positive_return"] <= 0.6
    assert report["max_rollout_train_logprob_error"] < 1e-4
    assert all(report[name]["episodes"] == 30 for name in ("cloned", "trained", "trained_blank"))


@pytest.mark.demo
@pytest.mark.timeout(900)
def test_the_agent_learns_to_look(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    report = run_demo(folder, seed=0)
    check(report)
    page = (folder / "report.html").read_text()
    assert page.count('class="card strip"') == 9
    assert "http" not in page.replace("http-equiv", ""), "the page fetches nothing"
    assert processes_of(folder) == []


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_seed_learns_and_repeats(tmp_path: Path, seed: int) -> None:
    reports = [run_demo(tmp_path / name, seed) for name in ("one", "other")]
    check(reports[0])
    for report in reports:
        assert report.pop("cpu_seconds") <= 400
        report.pop("wall_seconds")
        for name in ("cloned", "trained", "trained_blank"):
            report[name].pop("model")
    assert reports[0] == reports[1]


def processes_of(folder: Path) -> list[str]:
    """Processes that have the folder in their command line, or that such a one has started."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True).stdout.splitlines()
    rows = [line.split(None, 2) for line in listed]
    ours = {pid for pid, _, arguments in rows if str(folder) in arguments}
    return sorted(ours | {pid for pid, parent, _ in rows if parent in ours})


# Not SIGKILL at 1/4: a child that has not got as far as to follow its parent cannot know that it died.
@pytest.mark.parametrize(
    ("number", "sign"),
    [
        *((number, sign) for number in (signal.SIGINT, signal.SIGTERM) for sign in ("1/4", "2/4", "cloning")),
        *((signal.SIGKILL, sign) for sign in ("2/4", "cloning")),
    ],
)
def test_an_interrupted_demo_leaves_no_process_behind(tmp_path: Path, number: int, sign: str) -> None:
    folder = tmp_path / "demo"
    demo = subprocess.Popen(
        [*COMMAND, "--run", str(folder)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    output = present(demo.stdout)
    for line in output:
        if sign in line:
            break
    time.sleep(0.2)
    if number is signal.SIGINT:
        os.killpg(demo.pid, number)  # as Ctrl-C does
    else:
        demo.send_signal(number)
    status = demo.wait(30)
    output.close()
    assert status == (-signal.SIGKILL if number is signal.SIGKILL else 130)
    deadline = time.monotonic() + 60
    while left := processes_of(folder):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def test_the_tiny_model_trains_in_an_env_of_choice(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    settings = ["clone.updates=2", "envs.0.slots=8", "rollout_steps=2", "critic.warmup_updates=1"]
    command = [
        sys.executable,
        "-m",
        "demo.train",
        "--env",
        "gym_cards/EZPoints",
        "--updates",
        "2",
        "--run",
        str(folder),
    ]
    done = subprocess.run([*command, *settings], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 2
    assert (folder / "checkpoints" / "000002" / "manifest.json").exists()
    assert processes_of(folder) == []
