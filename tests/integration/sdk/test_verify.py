"""Verification of evaluations that were changed in one place, on a real env server."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
import pytest
from overworld import Fleet, Reset
from overworld.authoring.env import Pixels
from overworld.evaluation.conversation import Recipe
from overworld.evaluation.evaluate import evaluate
from overworld.evaluation.folder import EPISODES, HEADER, REPORT, RUN, SEAL
from overworld.evaluation.verification import Status, Verification, verify
from overworld.host.process import ServerProcess

from tests.integration.sdk.test_evaluate import Scripted, act, seeds

Lines = list[dict[str, Any]]


def noisy(text: str, pixels: list[Pixels], seed: int) -> str:
    replies = ("hm", act("fly"), act("up"), act("up"), act("down"), act("down"))
    return act("raise") if seed >> 24 & 31 == 0 else replies[(seed >> 20) % len(replies)]


@pytest.fixture(scope="module", params=[False, True], ids=["frames", "blank frames"])
def kept(request: pytest.FixtureRequest, toy_server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation with wins, losses, limits of time, skipped turns and failures."""
    folder = tmp_path_factory.mktemp("kept") / "eval"
    options = {"max_turns": 12, "second_image": True, "size": 8}
    with Fleet([toy_server.address], "toy/Count", 8, options=options, fallback_reward=-0.25) as fleet:
        tasks = [*seeds(*range(16)), Reset(7, "four", 2, ("up", None))]
        report, _ = evaluate(
            Scripted(noisy), fleet, tasks, recipe=Recipe(), blank_frames=request.param, keep=folder
        )  # fmt: skip
    assert set(report.ends) == {"TASK", "RULE", "TIME_LIMIT", "ERROR"}
    assert report.invalid_replies > 0
    return folder


def check(folder: Path, server: ServerProcess) -> Verification:
    return verify(folder, [server.address], slots=8, timeout=5.0)


def read(folder: Path) -> Lines:
    return [json.loads(line) for line in (folder / EPISODES).read_text().splitlines()]


def write(folder: Path, episodes: Lines) -> None:
    lines = (json.dumps(one, sort_keys=True, ensure_ascii=False, separators=(",", ":")) + "\n" for one in episodes)
    (folder / EPISODES).write_text("".join(lines))


def seal(folder: Path) -> None:
    """What anybody can do: sha256sum."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SEAL)
    sums = (f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder)}\n" for path in files)
    (folder / SEAL).write_text("".join(sums))


def won(episodes: Lines) -> int:
    """The number of an episode that was won and has three turns or more."""
    return next(number for number, one in enumerate(episodes) if one.get("success") and len(one["turns"]) > 2)


def in_turn(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], int]:
    """Changes turn 1 of an episode that was won."""

    def changed(folder: Path) -> int:
        episodes = read(folder)
        number = won(episodes)
        change(episodes[number]["turns"][1])
        write(folder, episodes)
        return number

    return changed


def in_episode(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], int]:
    def changed(folder: Path) -> int:
        episodes = read(folder)
        number = won(episodes)
        change(episodes[number])
        write(folder, episodes)
        return number

    return changed


def flip(name: str) -> str:
    """A hash with one bit changed."""
    return f"{int(name, 16) ^ 1:016x}"


def flip_frame(turn: dict[str, Any]) -> None:
    turn["observation"]["parts"][0]["xxh64"] = flip(turn["observation"]["parts"][0]["xxh64"])


def other_frame(folder: Path) -> int:
    """A turn names another picture that is there."""
    episodes = read(folder)
    number = won(episodes)
    first, second = (episodes[number]["turns"][turn]["observation"]["parts"][0] for turn in (0, 1))
    assert first["xxh64"] != second["xxh64"]
    second["xxh64"] = first["xxh64"]
    write(folder, episodes)
    return number


def other_reply(turn: dict[str, Any]) -> None:
    turn["reply"] = act("down") if turn.get("action") != "down" else act("up")


def other_action(turn: dict[str, Any]) -> None:
    """In all places where it is recorded."""
    other_reply(turn)
    turn["action"] = turn["executed"] = json.loads(turn["reply"])["action"]
    turn |= {"thoughts": "hm", "outcome": "executed"}


def break_off(episode: dict[str, Any]) -> None:
    for name in ("end", "final", "success"):
        episode.pop(name)
    episode["error"] = "ENV_ERROR: RuntimeError: boom"
    episode["turns"][-1] |= {"outcome": "failed", "reward": 0.0, "metrics": {}}
    episode["turns"][-1].pop("executed")


def swap(folder: Path) -> int:
    """The turns of two tasks."""
    episodes = read(folder)
    number = won(episodes)
    other = next(index for index, one in enumerate(episodes) if one.get("end") == "RULE")
    for name in ("seed", "split", "task", "prefix"):
        one, two = episodes[number].pop(name, None), episodes[other].pop(name, None)
        episodes[number] |= {} if two is None else {name: two}
        episodes[other] |= {} if one is None else {name: one}
    write(folder, episodes)
    return min(number, other)


def repaint(folder: Path) -> int:
    """A picture that is not the one that its name says."""
    episodes = read(folder)
    name = episodes[0]["turns"][0]["observation"]["parts"][0]["xxh64"]
    path = folder / "frames" / f"{name}.png"
    pixels = np.asarray(PIL.Image.open(path)).copy()
    pixels[0, 0, 0] ^= 1
    PIL.Image.fromarray(pixels).save(path, "PNG")
    return 0


def figure(name: str, value: Any) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        report = json.loads((folder / REPORT).read_text())
        *sections, last = name.split(".")
        fields = report
        for section in sections:
            fields = fields[section]
        assert fields[last] != value
        fields[last] = value
        (folder / REPORT).write_text(json.dumps(report, sort_keys=True, indent=1) + "\n")

    return changed


def header(name: str, value: Any) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        fields = json.loads((folder / HEADER).read_text())
        assert fields[name] != value
        fields[name] = value
        (folder / HEADER).write_text(json.dumps(fields, sort_keys=True, indent=1) + "\n")

    return changed


class Change(NamedTuple):
    """A change, what the difference says where it is found in the sealed folder, and in which turn."""

    make: Callable[[Path], int | None]
    says: str
    turn: int | None = None


FOUND_BY_REPLAY = {
    "a bit of a frame's hash": Change(in_turn(flip_frame), "frames/", 1),
    "another frame": Change(other_frame, "observation.parts.0", 1),
    "a text that was shown": Change(
        in_turn(lambda turn: turn["observation"]["parts"].__setitem__(1, "count 9")), "observation.parts.1", 1
    ),
    "a tensor": Change(
        in_turn(lambda turn: turn["observation"]["tensors"]["count"].update(data="CQAAAAAAAAA=")), "tensors", 1
    ),
    "a reward": Change(in_turn(lambda turn: turn.update(reward=turn["reward"] + 2**-40)), "reward", 1),
    "a sub-score": Change(in_turn(lambda turn: turn["metrics"].update(count=7.0)), "metrics", 1),
    "an action": Change(in_turn(lambda turn: turn.update(action="private")), "reply", 1),
    "a reply": Change(in_turn(other_reply), "reply", 1),
    "an action and its reply": Change(in_turn(other_action), "", 1),
    "what was executed": Change(in_turn(lambda turn: turn.update(executed="private")), "executed", 1),
    "an action that the server refuses": Change(in_turn(lambda turn: turn.update(action=4_000_000_000)), "reply", 1),
    "who acted": Change(in_turn(lambda turn: turn.update(actor="person")), "actor", 1),
    "what the agent was shown": Change(in_turn(lambda turn: turn.update(shown=["count 2"])), "shown", 1),
    "the weights of one reply": Change(in_turn(lambda turn: turn.update(fingerprint="others")), "fingerprint", 1),
    "a dropped turn": Change(in_episode(lambda one: one["turns"].pop(1)), "", 1),
    "a repeated turn": Change(in_episode(lambda one: one["turns"].insert(1, one["turns"][1])), ""),
    "the end": Change(in_episode(lambda one: one.update(end="RULE")), "end"),
    "the success": Change(in_episode(lambda one: one.pop("success")), "success"),
    "a failure instead of an end": Change(in_episode(break_off), "error"),
    "the seed": Change(in_episode(lambda one: one.update(seed=one["seed"] + 100)), "observation.parts.0", 0),
    "a task that does not exist": Change(in_episode(lambda one: one.update(split="four", task=9)), "reset", 0),
    "a prefix": Change(in_episode(lambda one: one.update(prefix=["up"])), "", 0),
    "swapped tasks": Change(swap, "observation.parts.0", 0),
    "a picture": Change(repaint, "frames/", 0),
}
FIGURES = {
    "the mean return": figure("mean_return", 3.0),
    "an interval": figure("success.low", 0.5),
    "an integer for a float": figure("temperature", False),
    "the ends": figure("ends.TASK", 17),
    "the model": figure("model", "another"),
    "the temperature": header("temperature", 1.0),
    "a new figure": lambda folder: (folder / REPORT).write_text(
        (folder / REPORT).read_text().replace("{", '{\n "accuracy": 1.0,', 1)
    ),
}
FIGURES["the temperature"] = header("recipe", {"history": 2, "reply": "thoughts+action", "turns_left": False})
UNSEALED = {
    "the address": lambda folder: (folder / RUN).write_text((folder / RUN).read_text().replace("nowhere", "mars")),
    "the versions": header("versions", {"overworld": "9.9"}),
    "a header that is none": lambda folder: (folder / HEADER).write_text("{}"),
    "an episode less": lambda folder: write(folder, read(folder)[:-1]),
    "the order": lambda folder: write(folder, read(folder)[::-1]),
    "a file more": lambda folder: (folder / "frames" / "0123456789abcdef.png").write_bytes(b""),
    "a picture less": lambda folder: next((folder / "frames").iterdir()).unlink(),
    "a folder more": lambda folder: (folder / "more").mkdir(),
    "a line of the seal": lambda folder: (folder / SEAL).write_text((folder / SEAL).read_text().replace("0", "1", 1)),
    "a torn seal": lambda folder: (folder / SEAL).write_text((folder / SEAL).read_text()[:-5]),
}


@pytest.fixture
def copy(kept: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(kept, tmp_path / "eval"))


def test_an_untouched_folder_is_verified(kept: Path, toy_server: ServerProcess) -> None:
    found = check(kept, toy_server)
    assert (found.status, found.differences, found.unchecked) == (Status.VERIFIED, [], "")
    assert found.episodes == found.replayed == 17
    pictures = [part for one in read(kept) for turn in one["turns"] for part in turn["observation"]["parts"]]
    pictures += [part for one in read(kept) for part in one.get("final", {}).get("parts", ())]
    assert found.frames_confirmed == sum(isinstance(part, dict) for part in pictures) > 100
    assert found.frames_not_comparable == 0
    assert found.seal == hashlib.sha256((kept / SEAL).read_bytes()).hexdigest()


def test_the_seal_is_what_sha256sum_makes(copy: Path, toy_server: ServerProcess) -> None:
    before = (copy / SEAL).read_bytes()
    seal(copy)
    assert (copy / SEAL).read_bytes() == before


@pytest.mark.parametrize("change", [*FOUND_BY_REPLAY.values()], ids=FOUND_BY_REPLAY.keys())
def test_a_change_is_found_though_the_folder_was_sealed_again(
    copy: Path, toy_server: ServerProcess, change: Change
) -> None:
    number = change.make(copy)
    assert any(one.field == "SHA-256" for one in check(copy, toy_server).differences)
    seal(copy)
    found = check(copy, toy_server)
    assert found.status == Status.DIFFERS
    assert found.unchecked == ""
    assert not any(one.field == "SHA-256" for one in found.differences)
    first = next(one for one in found.differences if one.episode == number and change.says in one.field)
    assert change.turn in (None, first.turn)
    others = [one.episode for one in found.differences if one.episode not in (None, number)]
    assert len(set(others)) <= (1 if change.make is swap else 0)


@pytest.mark.parametrize("change", [*FIGURES.values()], ids=FIGURES.keys())
def test_a_changed_figure_is_found_though_the_folder_was_sealed_again(
    copy: Path, toy_server: ServerProcess, change: Callable[[Path], Any]
) -> None:
    change(copy)
    assert check(copy, toy_server).status == Status.DIFFERS
    seal(copy)
    found = check(copy, toy_server)
    assert found.status == Status.DIFFERS
    assert {one.file for one in found.differences} == {REPORT}


@pytest.mark.parametrize("change", [*UNSEALED.values()], ids=UNSEALED.keys())
def test_any_change_of_a_sealed_folder_is_found(
    copy: Path, toy_server: ServerProcess, change: Callable[[Path], Any]
) -> None:
    change(copy)
    assert check(copy, toy_server).status == Status.DIFFERS
