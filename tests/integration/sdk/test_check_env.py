"""`overworld check module:Class` finds what authors of envs get wrong, and says on which of their lines."""

from __future__ import annotations

import random
import textwrap
from pathlib import Path

import pytest
from overworld.check.env_class import check_env
from overworld.commands.check import main

GOOD = '''
    import random
    import numpy as np
    from overworld import ActionSpec, End, Env, EnvSpec, Expert, Image, Observation, Transition

    class Lights(Env):
        """Two lights; both on wins."""

        spec = EnvSpec(
            id="lights/Two", task="Switch both lights on.", success="Both are on.",
            action=ActionSpec(("left", "right")), reward_min=0.0, reward_max=1.0, has_expert=True,
        )

        def reset(self, seed, split, task):
            self._on = [random.Random(seed).random() < 0.5, False]
            return self._look()

        def step(self, action):
            light = ("left", "right").index(action)
            self._on[light] = not self._on[light]
            won = all(self._on)
            return Transition(self._look(), float(won), End.TASK if won else None, True if won else None)

        def expert(self):
            return Expert("left" if not self._on[0] else "right", "It is off.")

        def _look(self):
            pixels = np.zeros((4, 8, 3), np.uint8)
            pixels[:, :4] = 255 * self._on[0]
            pixels[:, 4:] = 255 * self._on[1]
            return Observation((Image("lights", pixels), f"{sum(self._on)} lights are on"))
'''

FAULTS = {
    "a tuple instead of a Transition": (
        "P1",
        "return Transition(self._look(), float(won), End.TASK if won else None, True if won else None)",
        "return self._look(), float(won), won, False, {}",
        "lights.py:21",
        "a Transition",
    ),
    "nothing instead of an Observation": (
        "P1",
        "return self._look()\n\n        def step",
        "self._look()\n\n        def step",
        "lights.py:15",
        "an Observation",
    ),
    "an exception": (
        "P1",
        'light = ("left", "right").index(action)',
        'light = {"left": 0}[action]',
        "lights.py:18",
        "KeyError: 'right'",
    ),
    "a list of parts": ("P1", 'f"{sum(self._on)} lights are on"))', "7))", "lights.py:", "a part is a int: 7"),
    "success missing": ("P1", "True if won else None)", "None)", "lights.py:21", "success goes with an end"),
    "a reward outside of its bounds": ("P2", "float(won)", "5.0 * won", "lights.py:21", "a reward of 5"),
    "an action of no vocabulary": (
        "P2",
        'lights are on"))',
        'lights are on"), ("left", "right", "both"))',
        "lights.py:",
        "'both' is admissible",
    ),
    "two images of one name": (
        "P2",
        'Image("lights", pixels), ',
        'Image("lights", pixels), Image("lights", pixels), ',
        "lights.py:",
        "images have the names",
    ),
    "an expert of another game": ("P2", 'Expert("left" if', 'Expert("up" if', "lights.py:24", "it advises 'up'"),
    "an end of the host": ("P2", "End.TASK if won", "End.TIME_LIMIT if won", "lights.py:21", "TIME_LIMIT"),
    "a task without words": ("P2", 'task="Switch both lights on."', 'task=""', "lights.py:5", "task is empty"),
    "a seed that is ignored": (
        "P4",
        "random.Random(seed).random()",
        "random.random()",
        "lights.py:15",
        "a global random generator",
    ),
    "a tensor without dtype": (
        "P1",
        'lights are on"))',
        'lights are on"), (), {"on": self._on})',
        "lights.py:",
        "the tensor 'on'",
    ),
    "a reset that remembers": (
        "P3",
        "self._on = [",
        'self._n = getattr(self, "_n", 0) + (seed > 1); self._on = [self._n > 0 and ',
        "lights.py:15",
        "after other episodes",
    ),
    "instances that share": ("P3", "self._on = [", "Lights._on = [", "lights.py:", "disturb each other"),
    "the order of a set": (
        "P4",
        'f"{sum(self._on)} lights are on"',
        'f"{[name for name in set(map(str, range(50)))]}"',
        "lights.py:15",
        "another reset",
    ),
    "a step that hangs": (
        "P1",
        "won = all(self._on)",
        "won = all(self._on)\n            while True: pass",
        "lights.py:21",
        "did not return within",
    ),
}


def write(folder: Path, text: str) -> None:
    (folder / "lights.py").write_text(textwrap.dedent(text).lstrip("\n"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import sys

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.delitem(sys.modules, "lights", raising=False)
    return tmp_path


def test_nothing_is_found_in_a_good_env(folder: Path) -> None:
    write(folder, GOOD)
    state = random.getstate()
    report = check_env("lights:Lights")
    random.setstate(state)
    assert report.findings == []
    assert report.held == {"P1", "P2", "P3", "P4"}


@pytest.mark.parametrize("fault", FAULTS)
def test_mistakes_are_found_with_their_line(fault: str, folder: Path) -> None:
    rule, right, wrong, where, came = FAULTS[fault]
    assert right in textwrap.dedent(GOOD) or right in GOOD
    write(folder, GOOD.replace(right, wrong))
    report = check_env("lights:Lights", timeout=0.5)
    assert rule in report.broken
    found = [finding for finding in report.findings if finding.rule == rule]
    assert any(finding.check.startswith(where) for finding in found), found
    assert any(came in finding.came + finding.expected for finding in found), found


def test_the_command_prints_the_line_and_says_how_it_ended(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(folder, GOOD)
    assert main(["lights:Lights"]) == 0
    assert "4 of 4 rules hold: conforms" in capsys.readouterr().out
    assert main(["lights:Missing"]) == 2
    assert "lights:Missing" in capsys.readouterr().err
    assert main(["nowhere:Env"]) == 2
    assert "No module named 'nowhere'" in capsys.readouterr().err
