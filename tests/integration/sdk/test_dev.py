"""`overworld dev`: good changes are served, broken ones are shown, and clients are told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from overworld import Session, server_info
from overworld.errors import OverworldError
from overworld.service.process import ServiceProcess
from overworld.service.watched_folder import WatchedFolder

ENV = """
from overworld import ActionSpec, End, Env, EnvSpec, Observation, Transition

class Bell(Env):
    spec = EnvSpec(id="bell/Ring", task="Ring the bell.", success="It rang.", action=ActionSpec(("ring", "wait")))

    def reset(self, seed, split, task):
        return Observation(("A bell.",))

    def step(self, action):
        if action == "wait":
            return Transition(Observation(("Silence.",)), 0.0)
        return Transition(Observation(("Ding.",)), 1.0, End.TASK, True)
"""


class Dev(ServiceProcess):
    """`overworld dev bell:Bell` in a folder, and what it has said."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.log = folder.parent / "dev.log"
        command = ("dev", "bell:Bell", "--port=0", "--workers=1", "--slots=4", *arguments)
        super().__init__("overworld", *command, log=self.log)

    def has_said(self, text: str) -> bool:
        return text in self.log.read_text()

    def task(self) -> str:
        """What the server that answers now says of its env; empty while there is none."""
        try:
            return server_info(self.address).envs["bell/Ring"].task
        except OverworldError:
            return ""


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "bell.py").write_text(ENV)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def dev(project: Path) -> Iterator[Dev]:
    with Dev(project, "--grace=0.5") as running:
        yield running


def test_what_is_changed_is_served_and_what_is_broken_is_shown(project: Path, dev: Dev) -> None:
    with Session(dev.address, "bell/Ring", 1) as session:
        session.reset([0])
        for broken, said in (("def (:", "bell.py"), ("def (", "SyntaxError"), ("exit(3)", "with status 3")):
            (project / "bell.py").write_text(f"{ENV}\n{broken}\n")
            until(partial(dev.has_said, said))
        [result] = session.step(["wait"])  # the code before is still served
        assert (result.error, result.observation.text) == (None, "Silence.")
        (project / "bell.py").write_text(ENV.replace("Ring the bell", "Ring it").replace("Silence", "Hush"))
        until(lambda: session.step(["wait"]) and session.draining)  # it is told, as by any server that ends
        until(lambda: dev.task() == "Ring it.")
        [result] = session.step(["wait"])  # its episode cannot be continued: a replay does not come out the same
        assert result.error
        assert result.error.reason == "REBUILD_MISMATCH"
        [result] = session.reset([0])
        assert result.error is None


def test_an_episode_goes_on_if_the_change_does_not_concern_it(project: Path, dev: Dev) -> None:
    with Session(dev.address, "bell/Ring", 1) as session:
        session.reset([0])
        session.step(["wait"])
        (project / "README.md").write_text("A bell.")
        until(lambda: session.step(["wait"]) and session.draining)
        until(lambda: session.step(["wait"]) and not session.draining)
        [result] = session.step(["ring"])
        assert result.success


def test_a_project_that_is_broken_from_the_start_is_waited_for(project: Path) -> None:
    (project / "bell.py").write_text(ENV + "\nimport nowhere\n")

    def put_right() -> None:
        until(lambda: "nowhere" in (project.parent / "dev.log").read_text())
        (project / "bell.py").write_text(ENV)

    (project.parent / "dev.log").touch()
    author = threading.Thread(target=put_right)
    author.start()
    with Dev(project) as running:  # starts when it listens
        author.join()
        assert running.task() == "Ring the bell."


def test_which_files_are_watched(tmp_path: Path) -> None:
    for name in ("env.py", "data/map.txt", "runs/log", "__pycache__/env.pyc", ".git/index", "env.py~"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("first")
    watched = WatchedFolder(tmp_path)
    assert watched.changed() == []
    for path in tmp_path.rglob("*"):
        if path.is_file():
            path.write_text("second, longer")
    assert watched.changed() == []  # it may still be written to
    assert watched.changed() == [Path("data/map.txt"), Path("env.py")]
    assert watched.changed() == []
    (tmp_path / "env.py").unlink()
    (tmp_path / "new.py").touch()
    watched.changed()
    assert watched.changed() == [Path("env.py"), Path("new.py")]
